"""When the agent dials: at once, again after growing pauses, and only what it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.agent.engine_dialler import HELD_S, LONGEST_PAUSE_S, REFRESH_S, EngineDialler
from pkengine.auth.peer import Authenticated, TrustedPeer
from pkengine.errors import AuthenticationError, ChannelClosed
from pkengine.keys import Pin

ENGINE = DialledEngine(
    url="wss://engine.example/pkengine/agent", mechanism="pin", server=str(Pin(b"s" * 32))
)


class FakeChannel:
    """A channel, as far as whoever holds it sees."""

    def __init__(self) -> None:
        self.closed: Deferred[ChannelClosed] = Deferred()
        self.peer_name = "engine-1"
        self.peer_address = IPv4Address("TCP", "192.0.2.1", 443)
        self.authenticated = Authenticated(TrustedPeer("engine-1", Pin(b"p" * 32)), "pin")
        self.asked: list[str] = []
        self.closes_orderly = True

    def end(self, reason: str = "It ended.") -> None:
        self.closed.callback(ChannelClosed(reason))

    def close(self) -> None:
        self.asked.append("close")
        if self.closes_orderly:
            self.end()

    def abort(self) -> None:
        self.asked.append("abort")
        self.end()


class DiallerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.engines = DialledEngines(Path(self.mktemp()))
        self.attempts: list[tuple[str, Deferred[Any]]] = []
        self.changes = 0
        self.connected = ConnectedEngines(self.clock, self.count_change)
        self.random = 1.0
        self.dialler = EngineDialler(
            self.clock,
            self.engines,
            self.connect,
            self.connected,
            uniform=lambda: self.random,
        )

    def count_change(self) -> None:
        self.changes += 1

    async def connect(self, name: str, engine: DialledEngine) -> Any:
        attempt: Deferred[Any] = Deferred()
        self.attempts.append((name, attempt))
        return await attempt

    def start(self) -> None:
        self.dialler.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        if self.dialler.running:
            stopping = self.dialler.stopService()
            self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def fail(self, error: Exception | None = None) -> None:  # type: ignore[override]
        self.attempts[-1][1].errback(error or ConnectError(string="refused"))

    def succeed(self) -> FakeChannel:
        channel = FakeChannel()
        self.attempts[-1][1].callback(channel)
        return channel

    def state(self) -> tuple[str, str]:
        [status] = self.dialler.status()
        return status.state, status.last_failure

    def seconds_until_the_next_attempt(self) -> float:
        before, begun = len(self.attempts), self.clock.seconds()
        while len(self.attempts) == before:
            self.clock.advance(0.25)
            self.assertLess(self.clock.seconds() - begun, 1000)
        return self.clock.seconds() - begun

    def test_an_engine_is_dialled_at_once_and_held(self) -> None:
        self.engines.put("engine-1", ENGINE)
        self.start()
        self.assertEqual(self.state(), ("dialling", ""))
        channel = self.succeed()
        self.assertEqual(self.state(), ("connected", ""))
        [connection] = self.connected.list()
        self.assertEqual((connection.name, connection.address), ("engine-1", "192.0.2.1:443"))
        self.clock.pump([60.0] * 10)
        self.assertEqual((len(self.attempts), channel.asked), (1, []))

    def test_a_channel_that_was_opened_elsewhere_takes_the_place_of_the_one_that_there_is(
        self,
    ) -> None:
        self.engines.put("engine-1", ENGINE)
        self.start()
        former, adopted = self.succeed(), FakeChannel()
        moved = DialledEngine(url="wss://moved.example", mechanism="sign", server=ENGINE.server)
        self.engines.put("engine-1", moved)
        self.dialler.adopt("engine-1", moved, adopted)  # type: ignore[arg-type]
        self.assertEqual((former.asked, self.state()), (["close"], ("connected", "")))
        self.assertTrue(self.dialler.holds(adopted))  # type: ignore[arg-type]
        self.assertFalse(self.dialler.holds(former))  # type: ignore[arg-type]
        self.dialler.look()
        self.clock.pump([REFRESH_S] * 10)
        self.assertEqual((len(self.attempts), adopted.asked), (1, []))
        adopted.end("It broke.")
        self.assertEqual(self.state(), ("waiting", "It broke."))
        self.seconds_until_the_next_attempt()

    def test_a_channel_may_be_the_first_of_its_engine(self) -> None:
        self.start()
        adopted = FakeChannel()
        self.engines.put("engine-1", ENGINE)
        self.dialler.adopt("engine-1", ENGINE, adopted)  # type: ignore[arg-type]
        self.dialler.look()
        self.assertEqual((self.attempts, self.state()), ([], ("connected", "")))
        self.engines.remove("engine-1")
        self.dialler.look()
        self.assertEqual((adopted.asked, self.dialler.status()), (["close"], []))

    def test_pauses_double_up_to_a_limit(self) -> None:
        self.engines.put("engine-1", ENGINE)
        self.start()
        pauses = []
        for _ in range(9):
            self.fail()
            pauses.append(self.seconds_until_the_next_attempt())
        self.assertEqual(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60])
        self.assertEqual(LONGEST_PAUSE_S, 60)
        self.fail()
        state, failure = self.state()
        self.assertEqual(state, "waiting")
        self.assertIn("refused", failure)

    def test_chance_makes_a_pause_up_to_half_as_long(self) -> None:
        self.engines.put("engine-1", ENGINE)
        self.start()
        self.random = 0.0
        self.fail(AuthenticationError("not trusted"))
        self.assertEqual(self.seconds_until_the_next_attempt(), 0.5)

    def test_a_connection_that_held_begins_anew_with_short_pauses(self) -> None:
        self.engines.put("engine-1", ENGINE)
        self.start()
        for _ in range(5):
            self.fail()
            self.seconds_until_the_next_attempt()
        channel = self.succeed()
        self.clock.advance(HELD_S)
        channel.end("The engine went away.")
        self.assertEqual(self.state(), ("waiting", "The engine went away."))
        self.assertEqual(self.connected.list(), [])
        self.assertEqual(self.seconds_until_the_next_attempt(), 1)

    def test_who_cuts_each_connection_is_dialled_ever_less(self) -> None:
        self.engines.put("engine-1", ENGINE)
        self.start()
        pauses = []
        for _ in range(4):
            self.succeed().end()
            pauses.append(self.seconds_until_the_next_attempt())
        self.assertEqual(pauses, [1, 2, 4, 8])

    def test_what_nobody_foresaw_is_logged_and_tried_again(self) -> None:
        self.engines.put("engine-1", ENGINE)
        self.start()
        self.fail(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.seconds_until_the_next_attempt(), 1)

    def test_engines_that_come_change_and_go_are_followed(self) -> None:
        self.start()
        self.assertEqual(self.dialler.status(), [])
        self.engines.put("engine-1", ENGINE)
        self.clock.advance(REFRESH_S)
        channel = self.succeed()
        other = DialledEngine(url=ENGINE.url, mechanism="sign", server="authority")
        self.engines.put("engine-2", other)
        self.clock.advance(REFRESH_S)
        self.assertEqual([name for name, _ in self.attempts], ["engine-1", "engine-2"])
        self.assertEqual(channel.asked, [])
        self.engines.put("engine-1", other)
        self.clock.advance(REFRESH_S)
        self.assertEqual(channel.asked, ["close"])
        self.assertEqual([name for name, _ in self.attempts][2:], ["engine-1"])
        self.assertTrue(self.engines.remove("engine-2"))
        self.assertFalse(self.engines.remove("engine-2"))
        self.clock.advance(REFRESH_S)
        self.assertEqual([status.name for status in self.dialler.status()], ["engine-1"])

    def test_a_broken_file_is_logged_and_harms_no_other_engine(self) -> None:
        self.engines.put("engine-1", ENGINE)
        broken = self.engines._directory / "broken.json"
        for content in (
            "{",
            "[]",
            '{"url": "x"}',
            '{"url": "wss://e", "mechanism": "tls", "server": "authority"}',
            '{"url": "http://e", "mechanism": "pin", "server": "authority"}',
            '{"url": "wss://e", "mechanism": "pin", "server": "me"}',
            '{"url": "wss://e", "mechanism": "pin", "server": "authority", "proxy": "ftp://x"}',
            '{"url": "wss://e", "mechanism": "pin", "server": "authority", "more": 1}',
        ):
            broken.write_text(content)
            broken.chmod(0o600)
            engines, errors = self.engines.all()
            self.assertEqual((list(engines), len(errors)), (["engine-1"], 1), content)
            self.assertIn("broken.json", str(errors[0]))
        broken.write_text("{}")
        broken.chmod(0o644)
        self.assertIn("chmod 600", str(self.engines.all()[1][0]))
        self.start()
        self.assertEqual(self.state()[0], "dialling")

    def test_a_stop_closes_in_order_and_then_not(self) -> None:
        self.engines.put("engine-1", ENGINE)
        self.start()
        channel = self.succeed()
        channel.closes_orderly = False
        stopping = self.dialler.stopService()
        self.assertNoResult(stopping)
        self.clock.advance(2.0)
        self.successResultOf(stopping)
        self.assertEqual(channel.asked, ["close", "abort"])

    def test_a_stop_ends_an_attempt_and_a_pause(self) -> None:
        self.engines.put("engine-1", ENGINE)
        self.engines.put("engine-2", ENGINE)
        self.start()
        self.fail()
        self.successResultOf(self.dialler.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
