"""What the resource of WebSockets answers, in memory."""

from __future__ import annotations

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site
from wsproto import ConnectionType
from wsproto.events import Request
from wsproto.handshake import H11Handshake

from pkengine.channel.websocket_server import WebSocketResource
from tests.channel.held import Recorder


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
