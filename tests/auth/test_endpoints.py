"""Authenticated endpoints over real loopback connections, and who is kept out."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    connectProtocol,
)
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pkengine.auth import (
    AuthenticatedClientEndpoint,
    AuthenticatedServerEndpoint,
    FileTrustStore,
    PinAuthenticator,
    TrustedPeer,
    format_trust_line,
)
from pkengine.errors import AuthenticationError, AuthenticationTimeout
from pkengine.interfaces import IAuthenticatedTransport
from tests.auth.pinned import AGENT, ENGINE, STRANGER, Ends, RawTls, ends, hostile_context


class Application(Protocol):
    """Either end: keeps what it gets, and lets a test wait for it."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[BaseException] = Deferred()
        self._waiting: tuple[int, Deferred[bytes]] | None = None

    def connectionMade(self) -> None:
        self.factory.made.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._check()

    def read(self, length: int) -> Deferred[bytes]:
        deferred: Deferred[bytes] = Deferred()
        self._waiting = (length, deferred)
        self._check()
        return deferred

    def _check(self) -> None:
        if self._waiting is not None and len(self.received) >= self._waiting[0]:
            (length, deferred), self._waiting = self._waiting, None
            taken, self.received = self.received[:length], self.received[length:]
            deferred.callback(taken)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.callback(reason.value)


class Applications(Factory):
    protocol = Application
    noisy = False

    def __init__(self) -> None:
        self.made: list[Application] = []
        self.started = 0

    def startFactory(self) -> None:
        self.started += 1

    def stopFactory(self) -> None:
        self.started -= 1


class RawProtocol(Protocol):
    """A TLS client of a test's own, or something that is no TLS at all."""

    def __init__(self, context: SSL.Context | None = None, early: bytes = b"") -> None:
        self.raw = RawTls(context, is_client=True) if context is not None else None
        self.early = early
        self.lost: Deferred[None] = Deferred()
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.raw.feed() if self.raw else self.early)

    def dataReceived(self, data: bytes) -> None:
        if self.raw is not None:
            was_done = self.raw.is_done
            self.transport.write(self.raw.feed(data))
            if self.raw.is_done and not was_done:
                self.transport.write(self.raw.send(self.early) if self.early else b"")
                self.done.callback(None)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.callback(None)


class OverLoopback(TestCase):
    def setUp(self) -> None:
        self.both: Ends = ends()
        self.servers = Applications()

    async def listen(self, **options: Any) -> IListeningPort:
        endpoint = TCP4ServerEndpoint(reactor, 0, backlog=512, interface="127.0.0.1")
        self.port = await AuthenticatedServerEndpoint(
            reactor, endpoint, self.both.agent, **options
        ).listen(self.servers)
        self.addCleanup(self.port.stopListening)
        self.number = self.port.getHost().port
        return self.port

    def tcp(self) -> TCP4ClientEndpoint:
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.number)

    def dial(self, authenticator: PinAuthenticator | None = None, **options: Any) -> Deferred[Any]:
        self.clients = Applications()
        return AuthenticatedClientEndpoint(
            reactor, self.tcp(), authenticator or self.both.engine, **options
        ).connect(self.clients)

    async def connected(self) -> tuple[Application, Application]:
        client = await self.dial(expected="agent")
        return client, self.servers.made[-1]

    async def close(self, client: Application, server: Application) -> tuple[Any, Any]:
        client.transport.loseConnection()
        return await client.lost, await server.lost

    async def raw(self, context: SSL.Context | None = None, early: bytes = b"") -> RawProtocol:
        return await connectProtocol(self.tcp(), RawProtocol(context, early))


class Talking(OverLoopback):
    async def test_octets_flow_both_ways_and_the_close_is_clean_at_both_ends(self) -> None:
        await self.listen()
        client, server = await self.connected()
        for end, name in ((client, "agent"), (server, "engine")):
            self.assertEqual(IAuthenticatedTransport(end.transport).authenticated.peer.name, name)
        client.transport.write(b"question")
        self.assertEqual(await server.read(8), b"question")
        server.transport.write(b"answer")
        self.assertEqual(await client.read(6), b"answer")
        for reason in await self.close(client, server):
            self.assertIsInstance(reason, ConnectionDone)

    async def test_megabytes_arrive_before_the_close_though_the_reader_pauses(self) -> None:
        await self.listen()
        client, server = await self.connected()
        data = bytes(range(256)) * 16384
        server.transport.pauseProducing()
        client.transport.write(data)
        client.transport.loseConnection()
        reactor.callLater(0, server.transport.resumeProducing)
        self.assertEqual(await server.read(len(data)), data)
        self.assertIsInstance(await server.lost, ConnectionDone)
        self.assertIsInstance(await client.lost, ConnectionDone)

    async def test_a_producer_is_paced_by_a_slow_reader(self) -> None:
        await self.listen()
        client, server = await self.connected()

        class Source:
            """Writes until it is paused."""

            def __init__(self) -> None:
                self.paused: Deferred[None] = Deferred()
                self.is_paused = False
                self.left = 200

            def pauseProducing(self) -> None:
                self.is_paused = True
                if not self.paused.called:
                    self.paused.callback(None)

            def resumeProducing(self) -> None:
                self.is_paused = False
                while self.left and not self.is_paused:
                    self.left -= 1
                    client.transport.write(b"x" * 65536)
                if not self.left:
                    client.transport.unregisterProducer()

            def stopProducing(self) -> None:
                pass

        source = Source()
        server.transport.pauseProducing()
        client.transport.registerProducer(source, True)
        source.resumeProducing()
        await source.paused
        self.assertGreater(source.left, 0, "the reader's pause must reach the writer")
        server.transport.resumeProducing()
        self.assertEqual(len(await server.read(200 * 65536)), 200 * 65536)
        await self.close(client, server)

    async def test_a_truncated_stream_is_not_taken_for_a_closed_one(self) -> None:
        await self.listen()
        client, server = await self.connected()
        client.transport._transport.loseConnection()  # as anybody on the path could
        self.assertIsInstance(await server.lost, ConnectionLost)
        await client.lost

    async def test_an_aborted_connection_is_lost_at_the_other_end(self) -> None:
        await self.listen()
        client, server = await self.connected()
        client.transport.abortConnection()
        self.assertIsInstance(await server.lost, ConnectionLost)
        await client.lost

    async def test_factories_are_started_and_stopped(self) -> None:
        port = await self.listen()
        client, server = await self.connected()
        self.assertEqual((self.servers.started, self.clients.started), (1, 1))
        await self.close(client, server)
        await port.stopListening()
        self.assertEqual((self.servers.started, self.clients.started), (0, 0))

    async def test_any_byte_stream_will_do(self) -> None:
        # A socket's path may have 107 characters, and trial's folders are deep.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/socket"
        listening = AuthenticatedServerEndpoint(
            reactor, UNIXServerEndpoint(reactor, path), self.both.agent
        )
        port = await listening.listen(self.servers)
        self.addCleanup(port.stopListening)
        client = await AuthenticatedClientEndpoint(
            reactor, UNIXClientEndpoint(reactor, path), self.both.engine, "agent"
        ).connect(Applications())
        client.transport.write(b"hello")
        self.assertEqual(await self.servers.made[0].read(5), b"hello")
        await self.close(client, self.servers.made[0])


class Refusing(OverLoopback):
    async def test_an_untrusted_initiator_hears_so_and_the_log_has_the_reason(
        self,
    ) -> None:
        await self.listen()
        self.both.agent_trust.remove(ENGINE.pin)
        with capturedLogs() as events:
            error = await self.assertFailure(self.dial(), AuthenticationError)
        self.assertIn("does not accept this end's key", str(error))
        (event,) = [each for each in events if each.get("mechanism") == "pin"]
        self.assertIn("is not trusted", event["reason"])
        self.assertEqual((self.servers.made, self.clients.made), ([], []))

    async def test_an_acceptor_that_is_not_trusted_gets_no_octet(self) -> None:
        await self.listen()
        self.both.engine_trust.remove(AGENT.pin)
        await self.assertFailure(self.dial(), AuthenticationError)
        self.assertEqual((self.servers.made, self.clients.made), ([], []))

    async def test_octets_that_a_stranger_pipelines_are_never_delivered(self) -> None:
        await self.listen()
        stranger = await self.raw(hostile_context(STRANGER), b"a command")
        await stranger.lost
        self.assertEqual(self.servers.made, [])
        self.assertEqual(stranger.raw.plain, b"")

    async def test_octets_that_a_friend_pipelines_are_delivered_once_it_is_known(self) -> None:
        await self.listen()
        friend = await self.raw(hostile_context(ENGINE), b"a command")
        await friend.done
        while not self.servers.made:
            pause: Deferred[None] = Deferred()
            reactor.callLater(0, pause.callback, None)
            await pause
        self.assertEqual(await self.servers.made[0].read(9), b"a command")
        friend.transport.abortConnection()
        await friend.lost
        await self.servers.made[0].lost

    async def test_what_is_no_tls_is_refused_and_the_next_is_served(self) -> None:
        await self.listen()
        for octets in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x16\x03\x01\xff\xff",
        ):
            other = await self.raw(None, octets)
            if octets.startswith(b"\x16"):
                other.transport.loseConnection()
            await other.lost
        client, server = await self.connected()
        await self.close(client, server)

    async def test_an_endpoint_that_nobody_listens_on_is_reported_as_such(self) -> None:
        port = await self.listen()
        await port.stopListening()
        await self.assertFailure(self.dial(), ConnectionRefusedError)

    async def test_a_server_that_hangs_up_is_reported(self) -> None:
        class HangUp(Protocol):
            def connectionMade(self) -> None:
                self.transport.loseConnection()

        self.port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            Factory.forProtocol(HangUp)
        )
        self.number = self.port.getHost().port
        self.addCleanup(self.port.stopListening)
        error = await self.assertFailure(self.dial(), AuthenticationError)
        self.assertIn("closed the connection before", str(error))

    async def test_no_secret_is_in_the_log(self) -> None:
        with capturedLogs() as events:
            await self.listen()
            client, server = await self.connected()
            await self.close(client, server)
            self.both.agent_trust.remove(ENGINE.pin)
            await self.assertFailure(self.dial(), AuthenticationError)
        text = repr([dict(event) for event in events])
        self.assertIn("refused", text)
        for pair in (ENGINE, AGENT):
            number = pair.private_key.private_numbers().private_value
            self.assertNotIn(str(number), text)
            self.assertNotIn(f"{number:x}", text)
        self.assertNotIn("PRIVATE KEY", text)


class Withdrawing(OverLoopback):
    async def test_a_key_that_is_removed_ends_its_connections_at_once(self) -> None:
        await self.listen()
        client, server = await self.connected()
        self.both.agent_trust.remove(ENGINE.pin)
        self.assertIn("not trusted any more", str(await server.lost))
        self.assertIsInstance(await client.lost, ConnectionLost)
        await self.assertFailure(self.dial(), AuthenticationError)

    async def test_a_line_that_is_removed_from_the_file_ends_its_connections(self) -> None:
        path = Path(self.mktemp())
        path.write_text(format_trust_line(TrustedPeer("engine", ENGINE.pin)) + "\n")
        path.chmod(0o600)
        store = FileTrustStore(path)
        self.both.agent = PinAuthenticator(AGENT, store)
        await self.listen()
        client, server = await self.connected()
        path.write_text("# nobody\n")
        store.refresh()  # what the store does once a second
        self.assertIn("not trusted any more", str(await server.lost))
        await client.lost

    async def test_other_connections_go_on(self) -> None:
        self.both.agent_trust.add(TrustedPeer("engine-2", STRANGER.pin))
        await self.listen()
        client, server = await self.connected()
        other = await self.dial(PinAuthenticator(STRANGER, self.both.engine_trust))
        other_server = self.servers.made[-1]
        self.both.agent_trust.remove(ENGINE.pin)
        await gatherResults([client.lost, server.lost])
        other.transport.write(b"still here")
        self.assertEqual(await other_server.read(10), b"still here")
        await self.close(other, other_server)


class Crowd(OverLoopback):
    """Half-open connections: a deadline and a cap, and others are served."""

    def idle(self, count: int) -> list[socket.socket]:
        sockets = []
        for _ in range(count):
            idle = socket.create_connection(("127.0.0.1", self.number))
            self.addCleanup(idle.close)
            sockets.append(idle)
        return sockets

    async def turn(self) -> None:
        pause: Deferred[None] = Deferred()
        reactor.callLater(0, pause.callback, None)
        await pause

    async def test_thousands_of_idle_connections_keep_nobody_out(self) -> None:
        await self.listen(max_pending=100)
        for _ in range(20):
            self.idle(100)
            await self.turn()
        client, server = await self.connected()
        client.transport.write(b"served")
        self.assertEqual(await server.read(6), b"served")
        await self.close(client, server)

    async def test_the_oldest_is_cut_when_there_are_too_many(self) -> None:
        await self.listen(max_pending=3)
        with capturedLogs() as events:
            strangers = [await self.raw(None, b"\x16") for _ in range(4)]
            await strangers[0].lost
        self.assertIn(
            "More than 3 connections are under way in authentication: the oldest is cut.",
            [event.get("reason") for event in events],
        )
        for stranger in strangers[1:]:
            self.assertFalse(stranger.lost.called)
            stranger.transport.abortConnection()
        await gatherResults([stranger.lost for stranger in strangers[1:]])

    async def test_idle_connections_are_cut_at_the_deadline(self) -> None:
        clock = Clock()
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self.port = await AuthenticatedServerEndpoint(
            clock, endpoint, self.both.agent, timeout_s=7
        ).listen(self.servers)
        self.addCleanup(self.port.stopListening)
        self.number = self.port.getHost().port
        stranger = await self.raw(None, b"\x16\x03\x01")
        while not clock.getDelayedCalls():
            await self.turn()
        clock.advance(7)
        await stranger.lost


class Dialling(SynchronousTestCase):
    """The attempt to connect, with a reactor in memory."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        endpoint = AuthenticatedClientEndpoint(
            self.reactor,
            TCP4ClientEndpoint(self.reactor, "192.0.2.1", 54321),
            ends().engine,
            "agent",
            timeout_s=20,
        )
        self.result = endpoint.connect(Applications())

    def begin(self) -> Any:
        factory = self.reactor.tcpClients[0][2]
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        return protocol, transport

    def test_a_peer_that_does_not_answer_is_given_up_in_time(self) -> None:
        self.reactor.advance(19.9)
        self.assertNoResult(self.result)
        self.reactor.advance(0.1)
        self.assertIn("within 20 s", str(self.failureResultOf(self.result, TimeoutError).value))
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_a_peer_that_does_not_finish_authentication_is_cut_in_time(self) -> None:
        _, transport = self.begin()
        self.reactor.advance(20)
        self.failureResultOf(self.result, AuthenticationTimeout)
        self.assertTrue(transport.disconnected or transport.disconnecting)

    def test_cancelling_before_there_is_a_connection_stops_connecting(self) -> None:
        self.result.cancel()
        self.failureResultOf(self.result, ConnectingCancelledError)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_cancelling_during_authentication_cuts_the_connection(self) -> None:
        protocol, transport = self.begin()
        self.result.cancel()
        self.failureResultOf(self.result, ConnectingCancelledError)
        self.assertTrue(transport.disconnected or transport.disconnecting)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
