"""Hosts go into maintenance, come back, and are removed."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pkengine.channel.verbs import KEYS_REMOVE
from pkengine.engine.model import HostStatus
from pkengine.errors import (
    BadRequest,
    ChannelError,
    Conflict,
    DeploymentError,
    HostUnreachable,
    NotFound,
)
from tests.engine.hosts.fakes import ADMIN, AGENT_PIN, OWN_PIN, HostsTestCase


class MaintenanceTests(HostsTestCase):
    def test_maintenance_closes_the_connection_and_says_why(self) -> None:
        host = self.add()
        self.now(self.hosts.maintenance.deactivate(host.id, ADMIN, reason="new fan"))
        host = self.now(self.hosts.get(host.id))
        self.assertEqual((host.status, host.status_detail), (HostStatus.MAINTENANCE, "new fan"))
        self.assertFalse(self.access.channels[0].is_open)
        self.assertEqual(self.log()[-1][0], 15)
        self.assertIn("(new fan)", self.log()[-1][1])

    def test_maintenance_waits_for_the_end_of_the_connection(self) -> None:
        host = self.add()
        channel = self.access.channels[0]
        channel.close = lambda: None
        self.now(self.hosts.maintenance.deactivate(host.id, ADMIN))
        self.assertEqual(self.status(host.id), HostStatus.PREPARING_FOR_MAINTENANCE)
        self.clock.advance(self.patience.close_timeout_s)
        self.assertEqual(self.status(host.id), HostStatus.MAINTENANCE)
        self.assertFalse(channel.is_open)

    def test_an_activated_host_is_up_when_its_agent_answers(self) -> None:
        host = self.add(activate=False)
        self.access.connect_outcome = Deferred()
        self.now(self.hosts.maintenance.activate(host.id, ADMIN))
        self.assertEqual(self.status(host.id), HostStatus.UNASSIGNED)
        self.access.connect_outcome.callback(None)
        self.assertEqual(self.status(host.id), HostStatus.UP)

    def test_a_host_without_a_trusted_key_is_not_activated(self) -> None:
        self.access.deploy_outcome = DeploymentError("probe", "No Python.")
        host = self.add()
        self.now(self.hosts.maintenance.deactivate(host.id, ADMIN))
        self.assertIn(
            "install it first",
            self.refusal(self.hosts.maintenance.activate(host.id, ADMIN), Conflict),
        )

    def test_what_is_already_so_is_refused(self) -> None:
        host = self.add()
        self.assertIn(
            "already active",
            self.refusal(self.hosts.maintenance.activate(host.id, ADMIN), Conflict),
        )
        self.now(self.hosts.maintenance.deactivate(host.id, ADMIN))
        said = self.refusal(self.hosts.maintenance.deactivate(host.id, ADMIN), Conflict)
        self.assertIn("already in Maintenance mode", said)


class RemoveTests(HostsTestCase):
    def test_a_removed_host_drops_the_engines_key_and_is_trusted_no_more(self) -> None:
        host = self.add(activate=False)
        self.now(self.hosts.maintenance.remove(host.id, ADMIN))
        self.assertEqual(self.access.channels[0].calls, [KEYS_REMOVE])
        self.assertIsNone(self.trust.lookup(AGENT_PIN))
        self.refusal(self.hosts.get(host.id), NotFound)
        code, text = self.log()[-1]
        self.assertEqual(code, 44)
        self.assertIn("no longer", text)

    def test_a_host_that_cannot_be_reached_is_removed_and_the_event_says_what_is_left(
        self,
    ) -> None:
        host = self.add(activate=False)
        self.access.connect_outcome = ChannelError("No route.")
        self.now(self.hosts.maintenance.remove(host.id, ADMIN))
        self.assertIn(f"pkagent keys remove {OWN_PIN}", self.log()[-1][1])

    def test_a_silent_host_delays_its_removal_by_seconds_only(self) -> None:
        host = self.add(activate=False)
        self.access.connect_outcome = Deferred()
        removing = Deferred.fromCoroutine(self.hosts.maintenance.remove(host.id, ADMIN))
        self.assertNoResult(removing)
        self.clock.advance(5)
        self.successResultOf(removing)

    def test_uninstalling_logs_in_by_the_engines_key_and_leaves_nothing_there(self) -> None:
        host = self.add(activate=False)
        self.now(self.hosts.maintenance.remove(host.id, ADMIN, uninstall=True))
        self.assertEqual(self.access.logins[-1][2:], (None, True))
        self.assertEqual(self.access.undeployed, self.access.connections[-1:])
        self.assertFalse(self.access.connections[-1].is_open)
        self.assertEqual(self.access.dials, 0)
        self.refusal(self.hosts.get(host.id), NotFound)
        self.assertIn("were removed from it", self.log()[-1][1])

    def test_a_host_that_cannot_be_uninstalled_stays_known(self) -> None:
        host = self.add(activate=False)
        self.access.undeploy_outcome = DeploymentError("undeploy", "The disk is broken.")
        self.refusal(
            self.hosts.maintenance.remove(host.id, ADMIN, uninstall=True), DeploymentError
        )
        self.assertFalse(self.access.connections[-1].is_open)
        self.access.log_in_outcome = HostUnreachable("No answer.")
        self.refusal(
            self.hosts.maintenance.remove(host.id, ADMIN, uninstall=True), HostUnreachable
        )
        self.assertEqual(self.status(host.id), HostStatus.MAINTENANCE)
        self.refusal(
            self.hosts.maintenance.remove(host.id, ADMIN, uninstall=True, force=True), BadRequest
        )

    def test_force_asks_nobody(self) -> None:
        host = self.add(activate=False)
        self.now(self.hosts.maintenance.remove(host.id, ADMIN, force=True))
        self.assertEqual(self.access.dials, 0)

    def test_a_host_that_is_up_is_not_removed(self) -> None:
        host = self.add()
        said = self.refusal(self.hosts.maintenance.remove(host.id, ADMIN), Conflict)
        self.assertIn("please switch Host to Maintenance mode first", said)
        self.assertEqual(self.status(host.id), HostStatus.UP)

    def test_its_name_address_and_key_are_free_again(self) -> None:
        host = self.add(activate=False)
        self.now(self.hosts.maintenance.remove(host.id, ADMIN))
        self.assertEqual(self.status(self.add().id), HostStatus.UP)

    def test_its_events_remain(self) -> None:
        host = self.add(activate=False)
        self.now(self.hosts.maintenance.remove(host.id, ADMIN))
        events = self.now(self.events.list(host_id=host.id))
        self.assertEqual([event.code for event in events], [44, 504, 509, 42])
