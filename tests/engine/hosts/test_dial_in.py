"""Hosts whose agents dial the engine, over real HTTPS."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import Channel, connect_channel
from pkengine.channel.engine_url import engine_endpoint
from pkengine.channel.verbs import GET_STATS, Nothing
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import network
from pkengine.engine.hosts.dial_in import DialIn
from pkengine.engine.hosts.entrance import Entrance
from pkengine.engine.model import Event, Host, HostStatus
from pkengine.errors import (
    AuthenticationError,
    ChannelClosed,
    ChannelError,
    InvalidEngineUrl,
    InvalidKeyText,
)
from pkengine.keys import KeyPair, Pin
from tests.channel.https import serve_https, url_of
from tests.engine.hosts.fakes import ADMIN, CAPABILITIES, STATS
from tests.engine.hosts.test_network import AGENT_KEY, ENGINE_KEY, HostsTestCase


class DialInTests(HostsTestCase):
    timeout = 60
    dial_in = DialIn("wss://engine.example/pkengine/agent", "authority")

    async def setUp(self) -> None:
        await super().setUp()
        await self.listener.stopListening()  # nobody reaches this agent
        self.entrance = Entrance(
            reactor,
            [PinAuthenticator(ENGINE_KEY, self.trust)],
            self.arrivals,
            arrived=self.monitor.retry,
            registry=self.registry,
            events=self.events,
        )
        root, own, agents = Resource(), Resource(), Resource()
        root.putChild(b"pkengine", own)
        own.putChild(b"agent", agents)
        self.entrance.put_into(agents)
        await self.entrance.open()
        self.https_port = await serve_https(self, Site(root), ENGINE_KEY)

    async def tearDown(self) -> None:
        await self.hosts.stop()
        await self.entrance.close()
        await self.store.close()

    async def dial(self, key_pair: KeyPair = AGENT_KEY) -> Channel:
        """Dial the engine, as the agent does."""
        trust = MemoryTrustStore([TrustedPeer("engine", ENGINE_KEY.pin)])
        return await connect_channel(
            reactor,
            engine_endpoint(
                reactor, url_of(self.https_port, "/pkengine/agent/pin"), pin=ENGINE_KEY.pin
            ),
            PinAuthenticator(key_pair, trust),
            expected="engine",
            verbs=self.agent.verbs,
        )

    async def up_by_dialling(self) -> tuple[Host, Channel]:
        up = self.becomes(HostStatus.UP)
        await self.know(HostStatus.INITIALIZING)
        channel = await self.dial()
        return await up, channel

    async def test_a_host_that_cannot_be_reached_is_up_when_its_agent_dials_in(self) -> None:
        gone = self.becomes(HostStatus.NON_RESPONSIVE)
        await self.know(HostStatus.INITIALIZING)
        await gone
        up = self.becomes(HostStatus.UP)
        await self.dial()
        host = await up
        self.assertEqual(host.capabilities, CAPABILITIES)
        self.assertEqual(self.hosts.authenticated(host.id).peer.key, AGENT_KEY.pin)

    async def test_an_agent_that_came_before_it_was_needed_is_used_at_once(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        await self.dial()
        up = self.becomes(HostStatus.UP)
        await self.hosts.activate(host.id, ADMIN)
        await up

    async def test_an_attempt_to_reach_a_host_ends_when_its_agent_dials_in(self) -> None:
        # An address where nothing answers, not even with a refusal.
        host = await self.know(HostStatus.MAINTENANCE)
        hanging: Deferred[Any] = Deferred()

        async def hang(*_: object) -> Any:
            return await hanging

        self.patch(self.access, "_connect", hang)
        connecting = Deferred.fromCoroutine(self.access.connect(host))
        await self.dial()
        lease = await connecting
        self.assertEqual(await lease.call(GET_STATS, Nothing(), result_type=type(STATS)), STATS)
        self.assertTrue(hanging.called)

    async def test_an_attempt_that_is_given_up_is_cancelled_and_nobody_waits(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)

        async def hang(*_: object) -> Any:
            return await Deferred()

        self.patch(self.access, "_connect", hang)
        connecting = Deferred.fromCoroutine(self.access.connect(host))
        connecting.cancel()
        self.failureResultOf(connecting)
        self.assertEqual(self.arrivals._watchers, {})

    async def test_a_connection_stays_through_maintenance(self) -> None:
        host, channel = await self.up_by_dialling()
        quiet = self.becomes(HostStatus.MAINTENANCE)
        await self.hosts.deactivate(host.id, ADMIN)
        await quiet
        self.assertIsNone(self.hosts.authenticated(host.id))
        up = self.becomes(HostStatus.UP)
        await self.hosts.activate(host.id, ADMIN)
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
        up = self.becomes(HostStatus.UP)
        second = await self.dial()
        await first.closed
        event = await told
        self.assertIn("Host h1 dialled in anew from 127.0.0.1", event.description)
        self.assertEqual(event.host_id, host.id)
        await up
        self.assertFalse(second.closed.called)

    async def test_a_key_that_belongs_to_no_host_is_refused(self) -> None:
        with self.assertRaises(AuthenticationError):
            await self.dial(KeyPair.generate("stranger"))

    async def test_a_removed_host_is_cut_off_and_has_dropped_the_engines_key(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        channel = await self.dial()
        await self.hosts.remove(host.id, ADMIN)
        await channel.closed
        self.assertEqual(list(self.agent.trust.peers()), [])
        with self.assertRaises(AuthenticationError):
            await self.dial()

    async def test_a_new_key_may_be_proved_by_dialling_in_and_is_trusted_for_that_alone(
        self,
    ) -> None:
        host = await self.know(HostStatus.INSTALLING, keys=())
        with self.assertRaises(AuthenticationError):
            await self.dial()
        verifying = Deferred.fromCoroutine(self.access.connect_to_new(host, AGENT_KEY.pin))
        channel = await self.dial()
        proof = await verifying
        self.assertEqual(proof.authenticated.peer.key, AGENT_KEY.pin)
        self.assertEqual(await proof.call(GET_STATS, Nothing(), result_type=type(STATS)), STATS)
        proof.close()
        await channel.closed
        self.assertEqual(list(self.trust.peers()), [])

    async def test_a_new_key_that_nobody_proves_is_not_trusted(self) -> None:
        self.patch(network, "CONNECT_TIMEOUT_S", 0.2)
        host = await self.know(HostStatus.INSTALLING, keys=())
        with self.assertRaises(ChannelError) as caught:
            await self.access.connect_to_new(host, AGENT_KEY.pin)
        self.assertIn("No connection to", str(caught.exception))
        self.assertEqual(list(self.trust.peers()), [])

    async def test_a_proof_that_is_given_up_leaves_no_trust(self) -> None:
        host = await self.know(HostStatus.INSTALLING, keys=())
        verifying = Deferred.fromCoroutine(self.access.connect_to_new(host, AGENT_KEY.pin))
        verifying.cancel()
        self.failureResultOf(verifying)
        self.assertEqual((list(self.trust.peers()), self.arrivals._watchers), ([], {}))

    async def test_the_key_of_another_host_is_not_lent_to_a_new_one(self) -> None:
        await self.know(HostStatus.MAINTENANCE)
        new = replace(await self.registry.get((await self.only_host()).id), id=uuid.uuid4())
        await self.dial()
        with self.assertRaises(ChannelError):
            await self.access.connect_to_new(new, AGENT_KEY.pin)
        [record] = self.trust.peers()
        self.assertEqual(record.name, str((await self.only_host()).id))

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
