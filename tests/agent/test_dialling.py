"""Real agents that dial an engine by HTTPS, with each mechanism."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from pkengine.agent.dialled_engines import DialledEngine, DialledEngines, Mechanism
from pkengine.agent.initialization import Dial, initialize, read_dial
from pkengine.agent.state import StateFolder
from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.mechanisms import OWN_MECHANISMS, IdentityParts
from pkengine.auth.peer import PeerKey, Role, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, MemorySharedKeys, SharedKey
from pkengine.auth.trust import FileTrustStore, MemoryTrustStore
from pkengine.channel import Channel, Verbs, listen_channel
from pkengine.channel.verbs import GET_VERSION, KEYS_REMOVE, AgentVersion, RemoveKey
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.errors import AgentError, InvalidKeyText
from pkengine.keys import KeyPair, Pin
from tests.agent.processes import pkagent, start_agent
from tests.channel.https import serve_https

OTHER = Pin(b"2" * 32)


class Engine:
    """An engine as far as one agent meets it."""

    def __init__(self, test: TestCase, mechanism: str) -> None:
        self.test = test
        self.mechanism = mechanism
        self.key_pair = KeyPair.generate("engine-1")
        self.trust, self.secrets = MemoryTrustStore(), MemorySharedKeys()
        self.channels: DeferredQueue[Channel] = DeferredQueue()
        #: What an agent accepts, besides a key that it makes in common with this engine.
        self.peers: list[TrustedPeer] = []
        self.agreement: KeyAgreement | None = None
        if mechanism in SHARED_KEY_MECHANISMS:
            self.agreement = KeyAgreement(
                mechanism, local="engine-1", peer="host-1", role=Role.ACCEPTOR
            )
        else:
            self.peers.append(TrustedPeer("engine-1", self.key_pair.pin, frozenset({mechanism})))

    def dial(self, settings: DialledEngine) -> Dial:
        """Give what the agent has to know about dialling."""
        if self.agreement is None:
            return Dial("engine-1", settings)
        return Dial("engine-1", settings, "host-1", self.agreement.share)

    def trusts(self, pin: str, share: str | None) -> None:
        """Trust the agent that was set up, by what it answered."""
        key: PeerKey = Pin.parse(pin)
        if self.agreement is not None:
            assert share is not None
            shared = self.agreement.agree(share)
            self.secrets.add(shared)
            key = shared.key_id
        self.trust.add(TrustedPeer("host-1", key, frozenset({self.mechanism})))

    async def start(self) -> DialledEngine:
        """Listen; give what the agent has to know."""
        resource = WebSocketResource(reactor, "/agent")
        self.listener = await listen_channel(
            reactor,
            resource,
            IdentityParts(self.key_pair, self.trust, self.secrets).authenticator(self.mechanism),
            verbs=Verbs(),
            on_channel=self.channels.put,
        )
        self.test.addCleanup(self.listener.stopListening)
        root, agents = Resource(), Resource()
        root.putChild(b"agents", agents)
        agents.putChild(self.mechanism.encode(), resource)
        port = await serve_https(self.test, Site(root), self.key_pair)
        return DialledEngine(
            url=f"wss://127.0.0.1:{port}/agents",
            mechanism=self.mechanism,
            server=str(self.key_pair.pin),
        )


class DialInTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.state = StateFolder(Path(self.mktemp()))

    async def set_up_agent(self, mechanism: str) -> Engine:
        engine = Engine(self, mechanism)
        settings = await engine.start()
        done = initialize(self.state, engine.peers, engine.dial(settings))
        engine.trusts(done.pin, done.share)
        return engine

    async def status(self) -> dict[str, Any]:
        out, err, status = await pkagent("status", "--json", "--state", str(self.state.directory))
        self.assertEqual((err, status), ("", 0))
        return json.loads(out)

    async def test_an_agent_that_only_dials_is_called_whatever_the_mechanism(self) -> None:
        for mechanism in OWN_MECHANISMS:
            self.state = StateFolder(Path(self.mktemp()))
            engine = await self.set_up_agent(mechanism)
            agent = start_agent(self, self.state.directory, listen="none")
            channel = await engine.channels.get()
            self.assertEqual(channel.peer_name, "host-1")
            version = await channel.call(GET_VERSION, result_type=AgentVersion)
            self.assertEqual(version.pid, agent.transport.pid)
            found = await self.status()
            self.assertEqual(found["listening"], [])
            [dialled] = found["dialled"]
            self.assertEqual(
                (dialled["name"], dialled["state"], dialled["mechanism"]),
                ("engine-1", "connected", mechanism),
            )
            self.assertEqual([one["name"] for one in found["connections"]], ["engine-1"])
            text, _, _ = await pkagent("status", "--state", str(self.state.directory))
            self.assertIn("Listening   nowhere\n", text)
            self.assertIn(f"by {mechanism}, connected since", text)
            await agent.stop()
            self.assertEqual(str(await closed(channel)), "host-1 closed the channel.")

    async def test_an_agent_comes_back_after_it_was_cut_off(self) -> None:
        engine = await self.set_up_agent("hmac")
        start_agent(self, self.state.directory, listen="none")
        first = await engine.channels.get()
        first.abort()
        second = await engine.channels.get()
        self.assertIsNot(first, second)

    async def test_an_engine_that_takes_its_key_back_is_dialled_no_longer(self) -> None:
        engine = await self.set_up_agent("spake2plus")
        agent = start_agent(self, self.state.directory, listen="none")
        channel = await engine.channels.get()
        [accepted] = FileTrustStore(self.state.authorized_engines).peers()
        goodbye = RemoveKey(pin=str(accepted.key), may_be_last=True)
        channel.call(KEYS_REMOVE, goodbye).addErrback(lambda _: None)  # it cuts the connection
        await closed(channel)
        await agent.says("engine-1 is dialled no longer")
        found = await self.status()
        self.assertEqual((found["dialled"], found["engines"]), ([], []))
        self.assertEqual(list(self.state.secrets.iterdir()), [])
        self.assertEqual(list(self.state.dialled_engines.iterdir()), [])

    async def test_a_refused_agent_says_why_it_waits(self) -> None:
        engine = await self.set_up_agent("sign")
        for peer in list(engine.trust.peers()):
            engine.trust.remove(peer.key)
        agent = start_agent(self, self.state.directory, listen="none")
        await agent.says("Cannot connect to engine-1")
        [dialled] = (await self.status())["dialled"]
        self.assertIn("may not accept this end's key", dialled["lastFailure"])

    async def test_an_engine_to_dial_comes_by_standard_input_and_takes_effect_at_once(
        self,
    ) -> None:
        engine = Engine(self, "hmac")
        dial = engine.dial(await engine.start())
        agent = start_agent(self, self.state.directory, listen="none")
        await agent.ready
        out, err, status = await pkagent(
            "init", "--dial", "--json", "--state", str(self.state.directory),
            stdin=msgspec.json.encode(dial),
        )  # fmt: skip
        self.assertEqual((err, status), ("", 0), out)
        done = json.loads(out)
        engine.trusts(done["pin"], done["share"])
        self.assertEqual((await engine.channels.get()).peer_name, "host-1")


class InitializationTests(TestCase):
    def setUp(self) -> None:
        self.state = StateFolder(Path(self.mktemp()))
        self.peer = TrustedPeer("engine-1", Pin(b"1" * 32), frozenset({"sign"}))

    def dial(self, mechanism: Mechanism = "hmac") -> tuple[Dial, KeyAgreement]:
        agreement = KeyAgreement("hmac", local="engine-1", peer="host-1", role=Role.ACCEPTOR)
        engine = DialledEngine("wss://engine.example", mechanism=mechanism, server="authority")
        if mechanism == "hmac":
            return Dial("engine-1", engine, "host-1", agreement.share), agreement
        return Dial("engine-1", engine), agreement

    def test_the_new_secret_is_the_other_half_of_the_engines(self) -> None:
        dial, agreement = self.dial()
        done = initialize(self.state, [], dial)
        assert done.share is not None
        theirs = agreement.agree(done.share)
        [kept] = self.state.secrets.iterdir()
        self.assertEqual(SharedKey.decode(kept.read_bytes()), theirs.for_peer())
        self.assertEqual(kept.stat().st_mode & 0o777, 0o600)
        self.assertEqual(done.engines, [str(theirs.key_id)])
        self.assertNotIn(theirs.secret.reveal().hex(), str(done))

    def test_a_new_secret_displaces_the_old_one(self) -> None:
        first = initialize(self.state, [], self.dial()[0])
        second = initialize(self.state, [], self.dial()[0])
        self.assertEqual(second.removed, first.engines)
        self.assertEqual(len(second.engines), 1)
        self.assertEqual(len(list(self.state.secrets.iterdir())), 1)

    def test_an_engine_that_dials_from_now_on_is_dialled_no_longer(self) -> None:
        initialize(self.state, [], self.dial()[0])
        pinned = TrustedPeer("engine-1", Pin(b"1" * 32))
        initialize(self.state, [pinned])
        self.assertEqual(DialledEngines(self.state.dialled_engines).all(), ({}, []))
        self.assertEqual(list(FileTrustStore(self.state.authorized_engines).peers()), [pinned])
        self.assertEqual(list(self.state.secrets.iterdir()), [])

    def test_an_engine_whose_key_is_not_given_cannot_be_dialled(self) -> None:
        dial, _ = self.dial("sign")
        for peers in ([], [replace(self.peer, name="engine-2")], [TrustedPeer("engine-1", OTHER)]):
            with self.assertRaises(AgentError):
                initialize(self.state, peers, dial)
        self.assertFalse(self.state.dialled_engines.exists())
        self.assertIsNone(initialize(self.state, [self.peer], dial).share)

    def test_what_is_malformed_is_refused(self) -> None:
        share = self.dial()[1].share
        engine = {"url": "wss://e", "mechanism": "hmac", "server": "authority"}
        good = {"name": "engine-1", "engine": engine, "hostId": "host-1", "share": share}
        self.assertEqual(read_dial(json.dumps(good).encode()).share, share)
        for bad in (
            "secret",
            {},
            {**good, "more": 1},
            {**good, "share": None},
            {**good, "hostId": ""},
            {**good, "engine": {**engine, "mechanism": "sign"}},
            {**good, "engine": {**engine, "mechanism": "tls"}},
            {**good, "engine": {**engine, "url": "http://e"}},
        ):
            with self.assertRaises(AgentError):
                read_dial(json.dumps(bad).encode())
        with self.assertRaises(AgentError):
            read_dial(json.dumps(good).encode().replace(b"wss://e", b"wss://\xe9"))

    def test_a_malformed_share_changes_nothing(self) -> None:
        dial, _ = self.dial()
        with self.assertRaises(InvalidKeyText):
            initialize(self.state, [], msgspec.structs.replace(dial, share="A" * 42))
        self.assertFalse(self.state.dialled_engines.exists())
        self.assertEqual(list(self.state.secrets.iterdir()), [])


def closed(channel: Channel) -> Deferred[object]:
    """Fire with the reason when a channel has ended."""
    done: Deferred[object] = Deferred()

    def fire(reason: object) -> object:
        done.callback(reason)
        return reason

    channel.closed.addCallback(fire)
    return done
