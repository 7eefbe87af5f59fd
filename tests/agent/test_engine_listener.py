"""The port for engines is open when somebody needs it."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.agent.engine_listener import REFRESH_S, EngineListener, is_reached_by
from pkengine.agent.initialization import initialize
from pkengine.agent.state import StateFolder
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import Verbs
from pkengine.errors import AgentError
from pkengine.keys import KeyPair, Pin
from tests.agent.processes import connect_engine, pkagent, start_agent

AGENT = KeyPair.generate("agent")


class Reactor(MemoryReactorClock):
    """A reactor whose port may be taken."""

    is_taken = False

    def listenTCP(self, port, factory, backlog=50, interface=""):  # type: ignore[no-untyped-def]
        if self.is_taken:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        return super().listenTCP(port, factory, backlog, interface)


class DemandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.is_wanted = False
        self.changes = 0

    def listener(self, *, is_on_demand: bool = True) -> EngineListener:
        listener = EngineListener(
            self.reactor,
            TCP4ServerEndpoint(self.reactor, 54321),
            "54321",
            PinAuthenticator(AGENT, MemoryTrustStore()),
            Verbs(),
            ConnectedEngines(self.reactor, lambda: None),
            demand=(lambda: self.is_wanted) if is_on_demand else None,
            changed=self.count_change,
        )
        self.addCleanup(listener.stopService)
        return listener

    def count_change(self) -> None:
        self.changes += 1

    def start(self, listener: EngineListener) -> None:
        listener.privilegedStartService()
        listener.startService()

    def test_without_a_demand_it_listens_from_the_start(self) -> None:
        listener = self.listener(is_on_demand=False)
        self.start(listener)
        self.assertEqual(len(listener.addresses()), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        listener.look()
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.assertFalse(listener.is_on_demand)

    def test_it_follows_the_demand(self) -> None:
        listener = self.listener()
        self.start(listener)
        self.assertTrue(listener.is_on_demand)
        for is_wanted in (False, True, True, False, True):
            self.is_wanted = is_wanted
            self.reactor.advance(REFRESH_S)
            self.assertEqual(len(listener.addresses()), int(is_wanted))
        self.assertEqual(self.changes, 3)
        listener.stopService()
        self.assertEqual((listener.addresses(), self.reactor.getDelayedCalls()), ([], []))

    def test_a_port_that_is_taken_at_the_start_is_an_error(self) -> None:
        self.is_wanted = self.reactor.is_taken = True
        with self.assertRaisesRegex(AgentError, "Another agent may run there"):
            self.listener().privilegedStartService()

    def test_a_port_that_is_taken_later_is_said_once_and_tried_again(self) -> None:
        listener = self.listener()
        self.start(listener)
        self.is_wanted = self.reactor.is_taken = True
        with capturedLogs() as log:
            self.reactor.pump([REFRESH_S] * 5)
        said = [event for event in log if "Cannot listen on 54321" in event.get("reason", "")]
        self.assertEqual(len(said), 1)
        self.reactor.is_taken = False
        self.reactor.advance(REFRESH_S)
        self.assertEqual(len(listener.addresses()), 1)

    def test_whoever_is_dialled_or_may_not_come_by_the_mechanism_needs_no_port(self) -> None:
        pinned = TrustedPeer("engine-1", Pin(b"1" * 32))
        signing = TrustedPeer("engine-2", Pin(b"2" * 32), frozenset({"sign"}))
        both = TrustedPeer("engine-3", Pin(b"3" * 32), frozenset({"pin", "sign"}))
        for peers, dialled, expected in (
            ([], [], False),
            ([pinned], [], True),
            ([pinned], ["engine-1"], False),
            ([signing], [], False),
            ([signing, both], ["engine-1"], True),
            ([pinned, both], ["engine-1", "engine-3"], False),
        ):
            self.assertEqual(is_reached_by(peers, "pin", dialled), expected)


class AgentTests(TestCase):
    timeout = 60

    async def test_an_agent_listens_while_an_engine_is_accepted_that_it_does_not_dial(
        self,
    ) -> None:
        state = StateFolder(Path(self.mktemp()))
        done = initialize(state, [])
        loopback = "tcp:0:interface=127.0.0.1"
        agent = start_agent(self, state.directory, loopback, "--listen-on-demand")
        await agent.ready
        arguments = ("--state", str(state.directory))
        out, _, _ = await pkagent("status", *arguments)
        self.assertIn("Listening   nowhere, which is on demand\n", out)
        engine = KeyPair.generate("engine-1")
        await pkagent("keys", "add", f"{engine.pin} name=engine-1", *arguments)
        await agent.says("Listening for engines on")
        channel = await connect_engine(self, engine, await agent.port, Pin.parse(done.pin))
        DialledEngines(state.dialled_engines).put(
            "engine-1", DialledEngine("wss://127.0.0.1:1/agent", "pin", str(engine.pin))
        )
        await agent.says("Listening no more")
        await channel.closed
        out, _, _ = await pkagent("status", *arguments)
        self.assertIn("Listening   nowhere, which is on demand\n", out)
