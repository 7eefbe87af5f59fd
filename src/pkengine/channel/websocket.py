"""A WebSocket (RFC 6455) as an ordinary byte stream, so that any protocol runs over it.

Theory of operation.  HTTP proxies pass a WebSocket on where they would not pass TLS of
another kind.  Octets that are written go out as binary messages; octets of binary messages
are delivered as they arrive, whole messages or parts of them, because boundaries of
messages mean nothing here.  Nothing is put together, so that nothing can fill the memory.

`wsproto` knows the frames.  The two ways to a WebSocket are `websocket_server` and
`websocket_client`; from then on both ends are the same.

Proxies end a connection on which nothing passes: whoever has sent nothing for `PING_S` sends
a ping.  A close is no proof of a clean end, since anybody on the path can send one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHandshakeListener,
    IProducer,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from zope.interface import implementer

from pkengine.channel.heartbeat import Heartbeats

_log = Logger()

#: Below half of the 60 s after which nginx and HAProxy, as they are set up by most, give up.
PING_S = 25.0

#: The octets of a message that is sent: what is longer goes out as several.
MESSAGE_SIZE = 65536

#: The octets of a message that is taken; no implementation of this protocol sends more.
MAX_MESSAGE_SIZE = 1024 * 1024


def websocket_stream(
    connection: Connection,
    application: IProtocol,
    transport: ITransport,
    clock: IReactorTime,
    *,
    peer: IAddress | None = None,
) -> WebSocketStream:
    """Make the stream for a WebSocket that both ends have agreed on.

    It begins with `makeConnection`.

    Args:
        connection: knows the frames.
        application: the protocol that gets the stream for its transport.
        transport: the connection below.
        clock: keeps the time of pings.
        peer: where the other end is, or None where that is the end of the connection below.
    """
    is_secure = ISSLTransport.providedBy(transport)
    kind = _SecureStream if is_secure else WebSocketStream
    return kind(connection, application, clock, peer)


@implementer(IProtocol, ITransport, IConsumer, IPushProducer)
class WebSocketStream:
    """The protocol of the connection below, and the transport of the protocol above.

    Args:
        connection: knows the frames.
        application: the protocol above.
        clock: keeps the time of pings.
        peer: where the other end is, or None where that is the end of the connection below.
    """

    __slots__ = (
        "__weakref__",
        "_application",
        "_clock",
        "_connection",
        "_is_ended",
        "_message_size",
        "_peer",
        "_reason",
        "_sent_at",
        "_transport",
    )

    def __init__(
        self,
        connection: Connection,
        application: IProtocol,
        clock: IReactorTime,
        peer: IAddress | None,
    ) -> None:
        self._peer = peer
        self._connection = connection
        self._application = application
        self._clock = clock
        self._transport: Any = None
        self._sent_at = clock.seconds()
        #: The octets that have come of a message that has not ended.
        self._message_size = 0
        self._is_ended = False
        self._reason: Exception | None = None

    # The face to the connection below.

    def makeConnection(self, transport: ITransport) -> None:
        """Begin; what came behind the agreement on the WebSocket is delivered."""
        self._transport = transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        Heartbeats.of(self._clock, PING_S).join(self._ping_if_silent)
        self.connectionMade()

    def connectionMade(self) -> None:
        """Give the application its transport."""
        self._application.makeConnection(self)
        if ISSLTransport.providedBy(self) and IHandshakeListener.providedBy(self._application):
            cast(Any, self._application).handshakeCompleted()
        self.dataReceived(b"")

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the wire."""
        if self._is_ended:
            return
        self._connection.receive_data(data)
        ping: Ping | None = None
        for event in self._connection.events():
            if isinstance(event, Ping):
                ping = event  # only the last one needs an answer (RFC 6455 §5.5.3)
            elif isinstance(event, BytesMessage):
                self._message_part(event)
            elif isinstance(event, TextMessage):
                self._refuse(CloseReason.UNSUPPORTED_DATA, "a text message came")
            elif isinstance(event, CloseConnection):
                self._peer_closes(event)
            if self._is_ended:
                return
        if ping is not None:
            self._send(ping.response())

    def connectionLost(self, reason: Failure) -> None:
        """Tell the application that the connection below has ended."""
        self._is_ended = True
        Heartbeats.of(self._clock, PING_S).leave(self._ping_if_silent)
        self._application.connectionLost(Failure(self._reason) if self._reason else reason)

    def _message_part(self, event: BytesMessage) -> None:
        self._message_size += len(event.data)
        if self._message_size > MAX_MESSAGE_SIZE:
            self._refuse(
                CloseReason.MESSAGE_TOO_BIG,
                f"a message of more than {MAX_MESSAGE_SIZE} octets came",
            )
            return
        if event.message_finished:
            self._message_size = 0
        if event.data:
            self._application.dataReceived(bytes(event.data))

    def _peer_closes(self, event: CloseConnection) -> None:
        """Answer a close; `wsproto` also gives one where the peer broke the protocol."""
        if self._connection.state is ConnectionState.OPEN:
            self._refuse(CloseReason(event.code), event.reason or "the peer broke the protocol")
            return
        self._send(event.response())
        self._end(None)

    def _refuse(self, code: CloseReason, why: str) -> None:
        _log.warn("The WebSocket of {peer} ends: {why}", peer=self.getPeer(), why=why)
        self._send(CloseConnection(code))
        self._end(ConnectionLost(f"the WebSocket ended: {why}"))

    def _end(self, reason: Exception | None) -> None:
        self._is_ended = True
        self._reason = reason
        self._transport.loseConnection()

    def _ping_if_silent(self, now: float) -> None:
        if now - self._sent_at >= PING_S and not self._is_ended:
            self._send(Ping())

    def _send(self, event: Event) -> None:
        self._sent_at = self._clock.seconds()
        self._transport.write(self._connection.send(event))

    # The face to the application.

    def write(self, data: bytes) -> None:
        """Send octets."""
        if self._is_ended:
            return
        for start in range(0, len(data), MESSAGE_SIZE):
            self._send(BytesMessage(data=data[start : start + MESSAGE_SIZE]))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send octets."""
        self.write(b"".join(data))

    @property
    def disconnecting(self) -> bool:
        """Whether nothing more is delivered."""
        return self._is_ended

    def loseConnection(self) -> None:
        """Send everything, say that this is the end, and close."""
        if not self._is_ended:
            self._send(CloseConnection(CloseReason.NORMAL_CLOSURE))
            self._end(None)

    def abortConnection(self) -> None:
        """Close at once."""
        self._is_ended = True
        self._transport.abortConnection()

    def getPeer(self) -> Any:
        """Give the address of the other end, as far as proxies in between tell it."""
        return self._peer or self._transport.getPeer()

    def getHost(self) -> Any:
        """Give the address of this end."""
        return self._transport.getHost()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Let the connection below pace a producer; see `IConsumer`."""
        self._transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._transport.unregisterProducer()

    def pauseProducing(self) -> None:
        """Stop reading."""
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """End the connection."""
        self.loseConnection()


@implementer(ISSLTransport)
class _SecureStream(WebSocketStream):
    """A stream over TLS; it shows the TLS connection, for its channel binding (RFC 9266)."""

    __slots__ = ()

    def getHandle(self) -> SSL.Connection:
        """Give the TLS connection."""
        return cast(SSL.Connection, self._transport.getHandle())

    def getPeerCertificate(self) -> object:
        """Give the certificate of the other end of the TLS connection, or None."""
        return self._transport.getPeerCertificate()

    def loseWriteConnection(self) -> None:
        """End the connection: a WebSocket has no half-close."""
        self.loseConnection()

    def getTcpNoDelay(self) -> bool:
        """See `ITCPTransport`."""
        return bool(self._transport.getTcpNoDelay())

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See `ITCPTransport`."""
        self._transport.setTcpNoDelay(enabled)

    def getTcpKeepAlive(self) -> bool:
        """See `ITCPTransport`."""
        return bool(self._transport.getTcpKeepAlive())

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See `ITCPTransport`."""
        self._transport.setTcpKeepAlive(enabled)
