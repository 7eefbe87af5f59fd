"""Real agents that dial an engine by HTTPS, with each mechanism."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.agent.initialization import Dial, initialize, read_dial
from pkengine.agent.state import StateFolder
from pkengine.auth.mechanisms import OWN_MECHANISMS, IdentityParts
from pkengine.auth.pake import register_pair
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.auth.trust import FileTrustStore, MemoryTrustStore
from pkengine.channel import Channel, Verbs, listen_channel
from pkengine.channel.verbs import GET_VERSION, KEYS_REMOVE, AgentVersion, RemoveKey
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.errors import AgentError
from pkengine.keys import KeyPair, Pin, Secret
from tests.agent.processes import pkagent, start_agent
from tests.channel.https import serve_https


class Engine:
    """An engine as far as one agent meets it."""

    def __init__(self, test: TestCase, mechanism: str) -> None:
        self.test = test
        self.mechanism = mechanism
        self.key_pair = KeyPair.generate("engine-1")
        self.trust, self.secrets = MemoryTrustStore(), MemorySharedKeys()
        self.channels: DeferredQueue[Channel] = DeferredQueue()
        self.shared_key: SharedKey | None = None
        if mechanism == "hmac":
            self.shared_key = SharedKey.generate("hmac", local="host-1", peer="engine-1")
            self.secrets.add(self.shared_key.for_peer())
        elif mechanism == "spake2plus":
            self.shared_key, verifier = register_pair(
                Secret("a secret"), prover="host-1", verifier="engine-1"
            )
            self.secrets.add(verifier)
        key = self.key_pair.pin if self.shared_key is None else self.shared_key.key_id
        self.peer = TrustedPeer("engine-1", key, frozenset({mechanism}))

    def trusts(self, agent: Pin) -> None:
        key = agent if self.shared_key is None else self.shared_key.key_id
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
        done = initialize(
            self.state, [engine.peer], (Dial("engine-1", settings), engine.shared_key)
        )
        engine.trusts(Pin.parse(done.pin))
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
        goodbye = RemoveKey(pin=str(engine.peer.key), may_be_last=True)
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
        settings = await engine.start()
        assert engine.shared_key is not None
        engine.trusts(Pin(b"0" * 32))
        agent = start_agent(self, self.state.directory, listen="none")
        await agent.ready
        dial = {
            "name": "engine-1",
            "engine": {
                "url": settings.url,
                "mechanism": "hmac",
                "server": settings.server,
                "proxy": "none",
            },
            "sharedKey": json.loads(engine.shared_key.encode()),
        }
        line = f"{engine.peer.key} name=engine-1 mechanism=hmac"
        out, err, status = await pkagent(
            "init", "--dial", "--engine", line, "--state", str(self.state.directory),
            stdin=json.dumps(dial).encode(),
        )  # fmt: skip
        self.assertEqual((err, status), ("", 0), out)
        self.assertNotIn(dial["sharedKey"]["secret"], out)
        self.assertEqual((await engine.channels.get()).peer_name, "host-1")
        self.assertNotIn(dial["sharedKey"]["secret"], agent.output)


class InitializationTests(TestCase):
    def setUp(self) -> None:
        self.state = StateFolder(Path(self.mktemp()))
        self.key = SharedKey.generate("hmac", local="host-1", peer="engine-1")
        self.peer = TrustedPeer("engine-1", self.key.key_id, frozenset({"hmac"}))
        self.dial = Dial(
            "engine-1",
            DialledEngine(url="wss://engine.example", mechanism="hmac", server="authority"),
        )

    def test_a_new_secret_displaces_the_old_one(self) -> None:
        initialize(self.state, [self.peer], (self.dial, self.key))
        new = SharedKey.generate("hmac", local="host-1", peer="engine-1")
        done = initialize(
            self.state,
            [TrustedPeer("engine-1", new.key_id, frozenset({"hmac"}))],
            (self.dial, new),
        )
        self.assertEqual(done.removed, [str(self.key.key_id)])
        [kept] = self.state.secrets.iterdir()
        self.assertEqual(SharedKey.decode(kept.read_bytes()), new)
        self.assertEqual(kept.stat().st_mode & 0o777, 0o600)

    def test_an_engine_that_dials_from_now_on_is_dialled_no_longer(self) -> None:
        initialize(self.state, [self.peer], (self.dial, self.key))
        pinned = TrustedPeer("engine-1", Pin(b"1" * 32))
        initialize(self.state, [pinned])
        self.assertEqual(DialledEngines(self.state.dialled_engines).all(), ({}, []))
        self.assertEqual(list(FileTrustStore(self.state.authorized_engines).peers()), [pinned])
        self.assertEqual(list(self.state.secrets.iterdir()), [])

    def test_an_engine_whose_key_is_not_given_cannot_be_dialled(self) -> None:
        for peers in (
            [],
            [TrustedPeer("engine-2", self.key.key_id, frozenset({"hmac"}))],
            [TrustedPeer("engine-1", Pin(b"1" * 32))],
        ):
            with self.assertRaises(AgentError):
                initialize(self.state, peers, (self.dial, self.key))
        self.assertFalse(self.state.dialled_engines.exists())

    def test_what_is_malformed_is_refused_without_being_shown(self) -> None:
        key = json.loads(self.key.encode())
        engine = {"url": "wss://e", "mechanism": "hmac", "server": "authority"}
        good = {"name": "engine-1", "engine": engine, "sharedKey": key}
        read, read_key = read_dial(json.dumps(good).encode())
        self.assertEqual((read.name, read_key), ("engine-1", self.key))
        for bad in (
            "secret",
            {},
            {**good, "more": 1},
            {**good, "sharedKey": {**key, "secret": "?"}},
            {**good, "sharedKey": None},
            {**good, "engine": {**engine, "mechanism": "sign"}},
            {**good, "engine": {**engine, "mechanism": "spake2plus"}},
            {**good, "engine": {**engine, "url": "http://e"}},
            {**good, "name": "engine-2"},
        ):
            with self.assertRaises(AgentError) as caught:
                read_dial(json.dumps(bad).encode())
            self.assertNotIn(key["secret"], str(caught.exception))


def closed(channel: Channel) -> Deferred[object]:
    """Fire with the reason when a channel has ended."""
    done: Deferred[object] = Deferred()

    def fire(reason: object) -> object:
        done.callback(reason)
        return reason

    channel.closed.addCallback(fire)
    return done
