"""What the resource of WebSockets answers, in memory."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel
from twisted.web.server import Site
from wsproto import ConnectionType
from wsproto.events import Request
from wsproto.handshake import H11Handshake

from pkengine.channel import admission
from pkengine.channel.admission import Admission
from pkengine.channel.websocket_server import WebSocketResource
from tests.channel.held import Recorder


class Turns(SynchronousTestCase):
    """Requests that wait for their turn."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.admission = Admission(self.clock, at_once=1)
        self.resource = WebSocketResource(self.clock, "/x", admission=self.admission)
        self.successResultOf(self.resource.listen(Factory.forProtocol(Recorder)))
        self.site = Site(self.resource, reactor=self.clock)

    def ask(self) -> tuple[StringTransport, HTTPChannel]:
        transport = StringTransport()
        http = self.site.buildProtocol(None)
        http.makeConnection(transport)
        request = Request(host="engine.example", target="/x")
        http.dataReceived(H11Handshake(ConnectionType.CLIENT).send(request))
        return transport, http

    def test_one_is_answered_when_the_one_before_has_settled(self) -> None:
        first, second = self.ask()[0], self.ask()[0]
        self.assertIn(b" 101 ", first.value())
        self.assertEqual(second.value(), b"")
        self.admission.settled()
        self.assertIn(b" 101 ", second.value())

    def test_one_that_has_gone_meanwhile_is_left_out(self) -> None:
        self.ask()
        gone, http = self.ask()
        third, _ = self.ask()
        http.connectionLost(Failure(ConnectionDone()))
        self.admission.settled()
        self.assertEqual(gone.value(), b"")
        self.assertIn(b" 101 ", third.value())

    def test_when_agents_are_taken_no_more_those_that_wait_are_told(self) -> None:
        self.ask()
        waiting, _ = self.ask()
        self.resource.stop_listening()
        self.admission.settled()
        self.assertIn(b" 503 ", waiting.value())
        self.assertIn(b"Retry-After: 1", waiting.value())

    def test_who_would_wait_too_long_is_told_to_come_again(self) -> None:
        self.patch(admission, "MOST_WAITING", 1)
        self.ask()
        self.ask()
        self.assertIn(b" 503 ", self.ask()[0].value())


class Versions(SynchronousTestCase):
    def answer(self, version: bytes) -> bytes:
        """Ask for a WebSocket in a version of HTTP; give the line of status."""
        clock, transport = Clock(), StringTransport()
        resource = WebSocketResource(clock, "/pkengine/agent")
        self.successResultOf(resource.listen(Factory.forProtocol(Recorder)))
        http = Site(resource, reactor=clock).buildProtocol(None)
        http.makeConnection(transport)
        request = H11Handshake(ConnectionType.CLIENT).send(
            Request(host="engine.example", target="/pkengine/agent")
        )
        http.dataReceived(request.replace(b"HTTP/1.1", version))
        return transport.value().partition(b"\r\n")[0]

    def test_only_a_version_of_http_that_knows_upgrades_leads_to_a_websocket(self) -> None:
        self.assertIn(b" 101 ", self.answer(b"HTTP/1.1"))
        self.assertIn(b" 426 ", self.answer(b"HTTP/1.0"))
