"""An engine changes its own way, on trial first, and makes it the only one when that worked."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.dialled_engines import DialledEngine, DialledEngines, Mechanism
from pkengine.agent.engine_ways import EngineWays
from pkengine.agent.initialization import initialize
from pkengine.agent.state import StateFolder
from pkengine.agent.trial_trust import TrialTrust
from pkengine.agent.way_changes import TRIAL_S, WayChanges
from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.mechanisms import OWN_MECHANISMS, IdentityParts
from pkengine.auth.peer import Authenticated, PeerKey, Role, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, MemorySharedKeys, SharedKey
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import Channel, Verbs, listen_channel
from pkengine.channel.verbs import (
    ENGINE_CANCEL,
    ENGINE_COMMIT,
    ENGINE_PREPARE,
    ENGINE_TRY,
    PING,
    CommittedWay,
    PreparedWay,
    PrepareWay,
)
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.errors import AgentError, CallRefused, ChannelClosed, InvalidKeyText
from pkengine.keys import KeyPair, Pin
from tests.agent.processes import AgentProcess, connect_engine, pkagent, start_agent
from tests.channel.https import serve_https

AGENT, ENGINE, OTHER = Pin(b"a" * 32), Pin(b"e" * 32), Pin(b"o" * 32)
URL = "wss://engine.example/pkengine/agent"


class FakeChannel:
    """A channel, as far as a change of the way sees it."""

    def __init__(self, key: PeerKey = ENGINE, mechanism: str = "pin", name: str = "engine-1"):
        self.closed: Deferred[ChannelClosed] = Deferred()
        self.peer_name = name
        self.peer_address = IPv4Address("TCP", "192.0.2.1", 443)
        self.authenticated = Authenticated(
            TrustedPeer(name, key, frozenset({mechanism})), mechanism
        )
        self.is_open = True

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.closed.callback(ChannelClosed("It ended."))


class FakeDialler:
    def __init__(self) -> None:
        self.channels: dict[str, Any] = {}
        self.looks = 0

    def holds(self, channel: Any) -> bool:
        return channel in self.channels.values()

    def adopt(self, name: str, engine: DialledEngine, channel: Any) -> None:
        self.channels[name] = channel

    def look(self) -> None:
        self.looks += 1


class FakeListener:
    trouble = ""
    is_open = False

    def require(self) -> None:
        if self.trouble:
            raise AgentError(self.trouble)
        self.is_open = True


def wanted(mechanism: Mechanism = "sign", **more: Any) -> PrepareWay:
    request = PrepareWay(
        name="engine-1",
        host_id="host-1",
        engine_pin=str(ENGINE),
        connection="agent-dials",
        mechanism=mechanism,
        url=URL,
        server="authority",
    )
    return msgspec.structs.replace(request, **more)


class WayChangesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.kept = MemoryTrustStore(
            [TrustedPeer("engine-1", ENGINE), TrustedPeer("engine-2", OTHER)]
        )
        self.trust = TrialTrust(self.kept)
        self.secrets = MemorySharedKeys()
        self.dialled = DialledEngines(Path(self.mktemp()))
        self.dialler, self.listener = FakeDialler(), FakeListener()
        self.attempts: list[tuple[DialledEngine, SharedKey | None, Deferred[Any]]] = []
        self.changes = self.make_changes(self.listener)
        self.channel: Any = FakeChannel()

    def make_changes(self, listener: FakeListener | None) -> WayChanges:
        return WayChanges(
            self.clock,
            own=AGENT,
            trust=self.trust,
            ways=EngineWays(self.trust, self.secrets, self.dialled),
            dialled=self.dialled,
            dialler=self.dialler,
            listener=listener,
            connect=self.connect,
            connected=ConnectedEngines(self.clock, lambda: None),
        )

    def connect(
        self, name: str, engine: DialledEngine, secret: SharedKey | None
    ) -> Awaitable[Any]:
        attempt: Deferred[Any] = Deferred()
        self.attempts.append((engine, secret, attempt))
        return attempt

    def attempt(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.changes.attempt(self.channel))

    def try_with(self, channel: FakeChannel) -> Any:
        """Let the agent dial, and get this channel."""
        attempt = self.attempt()
        self.attempts[-1][2].callback(channel)
        self.successResultOf(attempt)
        return channel

    def assert_forgotten(self) -> None:
        self.assertEqual(set(self.trust.peers()), set(self.kept.peers()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.dialled.all(), ({}, []))
        self.assertFalse(self.changes.is_engine_awaited())

    def mechanisms(self) -> frozenset[str]:
        peer = self.trust.lookup(ENGINE)
        return peer.mechanisms if peer else frozenset()

    # What an engine may ask for.

    def test_an_engine_changes_no_way_but_its_own(self) -> None:
        with self.assertRaisesRegex(AgentError, "its own way"):
            self.changes.prepare(wanted(name="engine-2"), self.channel)
        for pin in (OTHER, AGENT):
            with self.assertRaisesRegex(AgentError, "not a key of 'engine-1'"):
                self.changes.prepare(wanted(engine_pin=str(pin)), self.channel)
        self.assert_forgotten()

    def test_what_cannot_be_is_refused(self) -> None:
        share = KeyAgreement("hmac", local="engine-1", peer="host-1", role=Role.ACCEPTOR).share
        for request, words in (
            (wanted("sign", connection="engine-dials"), "proves itself by 'pin'"),
            (wanted("hmac"), "'hmac' needs share"),
            (wanted("sign", share=share), "'sign' has no share"),
            (wanted("pin", share=share), "'pin' has no share"),
        ):
            with self.assertRaisesRegex(AgentError, words):
                self.changes.prepare(request, self.channel)
        for request in (
            wanted("hmac", share=share[:-1]),
            wanted("pin", engine_pin="x"),
            wanted("pin", url="http://engine.example"),
            wanted("pin", server="x"),
        ):
            self.assertRaises(ValueError, self.changes.prepare, request, self.channel)
        self.assert_forgotten()

    def test_an_agent_that_listens_nowhere_cannot_be_dialled(self) -> None:
        changes = self.make_changes(None)
        with self.assertRaisesRegex(AgentError, "listens nowhere"):
            changes.prepare(wanted("pin", connection="engine-dials"), self.channel)

    def test_an_agent_whose_port_is_taken_says_so(self) -> None:
        self.listener.trouble = "Cannot listen on 54321."
        with self.assertRaisesRegex(AgentError, "Cannot listen on 54321"):
            self.changes.prepare(wanted("pin", connection="engine-dials"), self.channel)
        self.assert_forgotten()

    def test_there_is_one_trial_of_an_engine_at_a_time(self) -> None:
        self.changes.prepare(wanted(), self.channel)
        with self.assertRaisesRegex(AgentError, "under way already"):
            self.changes.prepare(wanted(), self.channel)
        other: Any = FakeChannel(OTHER, name="engine-2")
        self.changes.prepare(wanted(name="engine-2", engine_pin=str(OTHER)), other)

    # The trial.

    def test_nothing_is_on_disk_before_the_commit(self) -> None:
        self.changes.prepare(wanted(), self.channel)
        self.assertEqual(self.mechanisms(), {"pin", "sign"})
        self.try_with(FakeChannel(mechanism="sign"))
        self.assertEqual(self.dialled.all(), ({}, []))
        kept = self.kept.lookup(ENGINE)
        assert kept is not None
        self.assertEqual(kept.mechanisms, {"pin"})

    def test_the_agent_dials_with_the_secret_on_trial_and_by_its_own_proxy(self) -> None:
        self.dialled.put("engine-1", DialledEngine(URL, "pin", "authority", "http://proxy:3128"))
        agreement = KeyAgreement("hmac", local="engine-1", peer="host-1", role=Role.ACCEPTOR)
        prepared = self.changes.prepare(wanted("hmac", share=agreement.share), self.channel)
        self.assertEqual(prepared.pin, str(AGENT))
        assert prepared.share is not None
        theirs = agreement.agree(prepared.share)
        self.try_with(FakeChannel(theirs.key_id, "hmac"))
        [(engine, secret, _)] = self.attempts
        self.assertEqual(engine, DialledEngine(URL, "hmac", "authority", "http://proxy:3128"))
        self.assertEqual(secret, theirs.for_peer())
        self.assertEqual(self.secrets.keys(), [])

    def test_a_trial_that_fails_tells_why_and_is_forgotten(self) -> None:
        self.changes.prepare(wanted(), self.channel)
        attempt = self.attempt()
        self.attempts[-1][2].errback(ConnectError(string="no route"))
        error = self.failureResultOf(attempt, AgentError).value
        self.assertIn(f"No connection from this host to {URL}: ", str(error))
        self.assertIn("no route", str(error))
        self.assert_forgotten()

    def test_only_what_is_prepared_is_dialled_and_once(self) -> None:
        self.failureResultOf(self.attempt(), AgentError)
        self.changes.prepare(wanted(), self.channel)
        self.attempt()
        self.failureResultOf(self.attempt(), AgentError)
        self.assertEqual(len(self.attempts), 1)
        self.changes.cancel(self.channel)
        self.changes.prepare(wanted("pin", connection="engine-dials"), self.channel)
        self.failureResultOf(self.attempt(), AgentError)

    def test_an_engine_that_gives_up_while_the_agent_dials_ends_the_trial(self) -> None:
        self.changes.prepare(wanted(), self.channel)
        attempt = self.attempt()
        attempt.addErrback(lambda _: None)
        attempt.cancel()
        self.assert_forgotten()

    def test_a_connection_that_comes_after_the_trial_is_closed(self) -> None:
        self.changes.prepare(wanted(), self.channel)
        attempt, late = self.attempt(), FakeChannel()
        self.changes.cancel(self.channel)
        self.attempts[-1][2].callback(late)
        self.failureResultOf(attempt, AgentError)
        self.assertFalse(late.is_open)

    def test_a_trial_ends_in_every_way_that_is_no_commit(self) -> None:
        self.new = FakeChannel()
        for end in (
            lambda: self.changes.cancel(self.channel),
            lambda: self.clock.advance(TRIAL_S),
            self.changes.stop,
            lambda: (self.new.close(), self.channel.close()),
        ):
            self.channel, self.new = FakeChannel(), FakeChannel(mechanism="sign")
            self.changes.prepare(wanted(), self.channel)
            self.try_with(self.new)
            end()
            self.assert_forgotten()
            self.assertFalse(self.new.is_open)

    def test_a_trial_outlives_one_of_its_two_connections(self) -> None:
        self.changes.prepare(wanted(), self.channel)
        new = self.try_with(FakeChannel(mechanism="sign"))
        self.channel.close()
        self.assertTrue(self.changes.commit(new).is_new)

    def test_giving_up_nothing_is_no_error(self) -> None:
        self.changes.cancel(self.channel)
        self.assert_forgotten()

    # The commit.

    def test_a_commit_on_the_new_connection_makes_the_new_way_the_only_one(self) -> None:
        self.changes.prepare(wanted(), self.channel)
        new = self.try_with(FakeChannel(mechanism="sign"))
        self.assertEqual(self.changes.commit(new), CommittedWay(is_new=True))
        self.assertEqual(self.mechanisms(), {"sign"})
        self.assertEqual(
            self.dialled.all()[0], {"engine-1": DialledEngine(URL, "sign", "authority")}
        )
        self.assertIs(self.dialler.channels["engine-1"], new)
        self.assertTrue(new.is_open)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        # Said twice, it is true twice.
        self.assertEqual(self.changes.commit(new), CommittedWay(is_new=False))
        self.assertEqual(self.mechanisms(), {"sign"})

    def test_an_engine_that_dials_is_dialled_no_longer(self) -> None:
        self.dialled.put("engine-1", DialledEngine(URL, "pin", "authority"))
        self.dialler.channels["engine-1"] = self.channel
        self.changes.prepare(wanted("pin", connection="engine-dials", url=""), self.channel)
        self.assertTrue(self.listener.is_open)
        self.assertTrue(self.changes.is_engine_awaited())
        new: Any = FakeChannel()
        self.assertEqual(self.changes.commit(new), CommittedWay(is_new=True))
        self.assertEqual(self.dialled.all(), ({}, []))
        self.assertEqual(self.dialler.looks, 1)
        self.assertFalse(self.changes.is_engine_awaited())

    def test_a_commit_by_the_old_way_keeps_it_and_ends_the_trial(self) -> None:
        self.changes.prepare(wanted(), self.channel)
        new = self.try_with(FakeChannel(mechanism="sign"))
        self.assertEqual(self.changes.commit(self.channel), CommittedWay(is_new=False))
        self.assertFalse(new.is_open)
        self.assert_forgotten()
        self.assertEqual(self.mechanisms(), {"pin"})

    def test_a_commit_completes_one_that_was_cut_off(self) -> None:
        """What a restarted agent finds: it dials by the new way, the old one is there still."""
        engine = DialledEngine(URL, "sign", "authority")
        self.kept.add(TrustedPeer("engine-1", ENGINE, frozenset({"pin", "sign"})))
        self.dialled.put("engine-1", engine)
        new: Any = FakeChannel(mechanism="sign")
        self.dialler.channels["engine-1"] = new
        self.assertEqual(self.changes.commit(new), CommittedWay(is_new=False))
        self.assertEqual(self.mechanisms(), {"sign"})
        self.assertEqual(self.dialled.all()[0], {"engine-1": engine})

    def test_what_is_gone_is_not_brought_back_by_a_commit(self) -> None:
        self.dialler.channels["engine-1"] = self.channel
        with self.assertRaisesRegex(AgentError, "no longer dials"):
            self.changes.commit(self.channel)
        self.dialler.channels.clear()
        self.kept.remove(ENGINE)
        with self.assertRaisesRegex(AgentError, "not accepted any more"):
            self.changes.commit(self.channel)

    def test_the_secrets_of_the_old_way_go_and_those_of_others_stay(self) -> None:
        old = SharedKey.generate("hmac", local="host-1", peer="engine-1")
        others = SharedKey.generate("hmac", local="host-1", peer="engine-2")
        for key in (old, others):
            self.secrets.add(key)
            self.kept.add(TrustedPeer(key.peer, key.key_id, frozenset({"hmac"})))
        self.changes.prepare(wanted(), self.channel)
        self.changes.commit(self.try_with(FakeChannel(mechanism="sign")))
        self.assertEqual(self.secrets.keys(), [others])
        self.assertIsNone(self.kept.lookup(old.key_id))
        self.assertIsNotNone(self.kept.lookup(others.key_id))
        self.assertIsNotNone(self.kept.lookup(OTHER))

    def test_a_malformed_share_is_no_trial(self) -> None:
        with self.assertRaises(InvalidKeyText):
            self.changes.prepare(wanted("spake2plus", share=""), self.channel)
        self.assert_forgotten()


class Engine:
    """An engine that takes agents in by every mechanism, and dials them."""

    def __init__(self, test: TestCase) -> None:
        self.test = test
        self.key_pair = KeyPair.generate("engine-1")
        self.trust, self.secrets = MemoryTrustStore(), MemorySharedKeys()
        self.channels: DeferredQueue[Channel] = DeferredQueue()

    async def start(self) -> None:
        root, agents = Resource(), Resource()
        root.putChild(b"agents", agents)
        parts = IdentityParts(self.key_pair, self.trust, self.secrets)
        for mechanism in OWN_MECHANISMS:
            resource = WebSocketResource(reactor, f"/agents/{mechanism}")
            listener = await listen_channel(
                reactor,
                resource,
                parts.authenticator(mechanism),
                verbs=Verbs(),
                on_channel=self.channels.put,
            )
            self.test.addCleanup(listener.stopListening)
            agents.putChild(mechanism.encode(), resource)
        port = await serve_https(self.test, Site(root), self.key_pair)
        self.url = f"wss://127.0.0.1:{port}/agents"

    async def prepare(self, channel: Channel, mechanism: Mechanism, *, dials: bool) -> None:
        """Ask for another way, and accept it."""
        agreement = None
        if mechanism in SHARED_KEY_MECHANISMS:
            agreement = KeyAgreement(
                mechanism, local="engine-1", peer="host-1", role=Role.ACCEPTOR
            )
        request = PrepareWay(
            name="engine-1",
            host_id="host-1",
            engine_pin=str(self.key_pair.pin),
            connection="engine-dials" if dials else "agent-dials",
            mechanism=mechanism,
            url="" if dials else self.url,
            server="" if dials else str(self.key_pair.pin),
            share=agreement.share if agreement else None,
        )
        prepared: PreparedWay = await channel.call(
            ENGINE_PREPARE, request, result_type=PreparedWay
        )
        key: PeerKey = Pin.parse(prepared.pin)
        if agreement is not None:
            assert prepared.share is not None
            shared = agreement.agree(prepared.share)
            self.secrets.add(shared)
            key = shared.key_id
        known = self.trust.lookup(key)
        mechanisms = known.mechanisms if known else frozenset()
        self.trust.add(TrustedPeer("host-1", key, mechanisms | {mechanism}))


class RealAgentTests(TestCase):
    timeout = 120

    async def start(self) -> tuple[Engine, AgentProcess, Channel]:
        """Have an agent that listens on demand, and an engine that dials it."""
        self.state = StateFolder(Path(self.mktemp()))
        engine = Engine(self)
        await engine.start()
        done = initialize(self.state, [TrustedPeer("engine-1", engine.key_pair.pin)])
        self.pin = Pin.parse(done.pin)
        agent = self.start_agent()
        channel = await self.dial(engine, agent)
        return engine, agent, channel

    def start_agent(self) -> AgentProcess:
        return start_agent(
            self, self.state.directory, "tcp:0:interface=127.0.0.1", "--listen-on-demand"
        )

    async def dial(self, engine: Engine, agent: AgentProcess) -> Channel:
        return await connect_engine(self, engine.key_pair, await agent.port, self.pin)

    async def listening(self) -> list[dict[str, Any]]:
        """Tell where the agent listens."""
        out, _, _ = await pkagent("status", "--json", "--state", str(self.state.directory))
        addresses: list[dict[str, Any]] = json.loads(out)["listening"]
        return addresses

    async def change(self, engine: Engine, old: Channel, mechanism: Mechanism) -> Channel:
        """Change to a way in which the agent dials."""
        await engine.prepare(old, mechanism, dials=False)
        await old.call(ENGINE_TRY)
        new = await engine.channels.get()
        self.assertEqual(new.authenticated.mechanism, mechanism)
        committed = await new.call(ENGINE_COMMIT, result_type=CommittedWay)
        self.assertTrue(committed.is_new)
        await old.closed
        self.assertIsNone(await new.call(PING))
        return new

    async def test_a_host_goes_through_every_way_on_living_channels(self) -> None:
        engine, agent, channel = await self.start()
        for mechanism in ("hmac", "spake2plus", "spake2plus", "sign", "hmac", "pin", "sign"):
            channel = await self.change(engine, channel, mechanism)  # type: ignore[arg-type]
            [line] = [
                line
                for line in self.state.authorized_engines.read_text().splitlines()
                if not line.startswith("#")
            ]
            self.assertEqual(line.endswith(f"mechanism={mechanism}"), mechanism != "pin")
        await agent.says("Listening no more")
        self.assertEqual(await self.listening(), [])
        await engine.prepare(channel, "pin", dials=True)
        [address] = await self.listening()
        new = await connect_engine(self, engine.key_pair, address["port"], self.pin)
        committed = await new.call(ENGINE_COMMIT, result_type=CommittedWay)
        self.assertTrue(committed.is_new)
        await channel.closed
        self.assertIsNone(await new.call(PING))
        self.assertEqual(list(self.state.secrets.iterdir()), [])
        self.assertEqual(list(self.state.dialled_engines.iterdir()), [])

    async def test_an_agent_that_is_killed_during_the_trial_comes_back_by_the_old_way(
        self,
    ) -> None:
        engine, agent, channel = await self.start()
        await engine.prepare(channel, "hmac", dials=False)
        await channel.call(ENGINE_TRY)
        await engine.channels.get()
        await agent.stop("KILL")
        again = await self.dial(engine, self.start_agent())
        self.assertIsNone(await again.call(PING))

    async def test_an_agent_that_is_killed_after_the_commit_comes_by_the_new_way(self) -> None:
        engine, agent, channel = await self.start()
        await self.change(engine, channel, "spake2plus")
        await agent.stop("KILL")
        self.start_agent()
        again = await engine.channels.get()
        self.assertEqual(again.authenticated.mechanism, "spake2plus")

    async def test_an_engine_that_cannot_be_reached_leaves_all_as_it_was(self) -> None:
        engine, _, channel = await self.start()
        engine.url = "wss://127.0.0.1:9/agents"
        await engine.prepare(channel, "sign", dials=False)
        error = await self.assertFailure(channel.call(ENGINE_TRY), CallRefused)
        self.assertIn("No connection from this host to wss://127.0.0.1:9/agents: ", str(error))
        self.assertIsNone(await channel.call(PING))
        await engine.prepare(channel, "hmac", dials=False)
        await channel.call(ENGINE_CANCEL)
        self.assertIsNone(await channel.call(PING))
