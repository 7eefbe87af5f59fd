"""Hosts whose agents dial the engine, over real HTTPS."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.mechanisms import OWN_MECHANISMS, IdentityParts
from pkengine.auth.peer import Role, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, MemorySharedKeys, SharedKey
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import Channel, connect_channel
from pkengine.channel.engine_url import engine_endpoint
from pkengine.channel.verbs import GET_STATS, Nothing
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import network
from pkengine.engine.hosts.dial_in import DialIn
from pkengine.engine.hosts.direct_paths import DirectPaths
from pkengine.engine.hosts.entrance import Entrance
from pkengine.engine.model import Event, Host, HostConnection, HostKey, HostStatus, KeySource
from pkengine.errors import (
    AuthenticationError,
    ChannelClosed,
    ChannelError,
    Conflict,
    InvalidEngineUrl,
    InvalidKeyText,
)
from pkengine.keys import KeyPair, Pin
from tests.channel.https import serve_https, url_of
from tests.engine.hosts.agent_answers import CAPABILITIES, STATS
from tests.engine.hosts.fakes import ADMIN
from tests.engine.hosts.keys import ADDED, host_trust, pinned
from tests.engine.hosts.test_network import AGENT_KEY, ENGINE_KEY, HostsTestCase


class DialInCase(HostsTestCase):
    """An engine that agents can dial, and an agent that nobody else reaches."""

    timeout = 60
    dial_in = DialIn("wss://engine.example/pkengine/agent", "authority")

    async def setUp(self) -> None:
        await super().setUp()
        await self.listener.stopListening()  # nobody reaches this agent
        identity = IdentityParts(ENGINE_KEY, self.trust, self.secrets)
        self.paths = DirectPaths(self.registry, self.arrivals, is_required=False)
        self.entrance = Entrance(
            reactor,
            [identity.authenticator(each) for each in OWN_MECHANISMS],
            self.arrivals,
            arrived=self.monitor.retry,
            paths=self.paths,
            registry=self.registry,
            events=self.events,
        )
        root, own, agents = Resource(), Resource(), Resource()
        root.putChild(b"pkengine", own)
        own.putChild(b"agent", agents)
        self.entrance.put_into(agents)
        await self.entrance.open()
        self.https_port = await serve_https(self, Site(root), ENGINE_KEY)
        self.https_pin = ENGINE_KEY.pin

    async def tearDown(self) -> None:
        await self.hosts.stop()
        await self.entrance.close()
        await self.paths.stop()
        await self.store.close()

    async def know(self, status: HostStatus, **changes: Any) -> Host:
        """Put a host into the database whose agent dials in."""
        return await super().know(status, **{"connection": HostConnection.AGENT_DIALS, **changes})

    async def dial(self, key_pair: KeyPair = AGENT_KEY, *, mechanism: str = "pin") -> Channel:
        """Dial the engine, as an agent does that has a key of its own."""
        trust = MemoryTrustStore([TrustedPeer("engine", ENGINE_KEY.pin, frozenset({mechanism}))])
        return await self._dial(IdentityParts(key_pair, trust, MemorySharedKeys()), mechanism)

    async def dial_by(self, key: SharedKey) -> Channel:
        """Dial the engine, as an agent does that has agreed on a key with it."""
        trust = MemoryTrustStore([TrustedPeer("engine", key.key_id, frozenset({key.mechanism}))])
        parts = IdentityParts(AGENT_KEY, trust, MemorySharedKeys([key]))
        return await self._dial(parts, key.mechanism)

    async def _dial(self, identity: IdentityParts, mechanism: str) -> Channel:
        url = url_of(self.https_port, f"/pkengine/agent/{mechanism}")
        return await connect_channel(
            reactor,
            engine_endpoint(reactor, url, pin=self.https_pin),
            identity.authenticator(mechanism),
            expected="engine",
            verbs=self.agent.verbs,
        )

    async def up_by_dialling(self) -> tuple[Host, Channel]:
        up = self.becomes(HostStatus.UP)
        await self.know(HostStatus.INITIALIZING)
        channel = await self.dial()
        return await up, channel

    async def know_by(
        self, mechanism: str, status: HostStatus, **changes: Any
    ) -> tuple[Host, Callable[[], Awaitable[Channel]]]:
        """Put a host into the database; give how its agent dials, too."""
        host_id = uuid.uuid4()
        if mechanism in SHARED_KEY_MECHANISMS:
            ours, theirs = agree(mechanism, "engine", str(host_id))
            dial = partial(self.dial_by, theirs)
        else:
            ours = AGENT_KEY.pin
            dial = partial(self.dial, mechanism=mechanism)
        key = host_trust().host_key(ours, mechanism, KeySource.DEPLOYED, ADDED)
        about = {"id": host_id, "mechanism": mechanism, "keys": (key,)}
        # What a removal takes from the agent, it has again.
        self.agent.trust.add(TrustedPeer("engine", ENGINE_KEY.pin))
        return await self.know(status, **about, **changes), dial


class DialInTests(DialInCase):
    async def test_a_host_whose_agent_has_not_dialled_in_is_missed_and_is_up_when_it_does(
        self,
    ) -> None:
        self.patch(network, "ARRIVAL_TIMEOUT_S", 0.05)
        gone = self.becomes(HostStatus.NON_RESPONSIVE)
        await self.know(HostStatus.INITIALIZING)
        host = await gone
        self.assertIn("The agent of Host h1 has not dialled in", host.status_detail)
        up = self.becomes(HostStatus.UP)
        await self.dial()
        host = await up
        self.assertEqual(host.capabilities, CAPABILITIES)
        self.assertEqual(self.hosts.authenticated(host.id).peer.key, AGENT_KEY.pin)

    async def test_a_host_whose_agent_dials_is_never_dialled(self) -> None:
        listener = await self.agent.listen(self.port)
        self.addCleanup(listener.stopListening)
        self.patch(network, "ARRIVAL_TIMEOUT_S", 0.05)
        gone = self.becomes(HostStatus.NON_RESPONSIVE)
        await self.know(HostStatus.INITIALIZING)
        await gone
        self.assertEqual(self.agent.channels, [])

    async def test_a_host_that_the_engine_dials_is_used_when_its_agent_comes_all_the_same(
        self,
    ) -> None:
        gone = self.becomes(HostStatus.NON_RESPONSIVE)
        await self.know(HostStatus.INITIALIZING, connection=HostConnection.ENGINE_DIALS)
        await gone
        up = self.becomes(HostStatus.UP)
        await self.dial()
        await up

    async def test_an_agent_that_came_before_it_was_needed_is_used_at_once(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        await self.dial()
        up = self.becomes(HostStatus.UP)
        await self.hosts.maintenance.activate(host.id, ADMIN)
        await up

    async def test_who_asks_before_the_agent_has_come_waits_for_it(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        connecting = Deferred.fromCoroutine(self.access.connect(host))
        await self.dial()
        lease = await connecting
        self.assertEqual(await lease.call(GET_STATS, Nothing(), result_type=type(STATS)), STATS)

    async def test_waiting_that_is_given_up_leaves_nothing(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        connecting = Deferred.fromCoroutine(self.access.connect(host))
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertEqual(self.arrivals._awaiting, {})

    async def test_a_connection_stays_through_maintenance(self) -> None:
        host, channel = await self.up_by_dialling()
        quiet = self.becomes(HostStatus.MAINTENANCE)
        await self.hosts.maintenance.deactivate(host.id, ADMIN)
        await quiet
        self.assertIsNone(self.hosts.authenticated(host.id))
        up = self.becomes(HostStatus.UP)
        await self.hosts.maintenance.activate(host.id, ADMIN)
        await up
        self.assertFalse(channel.closed.called)

    async def test_an_agent_that_goes_is_missed(self) -> None:
        _, channel = await self.up_by_dialling()
        lost = self.becomes(HostStatus.CONNECTING)
        channel.close()
        host = await lost
        self.assertIn("h1", host.status_detail)
        self.assertIsNone(self.arrivals.lease(host.id))

    async def test_of_two_connections_the_newer_one_is_used_and_an_event_says_so(self) -> None:
        told: Deferred[Event] = Deferred()

        def hear(event: Event) -> None:
            if event.code == EventCode.AGENT_DIALLED_IN_ANEW:
                told.callback(event)

        self.events.subscribe(hear)
        host, first = await self.up_by_dialling()
        codes: list[int] = []
        self.events.subscribe(lambda event: codes.append(event.code))
        second = await self.dial()
        await first.closed
        event = await told
        self.assertIn("Host h1 dialled in anew from 127.0.0.1", event.description)
        self.assertEqual(event.host_id, host.id)
        while await self.agent.asked.get() is not second:
            pass
        self.assertFalse(second.closed.called)
        self.assertNotIn(EventCode.HOST_CONNECTING, codes)
        self.assertIs((await self.registry.get(host.id)).status, HostStatus.UP)

    async def test_the_newer_connection_wins_and_removal_ends_it_whatever_the_mechanism(
        self,
    ) -> None:
        for mechanism in OWN_MECHANISMS:
            told: Deferred[Event] = Deferred()

            def hear(event: Event, told: Deferred[Event] = told) -> None:
                if event.code == EventCode.AGENT_DIALLED_IN_ANEW and not told.called:
                    told.callback(event)

            end = self.events.subscribe(hear)
            host, dial = await self.know_by(mechanism, HostStatus.MAINTENANCE, name=mechanism)
            first, second = await dial(), await dial()
            await first.closed
            self.assertEqual((await told).host_id, host.id)
            end()
            self.assertFalse(second.closed.called)
            await self.hosts.maintenance.remove(host.id, ADMIN)
            await second.closed
            self.assertEqual(list(self.trust.peers()), [])
            with self.assertRaises(AuthenticationError):
                await dial()

    async def test_a_key_that_belongs_to_no_host_is_refused(self) -> None:
        with self.assertRaises(AuthenticationError):
            await self.dial(KeyPair.generate("stranger"))

    async def test_a_removed_host_is_cut_off_and_has_dropped_the_engines_key(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        channel = await self.dial()
        await self.hosts.maintenance.remove(host.id, ADMIN)
        await channel.closed
        self.assertEqual(list(self.agent.trust.peers()), [])
        with self.assertRaises(AuthenticationError):
            await self.dial()

    async def test_a_removed_host_is_cut_off_whatever_its_mechanism(self) -> None:
        for mechanism in OWN_MECHANISMS:
            host = await self.know(
                HostStatus.MAINTENANCE, keys=(), name=mechanism, mechanism=mechanism
            )
            if mechanism in SHARED_KEY_MECHANISMS:
                ours, theirs = agree(mechanism, "engine", str(host.id))
                key = self.host_trust.host_key(ours, mechanism, KeySource.DEPLOYED, ADDED)
                await self.trust_key(host, key)
                channel = await self.dial_by(theirs)
            else:
                [key] = pinned(AGENT_KEY.pin, mechanism=mechanism)
                await self.trust_key(host, key)
                channel = await self.dial(mechanism=mechanism)
            # Asked, the agent would drop the key and close the connection itself.
            await self.hosts.maintenance.remove(host.id, ADMIN, force=True)
            await channel.closed
            self.assertEqual((list(self.trust.peers()), self.secrets.keys()), ([], []))

    async def trust_key(self, host: Host, key: HostKey) -> None:
        await self.registry.change(host.id, lambda host: replace(host, keys=(key,)))

    async def test_a_new_key_may_be_proved_by_dialling_in_and_is_trusted_for_that_alone(
        self,
    ) -> None:
        host = await self.know(HostStatus.INSTALLING, keys=())
        with self.assertRaises(AuthenticationError):
            await self.dial()
        async with self.access.expecting(host, AGENT_KEY.pin) as connect:
            channel = await self.dial()
            proof = await connect()
            self.assertEqual(proof.authenticated.peer.key, AGENT_KEY.pin)
            stats = await proof.call(GET_STATS, Nothing(), result_type=type(STATS))
            self.assertEqual(stats, STATS)
        await channel.closed
        self.assertEqual(list(self.trust.peers()), [])

    async def test_a_connection_that_proved_a_key_which_is_stored_meanwhile_stays(self) -> None:
        host = await self.know(HostStatus.INSTALLING, keys=())
        async with self.access.expecting(host, AGENT_KEY.pin) as connect:
            channel = await self.dial()
            (await connect()).close()
            await self.registry.change(
                host.id, lambda host: replace(host, keys=pinned(AGENT_KEY.pin))
            )
        self.assertFalse(channel.closed.called)
        self.assertIsNotNone(self.arrivals.lease(host.id))

    async def test_a_new_key_that_nobody_proves_is_not_trusted(self) -> None:
        self.patch(network, "ARRIVAL_TIMEOUT_S", 0.05)
        host = await self.know(HostStatus.INSTALLING, keys=())
        with self.assertRaises(ChannelError) as caught:
            async with self.access.expecting(host, AGENT_KEY.pin) as connect:
                await connect()
        self.assertIn("The agent of Host h1 has not dialled in", str(caught.exception))
        self.assertEqual(list(self.trust.peers()), [])

    async def test_the_key_of_another_host_is_not_lent_to_a_new_one(self) -> None:
        await self.know(HostStatus.MAINTENANCE)
        new = replace(await self.only_host(), id=uuid.uuid4(), name="h2", keys=())
        await self.dial()
        with self.assertRaises(Conflict) as caught:
            async with self.access.expecting(new, AGENT_KEY.pin):
                self.fail("The key is another host's.")
        self.assertIn("has the key of Host h1", str(caught.exception))
        [record] = self.trust.peers()
        self.assertEqual(record.name, str((await self.only_host()).id))

    async def test_a_key_that_was_agreed_on_is_proved_by_its_mechanism_and_by_no_other(
        self,
    ) -> None:
        for mechanism in SHARED_KEY_MECHANISMS:
            host = await self.know(
                HostStatus.INSTALLING, keys=(), mechanism=mechanism, name=mechanism
            )
            ours, theirs = agree(mechanism, "engine", str(host.id))
            async with self.access.expecting(host, ours) as connect:
                await self.dial_by(theirs)
                proof = await connect()
                self.assertEqual(proof.authenticated.mechanism, mechanism)
                for other in SHARED_KEY_MECHANISMS:
                    if other != mechanism:
                        with self.assertRaises(AuthenticationError):
                            await self.dial_by(replace(theirs, mechanism=other))
            self.assertEqual((list(self.trust.peers()), self.secrets.keys()), ([], []))

    async def only_host(self) -> Host:
        [host] = await self.registry.list()
        return host

    async def test_a_lease_that_was_given_back_is_over_and_the_channel_is_not(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        channel = await self.dial()
        first, second = self.arrivals.lease(host.id), self.arrivals.lease(host.id)
        assert first is not None
        assert second is not None
        first.close()
        first.close()
        self.assertIn("given back", str(self.successResultOf(first.closed)))
        self.failureResultOf(first.call(GET_STATS, Nothing()), ChannelClosed)
        self.assertEqual(await second.call(GET_STATS, Nothing(), result_type=type(STATS)), STATS)
        second.abort()
        await channel.closed
        self.assertIsInstance(await second.closed, ChannelClosed)


def agree(mechanism: str, engine: str, host: str) -> tuple[SharedKey, SharedKey]:
    """Let an engine and an agent agree on a key; give the half of each."""
    ours = KeyAgreement(mechanism, local=engine, peer=host, role=Role.ACCEPTOR)
    theirs = KeyAgreement(mechanism, local=host, peer=engine, role=Role.INITIATOR)
    return ours.agree(theirs.share), theirs.agree(ours.share)


class SettingsTests(SynchronousTestCase):
    def test_what_an_administrator_says_is_what_agents_read(self) -> None:
        own = Pin(b"o" * 32)
        dial_in = DialIn.parse("https://engine.example:8443", None, own=own)
        self.assertEqual(
            json.loads(dial_in.settings("engine-1", "pin")),
            {
                "name": "engine-1",
                "engine": {
                    "url": "wss://engine.example:8443/pkengine/agent",
                    "mechanism": "pin",
                    "server": str(own),
                },
            },
        )
        shared = json.loads(dial_in.settings("engine-1", "hmac", host_id="h", share="s"))
        self.assertEqual((shared["hostId"], shared["share"]), ("h", "s"))
        self.assertEqual(DialIn.parse("wss://e", "authority", own=own).server, "authority")
        other = str(Pin(b"p" * 32))
        self.assertEqual(DialIn.parse("wss://e", other, own=own).server, other)

    def test_what_is_malformed_is_refused(self) -> None:
        own = Pin(b"o" * 32)
        for url, server, error in (
            ("http://e", None, InvalidEngineUrl),
            ("wss://e", "Authority", InvalidKeyText),
        ):
            self.assertRaises(error, DialIn.parse, url, server, own=own)
