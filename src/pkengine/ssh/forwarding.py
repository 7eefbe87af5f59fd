"""Reach an address through a host on which one is logged in (RFC 4254 §7.2)."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.error import ConchError
from twisted.conch.ssh.connection import OPEN_ADMINISTRATIVELY_PROHIBITED
from twisted.internet.address import HostnameAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from pkengine.errors import HostUnreachable
from pkengine.ssh.session import ConnectionService, FlowingChannel
from pkengine.ssh.wire import readable, string

_MAX_CHUNK = 32 * 1024
#: From so many octets on that wait to be sent, whoever writes is asked to pause.
_MAX_WAITING = 64 * 1024


@implementer(IStreamClientEndpoint)
class ForwardedEndpoint:
    """Connects from a host to an address that the host can reach.

    Args:
        carrier: the service of the connection to that host.
        address: a name or an address, as the host knows it.
        port: a TCP port.
    """

    def __init__(self, carrier: ConnectionService, address: str, port: int) -> None:
        self._carrier = carrier
        self._address = address
        self._port = port

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Ask the host to connect; fails with `HostUnreachable` where it cannot, or may not."""
        where = HostnameAddress(self._address.encode(), self._port)
        channel = ForwardedStream(protocolFactory, where, self._carrier.transport.where)
        # Behind where to, the host hears from where; that is nobody's business.
        source = string(b"127.0.0.1") + struct.pack(">I", 0)
        where_to = string(self._address.encode()) + struct.pack(">I", self._port)
        self._carrier.openChannel(channel, where_to + source)
        return channel.connected


class ForwardedStream(FlowingChannel):
    """A channel that is the transport of another protocol.

    What the host on the way does not take yet waits here, and the protocol is asked to pause.

    Attributes:
        connected: fires with the protocol.
    """

    name = b"direct-tcpip"

    def __init__(self, factory: IProtocolFactory, where: IAddress, through: str) -> None:
        super().__init__()
        self.connected: Deferred[IProtocol] = Deferred(lambda _: self.abortConnection())
        self._factory = factory
        self._where = where
        self._through = through
        self._protocol: Any = None
        self._producer: Any = None
        self._is_paused = False
        self._is_open = False
        self._waiting = bytearray()
        self._received = bytearray()

    # From the connection.

    def channelOpen(self, specificData: bytes) -> None:
        """The host is connected."""
        self._is_open = True
        if self.connected.called:  # given up meanwhile
            self.abortConnection()
            return
        self._protocol = self._factory.buildProtocol(self._where)
        self._protocol.makeConnection(self)
        self.connected.callback(self._protocol)

    def openFailed(self, reason: Any) -> None:
        """The host cannot connect, or does not want to."""
        if self.connected.called:
            return
        if not isinstance(reason, ConchError):
            self.connected.errback(HostUnreachable(f"{self._through}, on the way, was lost."))
            return
        words = readable(reason.value or b"")
        if reason.data == OPEN_ADMINISTRATIVELY_PROHIBITED:
            what = f"does not allow that: '{words}'. See AllowTcpForwarding and PermitOpen there."
        else:
            what = f"cannot connect to it: '{words}'."
        self.connected.errback(HostUnreachable(f"{self._through}, on the way, {what}"))

    def dataReceived(self, data: bytes) -> None:
        """Pass on what came, or keep it for a protocol that has paused."""
        if self.is_reading_paused:
            self._received += data
        elif self._protocol is not None:
            self._protocol.dataReceived(data)

    def eofReceived(self) -> None:
        """The other end sends no more: that is its end, as SSH has no half of a connection."""
        self.loseConnection()

    def closed(self) -> None:
        """The channel is gone; what came before it went is passed on."""
        self.resumeProducing()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(ConnectionDone()))

    def pump(self) -> None:
        """Send what waits, as far as the host and the network take it."""
        while self._waiting and self.remoteWindowLeft > 0 and not self.localClosed:
            if self.conn.transport.is_congested:
                break
            size = min(self.remoteWindowLeft, self.remoteMaxPacket, _MAX_CHUNK)
            chunk = bytes(self._waiting[:size])
            del self._waiting[:size]
            self.remoteWindowLeft -= len(chunk)
            self.conn.sendData(self, chunk)
        self._regulate()

    def _regulate(self) -> None:
        must_pause = len(self._waiting) > _MAX_WAITING
        if self._producer is not None and must_pause != self._is_paused:
            self._is_paused = must_pause
            if must_pause:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    # From the protocol.

    def write(self, data: bytes) -> None:
        """Send that."""
        self._waiting += data
        self.pump()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Ask this one to pause when too much waits."""
        self._producer = producer

    def pauseProducing(self) -> None:
        """Pass on nothing; the host may send no more than the window has room for."""
        self.is_reading_paused = True

    def resumeProducing(self) -> None:
        """Pass on what has come meanwhile, and let the host send more."""
        self.is_reading_paused = False
        received, self._received = bytes(self._received), bytearray()
        if received:
            self.dataReceived(received)
        if self._is_open and not self.localClosed and not self.is_reading_paused:
            self.conn.adjustWindow(self, self.localWindowSize - self.localWindowLeft)

    def stopProducing(self) -> None:
        """End it."""
        self.loseConnection()

    def unregisterProducer(self) -> None:
        """Ask nobody any more."""
        self._producer = None
        self._is_paused = False

    def getPeer(self) -> IAddress:
        """Give where this leads."""
        return self._where

    def loseConnection(self) -> None:
        """Close the channel; what the host does not take now is lost."""
        self.pump()
        self._waiting.clear()
        if self._is_open and not self.localClosed:
            super().loseConnection()

    def abortConnection(self) -> None:
        """Close the channel at once."""
        self._waiting.clear()
        self.loseConnection()
