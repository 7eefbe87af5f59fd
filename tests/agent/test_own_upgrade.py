"""What an agent does of its own replacement, with no process and in no time."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pkengine.agent.installation import Installation, find_installation
from pkengine.agent.own_steps import Step
from pkengine.agent.own_upgrade import OwnUpgrade
from pkengine.agent.state import StateFolder
from pkengine.channel.verbs import (
    MAX_PIECE,
    BeginUpgrade,
    ConfirmUpgrade,
    SendPiece,
    StartUpgrade,
    UpgradePlace,
)
from pkengine.errors import AgentError, ChannelClosed
from pkengine.on_host.trial_record import GIVEN_UP, KEPT, TRYING

OWN, OTHER = "a" * 64, "b" * 64
ARCHIVE = b"an archive"
REQUEST = BeginUpgrade(OTHER, len(ARCHIVE), hashlib.sha256(ARCHIVE).hexdigest())


class Threads:
    """Does at once what is to be done in a thread."""

    def callInThreadWithCallback(self, result: Any, work: Any) -> None:
        try:
            done = work()
        except Exception as error:
            result(False, Failure(error))
        else:
            result(True, done)


class Reactor(Clock):
    def getThreadPool(self) -> Threads:
        return Threads()

    def callFromThread(self, work: Any, *arguments: Any) -> None:
        work(*arguments)


class Steps:
    """Notes what is to be performed."""

    def __init__(self) -> None:
        self.performed: list[str] = []
        self.left: list[Step] = []
        self.refusal: AgentError | None = None

    async def perform(self, place: Installation, steps: list[Step], archive: Path | None) -> None:
        self.performed += [name for name, _, _ in steps]
        if self.refusal is not None:
            raise self.refusal

    async def leave(self, place: Installation, step: Step) -> None:
        self.left.append(step)


def channel(name: str) -> Any:
    return SimpleNamespace(peer_name=name, closed=Deferred())


class OwnUpgradeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = StateFolder(Path(self.mktemp()))
        self.state.directory.mkdir()
        self.reactor = Reactor()
        self.reactor.advance(time.time())
        self.steps = Steps()
        self.place = Installation(prefix=str(self.state.directory / "prefix"), service="twistd")
        self.upgrade = self.agent(OWN)
        self.record = self.upgrade._record
        self.engine = channel("engine")

    def agent(self, bundle: str) -> OwnUpgrade:
        return OwnUpgrade(
            self.reactor,
            self.state,
            bundle,
            "54321",
            steps=self.steps,  # type: ignore[arg-type]
            find=lambda *_: self.place,
        )

    def begin(self, by: Any = None) -> UpgradePlace:
        return self.now(self.upgrade.begin(REQUEST, by or self.engine))

    def now(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def refusal(self, work: Any) -> str:
        return str(self.failureResultOf(Deferred.fromCoroutine(work), AgentError).value)

    def try_it(self) -> None:
        self.begin()
        self.upgrade.send(SendPiece(0, ARCHIVE), self.engine)
        self.now(self.upgrade.check(self.engine))
        self.now(self.upgrade.start(StartUpgrade(None, 54321, 90.0), self.engine))

    def test_archive_is_checked_before_it_is_unpacked_and_unpacked_before_it_starts(self) -> None:
        place = self.begin()
        self.assertEqual((0, 54321, False), (place.received, place.port, place.is_installed))
        start = StartUpgrade(None, 54321, 90.0)
        self.assertIn("not checked", self.refusal(self.upgrade.start(start, self.engine)))
        self.upgrade.send(SendPiece(0, ARCHIVE[:3]), self.engine)
        self.assertIn("SHA-256", self.refusal(self.upgrade.check(self.engine)))
        self.assertEqual([], self.steps.performed)
        self.try_it()
        self.assertEqual(["upload", "check"], self.steps.performed)
        [(name, _, parameters)] = self.steps.left
        self.assertEqual(
            ("try", OTHER, 90.0), (name, parameters["bundle"], parameters["timeout_s"])
        )
        self.assertEqual(TRYING, self.upgrade.status().outcome)

    def test_version_that_does_not_load_is_not_started(self) -> None:
        self.begin()
        self.upgrade.send(SendPiece(0, ARCHIVE), self.engine)
        self.steps.refusal = AgentError("it does not load.")
        self.assertIn("does not load", self.refusal(self.upgrade.check(self.engine)))
        start = StartUpgrade(None, 54321, 90.0)
        self.assertIn("not checked", self.refusal(self.upgrade.start(start, self.engine)))

    def test_pieces_that_do_not_fit_are_refused(self) -> None:
        self.begin()
        for piece in (
            SendPiece(1, b"x"),
            SendPiece(0, b""),
            SendPiece(0, ARCHIVE + b"x"),
            SendPiece(0, b"x" * (MAX_PIECE + 1)),
        ):
            self.assertRaises(AgentError, self.upgrade.send, piece, self.engine)
        self.assertEqual(0, self.begin().received)

    def test_one_engine_waits_for_the_other_unless_that_has_gone(self) -> None:
        self.begin()
        other = channel("other")
        self.assertIn("engine is upgrading", self.refusal(self.upgrade.begin(REQUEST, other)))
        self.assertRaises(AgentError, self.upgrade.send, SendPiece(0, ARCHIVE), other)
        self.engine.closed.callback(ChannelClosed("It has gone."))
        self.begin(other)

    def test_upgrade_goes_on_where_the_connection_broke_off(self) -> None:
        self.begin()
        self.upgrade.send(SendPiece(0, ARCHIVE[:4]), self.engine)
        again = channel("engine")
        self.assertEqual(4, self.begin(again).received)
        another = BeginUpgrade(OTHER, 5, "c" * 64)
        self.assertEqual(0, self.now(self.upgrade.begin(another, again)).received)

    def test_nothing_begins_while_a_version_is_on_trial(self) -> None:
        with self.record.watching():
            self.assertIn("on trial", self.refusal(self.upgrade.begin(REQUEST, self.engine)))

    def test_version_is_confirmed_by_itself_alone_and_answers_when_it_is_in_use(self) -> None:
        self.try_it()
        new, confirm = self.agent(OTHER), ConfirmUpgrade(OTHER)
        self.assertIn("not run on trial", self.refusal(self.upgrade.confirm(confirm, self.engine)))
        self.assertIn("has ended", self.refusal(new.confirm(confirm, self.engine)))
        with self.record.watching():
            answer = Deferred.fromCoroutine(new.confirm(confirm, self.engine))
            self.assertNoResult(answer)
            self.assertTrue(self.record.is_confirmed(OTHER))
            self.record.note(OTHER, KEPT)
            self.reactor.advance(0.1)
            self.assertIsNone(self.successResultOf(answer))

    def test_trial_that_nobody_watches_is_given_up_when_its_time_is_over(self) -> None:
        self.try_it()
        new = self.agent(OTHER)
        new.begin_watch()
        self.reactor.advance(90.0)
        self.assertEqual(["try"], [name for name, _, _ in self.steps.left])
        self.reactor.advance(120.0)
        self.assertEqual(["try", "give_up"], [name for name, _, _ in self.steps.left])

    def test_trial_that_has_ended_well_is_left_alone(self) -> None:
        self.try_it()
        new = self.agent(OTHER)
        new.begin_watch()
        self.record.note(OTHER, KEPT)
        self.reactor.advance(300.0)
        self.assertEqual(["try"], [name for name, _, _ in self.steps.left])
        new.stop()

    def test_trial_that_a_restart_of_the_host_broke_off_is_over(self) -> None:
        self.try_it()
        self.agent(OWN).begin_watch()
        status = self.upgrade.status()
        self.assertEqual((OTHER, GIVEN_UP), (status.bundle, status.outcome))
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_note_that_was_damaged_is_none(self) -> None:
        self.record.prepare()
        (self.state.directory / "upgrade/trial").write_text("{")
        self.agent(OWN).begin_watch()
        self.assertEqual("", self.upgrade.status().outcome)

    def test_agent_that_an_administrator_starts_by_hand_is_left_to_them(self) -> None:
        with self.assertRaises(AgentError) as caught:
            find_installation(self.state.directory, "")
        self.assertIn("upgrade its package on the host", str(caught.exception))
