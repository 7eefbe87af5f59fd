"""An endpoint below another, of which a test says when it connects and what comes."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IStreamClientEndpoint)
class HeldEndpoint:
    """Makes one connection in memory, once `connected` is called."""

    def __init__(self) -> None:
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.1", 3128))
        self.is_cancelled = False

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        def cancelled(_: object) -> None:
            self.is_cancelled = True

        self._factory = protocolFactory
        self._connecting: Deferred[IProtocol] = Deferred(cancelled)
        return self._connecting

    def connected(self) -> bytes:
        """Make the connection; give what is sent at its beginning."""
        self._protocol = self._factory.buildProtocol(self.transport.getPeer())
        self._protocol.makeConnection(self.transport)
        self._connecting.callback(self._protocol)
        return self.sent()

    def sent(self) -> bytes:
        data = self.transport.value()
        self.transport.clear()
        return data

    def receive(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def lost(self) -> None:
        """End the connection, in a turn of its own as a reactor would."""
        error = ConnectionAborted() if self.transport.disconnected else ConnectionDone()
        self._protocol.connectionLost(Failure(error))


class Recorder(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: list[BaseException] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason.value)


class Nobody(Factory):
    """Takes no connection."""

    def buildProtocol(self, address: object) -> None:
        return None
