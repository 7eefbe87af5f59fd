"""The life cycle as a whole: that it is complete, and that the documentation shows it."""

from __future__ import annotations

import ast
import inspect
import uuid
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.hosts import lifecycle
from pkengine.engine.hosts.lifecycle import ABSENT, MONITORED, TRANSITIONS, Trigger
from pkengine.engine.model import Host, HostStatus
from pkengine.errors import Conflict
from pkengine.keys import Pin
from tests.engine.hosts.keys import pinned

#: Named by oVirt, and not used by this engine.
UNUSED = {HostStatus.REBOOT, HostStatus.DOWN, HostStatus.ERROR}
USED = set(HostStatus) - UNUSED
REQUESTS = (
    Trigger.INSTALL,
    Trigger.APPROVE,
    Trigger.ACTIVATE,
    Trigger.DEACTIVATE,
    Trigger.REMOVE,
)


def host(status: HostStatus) -> Host:
    return Host(
        id=uuid.uuid4(),
        name="h1",
        address="h1",
        cluster_id=uuid.uuid4(),
        status=status,
        keys=pinned(Pin(b"\x01" * 32)),
    )


class TableTests(SynchronousTestCase):
    def test_no_line_of_the_table_hides_another(self) -> None:
        module = ast.parse(inspect.getsource(lifecycle))
        (table,) = [
            node.value
            for node in module.body
            if isinstance(node, ast.AnnAssign) and node.target.id == "TRANSITIONS"
        ]
        self.assertEqual(len(table.keys), len(TRANSITIONS))

    def test_every_status_can_be_reached_from_nothing_and_left_to_nothing(self) -> None:
        forward = {ABSENT}
        backward = {ABSENT}
        for _ in USED:
            forward |= {new for (old, _), new in TRANSITIONS.items() if old in forward}
            backward |= {old for (old, _), new in TRANSITIONS.items() if new in backward}
        self.assertEqual(forward, USED | {ABSENT})
        self.assertEqual(backward, USED | {ABSENT})

    def test_every_trigger_moves_something(self) -> None:
        self.assertEqual({trigger for _, trigger in TRANSITIONS}, set(Trigger))

    def test_each_watched_status_has_an_end_to_losing_the_host_and_a_way_to_be_up(self) -> None:
        for status in MONITORED:
            answered = TRANSITIONS.get((status, Trigger.ANSWERED), status)
            self.assertEqual(answered, HostStatus.UP)
            lost = TRANSITIONS.get((status, Trigger.LOST), status)
            after = TRANSITIONS.get((lost, Trigger.GRACE_ENDED), lost)
            self.assertEqual(after, HostStatus.NON_RESPONSIVE)

    def test_no_status_that_an_engine_leaves_behind_waits_for_work_that_is_gone(self) -> None:
        waits_for_people = {
            HostStatus.MAINTENANCE,
            HostStatus.INSTALL_FAILED,
            HostStatus.PENDING_APPROVAL,
        }
        for status in USED - MONITORED - waits_for_people:
            self.assertIn((status, Trigger.ENGINE_STARTED), TRANSITIONS)

    def test_every_request_in_every_status_is_granted_or_refused_with_a_sentence(self) -> None:
        for status in HostStatus:
            for trigger in REQUESTS:
                if lifecycle.permits(status, trigger):
                    continue
                with self.assertRaises(Conflict) as caught:
                    lifecycle.require(host(status), trigger)
                said = str(caught.exception)
                self.assertRegex(said, r"^Cannot \w.* Host h1\. .*\.$")

    def test_requests_are_granted_where_ovirt_grants_them(self) -> None:
        granted = {
            trigger: {status for status in USED if lifecycle.permits(status, trigger)}
            for trigger in (Trigger.INSTALL, Trigger.REMOVE)
        }
        status = HostStatus
        common = {
            status.MAINTENANCE,
            status.INSTALL_FAILED,
            status.NON_RESPONSIVE,
            status.NON_OPERATIONAL,
        }
        self.assertEqual(granted[Trigger.INSTALL], common)
        removable = common | {status.UNASSIGNED, status.PENDING_APPROVAL}
        self.assertEqual(granted[Trigger.REMOVE], removable)

    def test_installing_takes_all_trust_away(self) -> None:
        moved = lifecycle.advance(host(HostStatus.MAINTENANCE), Trigger.INSTALL)
        self.assertEqual((moved.status, moved.keys), (HostStatus.INSTALLING, ()))

    def test_leaving_a_status_leaves_its_reason_behind(self) -> None:
        moved = lifecycle.advance(host(HostStatus.UP), Trigger.LOST, detail="No route.")
        self.assertEqual(moved.status_detail, "No route.")
        self.assertEqual(lifecycle.advance(moved, Trigger.ANSWERED).status_detail, "")


class DiagramTests(SynchronousTestCase):
    def test_the_documentation_has_the_diagram_of_the_code(self) -> None:
        page = Path(__file__).parents[3] / "docs" / "engine.md"
        self.assertIn(
            lifecycle.mermaid(),
            page.read_text(),
            "docs/engine.md is out of date: paste what "
            "'python -m pkengine.engine.hosts.lifecycle' prints.",
        )
