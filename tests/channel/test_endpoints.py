"""Channels over real pinned TLS on the loopback."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pkengine.channel import Channel, ChannelListener, Verbs, connect_channel, listen_channel
from pkengine.errors import AuthenticationError, ChannelClosed, ChannelError
from tests.auth.pinned import AGENT, ENGINE, ends


class OverLoopback(TestCase):
    async def listen(self, **options: Any) -> ChannelListener:
        self.both = ends()
        self.accepted: list[Channel] = []
        verbs = Verbs()
        verbs.add("any", Any, lambda params, _: params)
        verbs.add("wait", Any, lambda *_: Deferred())
        self.listener = await listen_channel(
            reactor,
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            self.both.agent,
            verbs=verbs,
            **{"on_channel": self.accepted.append, **options},
        )
        self.addCleanup(self.listener.stopListening)
        return self.listener

    async def dial(self, **options: Any) -> Channel:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listener.getHost().port)
        options = {"expected": "agent", **options}
        return await connect_channel(reactor, endpoint, self.both.engine, **options)

    async def test_calls_go_both_ways(self) -> None:
        await self.listen()
        verbs = Verbs()
        verbs.add("where", Any, lambda _, channel: channel.peer_name)
        channel = await self.dial(verbs=verbs)
        self.assertEqual(await channel.call("any", {"x": 1}), {"x": 1})
        (accepted,) = self.accepted
        self.assertEqual(await accepted.call("where"), "agent")
        self.assertEqual(accepted.authenticated.peer.key, ENGINE.pin)
        self.assertEqual(channel.authenticated.peer.key, AGENT.pin)
        self.assertEqual(channel.authenticated.mechanism, "pin")
        self.assertEqual(channel.peer_address, self.listener.getHost())
        self.assertEqual(channel.own_address, accepted.peer_address)

    async def test_a_listener_needs_nobody_to_be_told(self) -> None:
        await self.listen(on_channel=None)
        channel = await self.dial()
        self.assertEqual(await channel.call("any"), {})
        self.assertEqual(len(self.listener.channels), 1)

    async def test_thousands_of_calls_and_megabytes_both_ways_at_once(self) -> None:
        await self.listen()
        verbs = Verbs()
        verbs.add("any", Any, lambda params, _: params)
        channel = await self.dial(verbs=verbs)
        long = "x" * 500_000
        results = await gatherResults(
            [channel.call("any", {"n": number}) for number in range(2000)]
            + [channel.call("any", {"long": long}) for _ in range(10)]
            + [self.accepted[0].call("any", {"long": long}) for _ in range(10)]
        )
        self.assertEqual(results[:2000], [{"n": number} for number in range(2000)])
        self.assertEqual(results[2000:], [{"long": long}] * 20)

    async def test_closing_is_heard_at_the_other_end(self) -> None:
        await self.listen()
        channel = await self.dial()
        channel.close()
        self.assertEqual(str(await self.accepted[0].closed), "engine closed the channel.")
        await channel.closed
        self.assertEqual(self.listener.channels, set())

    async def test_calls_under_way_fail_when_the_peer_closes(self) -> None:
        await self.listen()
        channel = await self.dial()
        call = channel.call("wait")
        await channel.call("any")
        self.accepted[0].close()
        await self.assertFailure(call, ChannelClosed)

    async def test_a_key_that_is_removed_ends_its_channel_at_once(self) -> None:
        await self.listen()
        channel = await self.dial()
        self.both.engine_trust.remove(AGENT.pin)
        reason = await channel.closed
        self.assertIn("not trusted any more", str(reason))
        self.assertIsInstance(reason.__cause__, AuthenticationError)
        await self.accepted[0].closed

    async def test_stopping_to_listen_closes_the_channels(self) -> None:
        listener = await self.listen()
        self.assertTrue(IListeningPort.providedBy(listener))
        channels = [await self.dial() for _ in range(3)]
        await listener.stopListening()
        await gatherResults([channel.closed for channel in channels])
        listener.startListening()

    async def test_another_peer_than_the_expected_is_refused(self) -> None:
        await self.listen()
        with self.assertRaisesRegex(AuthenticationError, "expected 'agent-2'"):
            await self.dial(expected="agent-2")

    async def test_a_port_where_nobody_listens_is_a_channel_error(self) -> None:
        await self.listen()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listener.getHost().port)
        await self.listener.stopListening()
        with self.assertRaisesRegex(ChannelError, "No connection to the peer: .*refused"):
            await connect_channel(reactor, endpoint, self.both.engine, expected=None)
        self.listener.startListening()

    async def test_garbage_and_half_open_connections_do_not_keep_an_engine_out(self) -> None:
        await self.listen()

        class Garbage(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(b"\x00" * 100)

            def connectionLost(self, reason: object = None) -> None:
                ended.callback(None)

        ended: Deferred[None] = Deferred()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listener.getHost().port)
        await endpoint.connect(Factory.forProtocol(Garbage))
        await ended
        channel = await self.dial()
        self.assertEqual(await channel.call("any"), {})


class InMemory(SynchronousTestCase):
    def test_a_peer_that_does_not_answer_is_given_up_in_time(self) -> None:
        clock = MemoryReactorClock()
        endpoint = TCP4ClientEndpoint(clock, "192.0.2.1", 54321)
        result = Deferred.fromCoroutine(
            connect_channel(clock, endpoint, ends().engine, expected="agent", timeout_s=5)
        )
        clock.advance(5)
        failure = self.failureResultOf(result, ChannelError)
        self.assertIn("No connection to agent", str(failure.value))
        self.assertIn("within 5 s", str(failure.value))
