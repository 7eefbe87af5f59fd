"""Tunnels through an HTTP proxy, in memory: its answers, and attempts that are given up."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from pkengine.channel.http_proxy import HttpProxy, TunnelEndpoint
from pkengine.errors import ChannelError
from tests.channel.held import HeldEndpoint, Nobody, Recorder

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Tunnels(SynchronousTestCase):
    def setUp(self) -> None:
        self.below = HeldEndpoint()

    def connect(self, factory: IProtocolFactory | None = None) -> Deferred[IProtocol]:
        endpoint = TunnelEndpoint(self.below, HttpProxy("proxy", 3128), "2001:db8::1", 443)
        return endpoint.connect(factory or Factory.forProtocol(Recorder))

    def test_the_proxy_is_asked_for_the_target_and_nothing_is_sent_before_its_answer(self) -> None:
        connecting = self.connect()
        request = self.below.connected()
        self.assertTrue(request.startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"), request)
        self.assertNotIn(b"Proxy-Authorization", request)
        self.assertNoResult(connecting)

    def test_the_same_octets_pass_wherever_the_network_splits_the_answer(self) -> None:
        octets = b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED + b"hello"
        for split in range(1, len(octets)):
            self.below = HeldEndpoint()
            connecting = self.connect()
            self.below.connected()
            self.below.receive(octets[:split])
            self.below.receive(octets[split:])
            application = self.successResultOf(connecting)
            self.assertEqual(application.received, b"hello")
            application.transport.write(b"and back")
            self.assertEqual(self.below.sent(), b"and back")
            self.below.lost()
            [reason] = application.lost
            self.assertIsInstance(reason, ConnectionDone)

    def test_what_comes_behind_a_refusal_is_not_heard(self) -> None:
        connecting = self.connect()
        self.below.connected()
        self.below.receive(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        error = self.failureResultOf(connecting, ChannelError).value
        self.assertIn("proxy:3128, asked for [2001:db8::1]:443, answered 403", str(error))
        self.assertTrue(self.below.transport.disconnected)
        self.below.receive(ESTABLISHED + b"hello")
        self.below.lost()

    def test_an_application_that_takes_no_connection_is_heard(self) -> None:
        connecting = self.connect(Nobody())
        self.below.connected()
        self.below.receive(ESTABLISHED)
        self.failureResultOf(connecting, ConnectionClosed)
        self.assertTrue(self.below.transport.disconnected)
        self.below.lost()

    def test_an_attempt_can_be_cancelled_while_the_proxy_is_not_reached(self) -> None:
        connecting = self.connect()
        connecting.cancel()
        self.failureResultOf(connecting, ConnectingCancelledError)
        self.assertTrue(self.below.is_cancelled)

    def test_an_attempt_can_be_cancelled_while_the_proxy_is_silent(self) -> None:
        connecting = self.connect()
        self.below.connected()
        connecting.cancel()
        self.failureResultOf(connecting, ConnectingCancelledError)
        self.assertTrue(self.below.transport.disconnected)
        self.below.lost()
