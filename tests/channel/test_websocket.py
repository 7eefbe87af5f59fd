"""A WebSocket as a byte stream, in memory: frames, limits, pings and ends."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pkengine.channel.websocket import MAX_MESSAGE_SIZE, MESSAGE_SIZE, PING_S, websocket_stream


class Recorder(Protocol):
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: list[BaseException] = []

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason.value)


class Wire(StringTransport):
    is_aborted = False

    def abortConnection(self) -> None:
        self.is_aborted = True


class StreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.wire = Wire()
        self.application = Recorder()
        self.peer = Connection(ConnectionType.CLIENT)
        self.stream = websocket_stream(
            Connection(ConnectionType.SERVER), self.application, self.wire, self.clock
        )
        self.stream.makeConnection(self.wire)
        self.addCleanup(self.end)

    def end(self) -> None:
        self.stream.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [], "a timer outlives the stream")

    def sent(self) -> list[Any]:
        """What the other end understands of what was sent."""
        self.peer.receive_data(self.wire.value())
        self.wire.clear()
        return list(self.peer.events())

    def test_octets_that_are_written_go_out_as_binary_messages_of_limited_size(self) -> None:
        data = b"a" * (2 * MESSAGE_SIZE + 1)
        self.stream.writeSequence([data[:5], data[5:]])
        messages = self.sent()
        self.assertEqual(b"".join(bytes(one.data) for one in messages), data)
        self.assertEqual([len(one.data) for one in messages], [MESSAGE_SIZE, MESSAGE_SIZE, 1])
        self.assertTrue(all(isinstance(one, BytesMessage) for one in messages))

    def test_the_same_octets_arrive_wherever_the_network_splits_them(self) -> None:
        octets = self.peer.send(BytesMessage(data=b"one", message_finished=False))
        octets += self.peer.send(BytesMessage(data=b"two"))
        octets += self.peer.send(Ping(b"p")) + self.peer.send(BytesMessage(data=b"three"))
        for split in range(len(octets)):
            application = Recorder()
            stream = websocket_stream(
                Connection(ConnectionType.SERVER), application, self.wire, self.clock
            )
            stream.makeConnection(self.wire)
            stream.dataReceived(octets[:split])
            stream.dataReceived(octets[split:])
            stream.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(b"".join(application.received), b"onetwothree")

    def test_parts_of_a_large_message_are_delivered_before_it_has_ended(self) -> None:
        octets = self.peer.send(BytesMessage(data=b"x" * 50_000))
        self.stream.dataReceived(octets[:10_000])
        self.assertGreater(sum(map(len, self.application.received)), 9_000)

    def test_a_message_that_is_too_large_ends_the_connection(self) -> None:
        frame = bytes([0x82, 0xFF]) + (10**9).to_bytes(8, "big") + b"\0\0\0\0"
        self.stream.dataReceived(frame)
        for _ in range(MAX_MESSAGE_SIZE // 65536 + 1):
            self.stream.dataReceived(b"x" * 65536)
        self.assertLessEqual(sum(map(len, self.application.received)), MAX_MESSAGE_SIZE)
        [close] = self.sent()
        self.assertEqual(close.code, 1009)
        self.assertTrue(self.wire.disconnecting)
        self.stream.connectionLost(Failure(ConnectionDone()))
        [reason] = self.application.lost
        self.assertIsInstance(reason, ConnectionLost)
        self.assertIn(str(MAX_MESSAGE_SIZE), str(reason))
        self.application.lost.clear()

    def test_many_messages_together_may_be_larger_than_one(self) -> None:
        octets = self.peer.send(BytesMessage(data=b"x" * 65536))
        for _ in range(20):
            self.stream.dataReceived(octets)
        self.assertEqual(sum(map(len, self.application.received)), 20 * 65536)

    def test_a_message_without_octets_is_not_shown_to_the_application(self) -> None:
        self.stream.dataReceived(self.peer.send(BytesMessage(data=b"")))
        self.stream.dataReceived(self.peer.send(BytesMessage(data=b"next")))
        self.assertEqual(self.application.received, [b"next"])

    def test_the_addresses_are_those_of_the_connection_below(self) -> None:
        self.wire.peerAddr = IPv4Address("TCP", "192.0.2.1", 40_000)
        self.wire.hostAddr = IPv4Address("TCP", "192.0.2.2", 443)
        self.assertEqual(self.application.transport.getPeer(), self.wire.peerAddr)
        self.assertEqual(self.application.transport.getHost(), self.wire.hostAddr)

    def test_text_ends_the_connection(self) -> None:
        self.stream.dataReceived(self.peer.send(TextMessage(data="hello")))
        self.assertEqual(self.application.received, [])
        [close] = self.sent()
        self.assertEqual(close.code, 1003)
        self.assertTrue(self.wire.disconnecting)

    def test_what_is_no_frame_ends_the_connection(self) -> None:
        for octets, code in (
            (b"\xff\xff\xff\xff", 1002),
            (b"\x82\x01x", 1002),  # a client that does not mask
            (b"\x89\xfe\xff\xff\0\0\0\0", 1002),  # a ping that is too long
        ):
            wire, application = Wire(), Recorder()
            stream = websocket_stream(
                Connection(ConnectionType.SERVER), application, wire, self.clock
            )
            stream.makeConnection(wire)
            stream.dataReceived(octets)
            peer = Connection(ConnectionType.CLIENT)
            peer.receive_data(wire.value())
            [close] = peer.events()
            self.assertEqual(close.code, code)
            self.assertTrue(wire.disconnecting)
            stream.dataReceived(b"more")
            stream.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(application.received, [])
            self.assertIsInstance(application.lost[0], ConnectionLost)

    def test_of_many_pings_the_last_is_answered(self) -> None:
        self.stream.dataReceived(b"".join(self.peer.send(Ping(b"%d" % n)) for n in range(100)))
        [pong] = self.sent()
        self.assertEqual(bytes(pong.payload), b"99")

    def test_who_was_silent_pings_before_a_proxy_gives_up(self) -> None:
        self.clock.pump([1.0] * int(PING_S * 1.1))
        self.assertEqual([type(one) for one in self.sent()], [Ping])
        self.assertLess(PING_S * 1.1, 30.0)

    def test_who_sends_anyway_does_not_ping(self) -> None:
        for _ in range(60):
            self.clock.advance(1.0)
            self.stream.write(b"x")
        self.assertEqual({type(one) for one in self.sent()}, {BytesMessage})

    def test_a_pong_is_taken_and_means_nothing(self) -> None:
        self.stream.dataReceived(self.peer.send(Pong(b"x")))
        self.assertEqual((self.application.received, self.sent()), ([], []))

    def test_the_peers_close_is_answered_and_ends_the_connection(self) -> None:
        self.stream.dataReceived(self.peer.send(CloseConnection(1000)))
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual([type(one) for one in self.sent()], [CloseConnection])
        self.stream.write(b"dropped")
        self.stream.loseConnection()
        self.assertEqual(self.wire.value(), b"")

    def test_an_end_of_ours_is_said_and_nothing_is_delivered_behind_it(self) -> None:
        self.stream.write(b"last")
        self.stream.loseConnection()
        self.assertEqual([type(one) for one in self.sent()], [BytesMessage, CloseConnection])
        self.assertTrue(self.wire.disconnecting)
        self.assertTrue(self.stream.disconnecting)
        self.stream.dataReceived(self.peer.send(CloseConnection(1000)))
        self.assertEqual(self.application.received, [])

    def test_what_comes_behind_an_abort_is_not_delivered(self) -> None:
        def abort(data: bytes) -> None:
            self.application.received.append(data)
            self.stream.abortConnection()

        self.application.dataReceived = abort  # type: ignore[method-assign]
        self.stream.dataReceived(self.peer.send(BytesMessage(data=b"1")) * 2)
        self.assertEqual(self.application.received, [b"1"])
        self.assertTrue(self.wire.is_aborted)
        self.stream.write(b"dropped")
        self.assertEqual(self.wire.value(), b"")

    def test_back_pressure_is_that_of_the_connection_below(self) -> None:
        producer = object()
        self.stream.registerProducer(producer, True)
        self.assertIs(self.wire.producer, producer)
        self.stream.unregisterProducer()
        self.assertIsNone(self.wire.producer)
        self.stream.pauseProducing()
        self.assertEqual(self.wire.producerState, "paused")
        self.stream.resumeProducing()
        self.assertEqual(self.wire.producerState, "producing")
        self.stream.stopProducing()
        self.assertTrue(self.wire.disconnecting)


@implementer(ISSLTransport)
class SecureWire(Wire):
    """A connection below that has TLS."""

    handle, certificate = object(), object()
    no_delay = keep_alive = False

    def getHandle(self) -> object:
        return self.handle

    def getPeerCertificate(self) -> object:
        return self.certificate

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getTcpKeepAlive(self) -> bool:
        return self.keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.keep_alive = enabled


class SecureStreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.wire = SecureWire()
        self.application = Recorder()
        self.stream = websocket_stream(
            Connection(ConnectionType.SERVER), self.application, self.wire, self.clock
        )
        self.stream.makeConnection(self.wire)
        self.addCleanup(self.stream.connectionLost, Failure(ConnectionDone()))
        self.transport = ISSLTransport(self.application.transport)

    def test_the_application_sees_the_tls_connection_below(self) -> None:
        verifyObject(ISSLTransport, self.transport)
        self.assertIs(self.transport.getHandle(), self.wire.handle)
        self.assertIs(self.transport.getPeerCertificate(), self.wire.certificate)

    def test_octets_do_not_wait_for_more_unless_the_application_wants_that(self) -> None:
        self.assertTrue(self.transport.getTcpNoDelay())
        self.transport.setTcpNoDelay(False)
        self.assertFalse(self.wire.no_delay)
        self.assertFalse(self.transport.getTcpNoDelay())

    def test_the_application_may_have_the_connection_below_kept_alive(self) -> None:
        self.transport.setTcpKeepAlive(True)
        self.assertTrue(self.wire.keep_alive)
        self.assertTrue(self.transport.getTcpKeepAlive())

    def test_the_end_of_writing_is_the_end_of_the_stream(self) -> None:
        self.transport.loseWriteConnection()
        peer = Connection(ConnectionType.CLIENT)
        peer.receive_data(self.wire.value())
        self.assertEqual([type(one) for one in peer.events()], [CloseConnection])
        self.assertTrue(self.wire.disconnecting)
