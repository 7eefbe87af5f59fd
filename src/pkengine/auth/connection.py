"""The one driver of authenticated connections, for every mechanism and any byte stream.

Theory of operation.  An `AuthenticatedConnection` sits between a byte transport, such as
TCP, and the protocol of an application.  It is a protocol to the one and a transport to
the other::

    AUTHENTICATING ──outcome──▶ OPEN ──loseConnection──▶ CLOSING ──peer's close──▶ CLOSED
          │                      │ ▲                        │                        ▲
          └──refused, deadline───┴─┴── aborted, violation, trust withdrawn, deadline ┘

*AUTHENTICATING*: octets go to the exchange of the mechanism.  The application's protocol
does not exist yet, so nothing can reach it.  *OPEN*: octets go through the protection that
the exchange gave.  Back-pressure is that of the byte transport, whose producer interfaces
are passed through.  *CLOSING*: our authenticated close is sent, what the peer still sends
is dropped, and its own close is awaited.  *CLOSED*: the byte transport was told to end;
nothing more is delivered, and the application hears it when the transport has ended.

The peer learns nothing but that the connection ended.  Why, stands in the local log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Protocol, cast

from twisted.internet.error import ConnectionClosed, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
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
from zope.interface import implementer

from pkengine.auth.channel_binding import BINDING_LABEL, BINDING_LENGTH
from pkengine.auth.peer import Authenticated, PeerKey
from pkengine.errors import AuthenticationError, AuthenticationTimeout
from pkengine.interfaces import IAuthenticatedTransport, IExchange, IProtection, ITrustStore

_log = Logger()

#: How long the peer may take to answer our close before the connection is cut.
CLOSE_TIMEOUT_S = 5.0


class State(Enum):
    """Where a connection is; see the theory of operation."""

    AUTHENTICATING = "authenticating"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


_MOVES = {
    State.AUTHENTICATING: (State.OPEN, State.CLOSED),
    State.OPEN: (State.CLOSING, State.CLOSED),
    State.CLOSING: (State.CLOSED,),
    State.CLOSED: (),
}


class ConnectionOwner(Protocol):
    """What the connections of one endpoint share; they tell it how each of them fares."""

    reactor: IReactorTime
    trust: ITrustStore
    timeout_s: float

    def began(self, connection: AuthenticatedConnection) -> None:
        """A connection is under way; it is half-open."""

    def authenticated(
        self, connection: AuthenticatedConnection, address: IAddress | None
    ) -> IProtocol | None:
        """Authentication has ended well: give the application's protocol, if it wants one."""

    def connected(self, connection: AuthenticatedConnection, application: IProtocol) -> None:
        """The application's protocol has its transport."""

    def refused(self, connection: AuthenticatedConnection, reason: Failure) -> None:
        """The connection ended before there was an application's protocol."""


@implementer(IHandshakeListener, ITransport, IConsumer, IPushProducer, IAuthenticatedTransport)
class AuthenticatedConnection:
    """One connection: authentication first, then the application's protocol.

    Args:
        owner: what this connection shares with others of one endpoint.
        begin: makes the run of the mechanism, for the RFC 9266 exporter value of the TLS
            connection below, or for no octets where there is none.
        address: of the peer, for the application's factory.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_application",
        "_begin",
        "_deadline",
        "_exchange",
        "_held",
        "_is_closing_wanted",
        "_is_paused",
        "_owner",
        "_producer",
        "_protection",
        "_reason",
        "_transport",
        "_unwatch",
        "authenticated",
        "state",
    )

    authenticated: Authenticated

    def __init__(
        self,
        owner: ConnectionOwner,
        begin: Callable[[bytes], IExchange],
        address: IAddress | None,
    ) -> None:
        self.state = State.AUTHENTICATING
        self._owner = owner
        self._address = address
        self._begin: Callable[[bytes], IExchange] | None = begin
        self._exchange: IExchange | None = None
        self._protection: IProtection | None = None
        self._application: IProtocol | None = None
        self._transport: Any = None
        self._deadline: IDelayedCall | None = None
        self._unwatch: Callable[[], None] | None = None
        #: Why this end has ended the connection, where it has.
        self._reason: Exception | None = None
        #: Octets that the application has not taken because it paused.
        self._held = b""
        self._is_paused = False
        self._producer: IProducer | None = None
        self._is_closing_wanted = False

    def _move(self, state: State) -> None:
        assert state in _MOVES[self.state], f"{self.state} -> {state}"
        self.state = state

    # The face to the byte transport.

    def makeConnection(self, transport: ITransport) -> None:
        """Begin authentication on a byte transport."""
        self._transport = transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        self._set_deadline(self._owner.timeout_s, self._authentication_is_late)
        self._owner.began(self)
        self.connectionMade()

    def connectionMade(self) -> None:
        """Begin the exchange, where nothing else must end first."""
        if not ISSLTransport.providedBy(self._transport):
            self._begin_exchange(b"")

    def handshakeCompleted(self) -> None:
        """Begin the exchange: the TLS connection below has agreed on its keys."""
        tls = self._transport.getHandle()
        self._begin_exchange(tls.export_keying_material(BINDING_LABEL, BINDING_LENGTH))

    def _begin_exchange(self, channel_binding: bytes) -> None:
        begin, self._begin = self._begin, None
        if begin is None or self.state is not State.AUTHENTICATING:
            return
        self._authenticate(self._start, begin, channel_binding)

    def _start(self, begin: Callable[[bytes], IExchange], channel_binding: bytes) -> bytes:
        self._exchange = begin(channel_binding)
        return self._exchange.start()

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the wire."""
        if self.state is State.OPEN:
            self._open(data)
        elif self.state is State.AUTHENTICATING:
            assert self._exchange is not None, "TLS gives no octets before its handshake ends"
            self._authenticate(self._exchange.receive, data)
        elif self.state is State.CLOSING:
            self._await_close(data)

    def connectionLost(self, reason: Failure) -> None:
        """Tell the application, or whoever waits for it, that the byte transport has ended."""
        self._cancel_deadline()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        was_authenticating = self.state is State.AUTHENTICATING
        is_closing = self.state is State.CLOSING
        if self.state is not State.CLOSED:
            self._move(State.CLOSED)
        if self._application is None:
            if was_authenticating:
                self._reason = AuthenticationError(
                    "The peer closed the connection before authentication had ended: it may "
                    "not accept this end's key, or speak another protocol."
                )
            self._owner.refused(self, Failure(self._reason) if self._reason else reason)
        else:
            application, self._application = self._application, None
            application.connectionLost(self._final_reason(reason, is_closing))
        self._exchange = self._protection = None
        self._producer = None

    def _final_reason(self, reason: Failure, is_closing: bool) -> Failure:
        """Tell a provable end from one that anybody on the path could have caused."""
        if self._reason is not None:
            return Failure(self._reason)
        assert self._protection is not None
        if self._protection.is_closed or is_closing:
            return Failure(ConnectionDone())
        if reason.check(ConnectionDone):
            return Failure(ConnectionLost("the stream ended without an authenticated close"))
        return reason

    # Authentication.

    def _authenticate(self, step: Callable[..., bytes], *arguments: object) -> None:
        try:
            out = step(*arguments)
        except AuthenticationError as error:
            self._refuse(error)
        except Exception:
            _log.failure("The mechanism failed on a connection with {peer}", peer=self._address)
            self._refuse(AuthenticationError("The mechanism failed; see the log."))
        else:
            if out:
                self._transport.write(out)
            exchange = self._exchange
            if exchange is not None and exchange.outcome is not None:
                self._admit(exchange, exchange.outcome)

    def _admit(self, exchange: IExchange, outcome: Authenticated) -> None:
        self.authenticated = outcome
        self._protection = exchange.protection()
        self._exchange = None
        self._cancel_deadline()
        self._move(State.OPEN)
        self._unwatch = self._owner.trust.watch(self._trust_withdrawn, self._owner.reactor)
        application = self._owner.authenticated(self, self._address)
        if application is None:
            self._end(ConnectionClosed("the application takes no connection"))
            return
        self._application = application
        application.makeConnection(self)
        self._owner.connected(self, application)
        if self.state is State.OPEN:
            self._open(b"")

    def _refuse(self, reason: Exception) -> None:
        """End authentication: the peer gets at most the alert of the mechanism."""
        exchange = self._exchange
        self._reason = reason
        self._move(State.CLOSED)
        self._cancel_deadline()
        if exchange is not None and (alert := exchange.pending()):
            self._transport.write(alert)
        self._transport.loseConnection()
        self._set_deadline(CLOSE_TIMEOUT_S, self._transport.abortConnection)

    def _authentication_is_late(self) -> None:
        self._deadline = None
        self.cut(
            AuthenticationTimeout(
                f"The peer did not finish authentication within {self._owner.timeout_s:g} s."
            )
        )

    # The open stream.

    def _open(self, data: bytes) -> None:
        assert self._protection is not None
        try:
            plain = self._protection.open(data)
        except AuthenticationError as error:
            _log.warn(
                "The stream from {peer} is broken: {reason}", peer=self._label(), reason=str(error)
            )
            alert = self._protection.pending()
            if alert:
                self._transport.write(alert)
            self._end(error)
            return
        if plain:
            self._deliver(plain)
        if self._protection.is_closed and self.state is State.OPEN and not self._held:
            self._answer_close()

    def _deliver(self, plain: bytes) -> None:
        if self._is_paused or self._held:
            self._held += plain
        else:
            assert self._application is not None
            self._application.dataReceived(plain)

    def _answer_close(self) -> None:
        assert self._protection is not None
        self._transport.write(self._protection.close())
        self._end(None)

    def _await_close(self, data: bytes) -> None:
        assert self._protection is not None
        try:
            self._protection.open(data)
        except AuthenticationError:
            # Our own close is sent, and we take nothing that follows.
            self._end(ConnectionDone())
        if self._protection.is_closed and self.state is State.CLOSING:
            self._end(None)

    def _end(self, reason: Exception | None) -> None:
        """Let the byte transport send what it has, and end."""
        self._reason = reason
        self._move(State.CLOSED)
        self._transport.loseConnection()
        self._set_deadline(CLOSE_TIMEOUT_S, self._transport.abortConnection)

    def cut(self, reason: Exception) -> None:
        """End at once, without sending anything more."""
        if self.state is not State.CLOSED:
            self._reason = reason
            self._move(State.CLOSED)
        self._cancel_deadline()
        self._transport.abortConnection()

    def _trust_withdrawn(self, key: PeerKey) -> None:
        if key == self.authenticated.peer.key:
            _log.info("Trust in {peer} is withdrawn: its connection ends", peer=self._label())
            self.cut(
                AuthenticationError(f"The key {key} of {self._label()} is not trusted any more.")
            )

    # The face to the application.

    def write(self, data: bytes) -> None:
        """Protect and send application octets."""
        if self.state is State.OPEN and data:
            assert self._protection is not None
            self._transport.write(self._protection.seal(data))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Protect and send application octets."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Send everything, prove to the peer that this is the end, and close.

        With a producer registered this waits until it is unregistered.
        """
        if self.state is not State.OPEN:
            return
        if self._producer is not None:
            self._is_closing_wanted = True
            return
        assert self._protection is not None
        self._transport.write(self._protection.close())
        if self._protection.is_closed:
            self._end(None)
            return
        self._move(State.CLOSING)
        self._transport.resumeProducing()  # to hear the peer's close
        self._set_deadline(CLOSE_TIMEOUT_S, self._transport.abortConnection)

    def abortConnection(self) -> None:
        """Close at once; the peer sees a truncated stream."""
        if self.state is not State.CLOSED:
            self._move(State.CLOSED)
        self._cancel_deadline()
        self._transport.abortConnection()

    def getPeer(self) -> IAddress:
        """Give the address of the peer."""
        return cast(IAddress, self._transport.getPeer())

    def getHost(self) -> IAddress:
        """Give the address of this end."""
        return cast(IAddress, self._transport.getHost())

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Let the byte transport pace a producer; see `IConsumer`."""
        self._transport.registerProducer(producer, streaming)
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget the producer; a close that waited for it begins."""
        self._transport.unregisterProducer()
        self._producer = None
        if self._is_closing_wanted:
            self.loseConnection()

    def pauseProducing(self) -> None:
        """Stop reading from the peer."""
        self._is_paused = True
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read from the peer again; octets that were held come first, in a turn of their own."""
        self._is_paused = False
        if self._held:
            self._owner.reactor.callLater(0, self._deliver_held)
        else:
            self._transport.resumeProducing()

    def _deliver_held(self) -> None:
        if self.state is not State.OPEN or self._is_paused:
            return
        held, self._held = self._held, b""
        if held:
            assert self._application is not None
            self._application.dataReceived(held)
        if self.state is State.OPEN:
            self._transport.resumeProducing()
            self._open(b"")

    def stopProducing(self) -> None:
        """End the connection."""
        self.loseConnection()

    def _label(self) -> str:
        return f"{self.authenticated.peer.name} ({self._address})"

    # Deadlines.

    def _set_deadline(self, seconds: float, late: Callable[[], object]) -> None:
        self._cancel_deadline()
        self._deadline = self._owner.reactor.callLater(seconds, late)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            if self._deadline.active():
                self._deadline.cancel()
            self._deadline = None
