"""Asking for a WebSocket, in memory: attempts that fail, are late, or are given up."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from wsproto import ConnectionType
from wsproto.events import AcceptConnection
from wsproto.handshake import H11Handshake

from pkengine.channel.engine_url import parse_engine_url
from pkengine.channel.http_proxy import HttpProxy, TunnelEndpoint
from pkengine.channel.websocket_client import WebSocketClientEndpoint
from pkengine.errors import ChannelError
from tests.channel.held import HeldEndpoint, Nobody, Recorder

URL = parse_engine_url("wss://engine.example")


def agreement(request: bytes) -> bytes:
    """Give the answer of a server that has WebSockets."""
    server = H11Handshake(ConnectionType.SERVER)
    server.receive_data(request)
    return server.send(AcceptConnection())


class Attempts(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.below = HeldEndpoint()

    def connect(
        self,
        factory: IProtocolFactory | None = None,
        below: IStreamClientEndpoint | None = None,
    ) -> Deferred[IProtocol]:
        endpoint = WebSocketClientEndpoint(self.clock, below or self.below, URL, timeout_s=15.0)
        return endpoint.connect(factory or Factory.forProtocol(Recorder))

    def assert_nothing_is_left(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_agreement_is_understood_wherever_the_network_splits_it(self) -> None:
        connecting = self.connect()
        answer = agreement(self.below.connected())
        for octet in answer[:-1]:
            self.below.receive(bytes([octet]))
        self.assertNoResult(connecting)
        self.below.receive(answer[-1:] + b"\x82\x05hello")
        self.assertEqual(self.successResultOf(connecting).received, b"hello")
        self.below.lost()
        self.assert_nothing_is_left()

    def test_hints_of_a_proxy_before_the_agreement_are_no_refusals(self) -> None:
        hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        for pieces in (1, 1000):
            self.below = HeldEndpoint()
            connecting = self.connect()
            answer = hints + agreement(self.below.connected()) + b"\x82\x05hello"
            for start in range(0, len(answer), pieces):
                self.below.receive(answer[start : start + pieces])
            self.assertEqual(self.successResultOf(connecting).received, b"hello")
            self.below.lost()
        self.assert_nothing_is_left()

    def test_a_refusal_behind_hints_is_one(self) -> None:
        connecting = self.connect()
        self.below.connected()
        self.below.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        self.assertNoResult(connecting)
        self.below.receive(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        error = self.failureResultOf(connecting, ChannelError).value
        self.assertIn("does not reach it", str(error))
        self.below.lost()
        self.assert_nothing_is_left()

    def test_hints_without_end_do_not_move_the_deadline(self) -> None:
        connecting = self.connect()
        self.below.connected()
        for _ in range(15):
            self.below.receive(b"HTTP/1.1 102 Processing\r\n\r\n")
            self.clock.advance(1.0)
        error = self.failureResultOf(connecting, ChannelError).value
        self.assertIn("gave no answer within 15 s", str(error))
        self.below.lost()
        self.assert_nothing_is_left()

    def test_what_comes_behind_a_refusal_is_not_heard(self) -> None:
        connecting = self.connect()
        answer = agreement(self.below.connected())
        self.below.receive(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        error = self.failureResultOf(connecting, ChannelError).value
        self.assertIn("what is no agreement on a WebSocket", str(error))
        self.assertTrue(self.below.transport.disconnected)
        self.below.receive(answer + b"\x82\x05hello")
        self.below.lost()
        self.assert_nothing_is_left()

    def test_an_application_that_takes_no_connection_is_heard(self) -> None:
        connecting = self.connect(Nobody())
        self.below.receive(agreement(self.below.connected()))
        self.failureResultOf(connecting, ConnectionClosed)
        self.assertTrue(self.below.transport.disconnected)
        self.below.lost()
        self.assert_nothing_is_left()

    def test_a_server_that_is_not_reached_in_time_is_given_up(self) -> None:
        connecting = self.connect()
        self.clock.advance(14.9)
        self.assertNoResult(connecting)
        self.clock.advance(0.1)
        error = self.failureResultOf(connecting, ConnectError).value
        self.assertIn("no connection within 15 s", str(error))
        self.assertTrue(self.below.is_cancelled)
        self.assert_nothing_is_left()

    def test_an_attempt_can_be_cancelled_while_the_server_is_not_reached(self) -> None:
        connecting = self.connect()
        connecting.cancel()
        self.failureResultOf(connecting, ConnectingCancelledError)
        self.assertTrue(self.below.is_cancelled)
        self.assert_nothing_is_left()

    def test_a_proxy_that_is_silent_is_given_up_in_time(self) -> None:
        proxy = HttpProxy("proxy", 3128)
        connecting = self.connect(below=TunnelEndpoint(self.below, proxy, "engine.example", 443))
        self.below.connected()
        self.clock.advance(15.0)
        self.failureResultOf(connecting, ConnectError)
        self.assertTrue(self.below.transport.disconnected)
        self.below.lost()
        self.assert_nothing_is_left()
