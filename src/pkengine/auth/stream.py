"""An authenticated stream: the transport that an application gets, and how it ends.

Theory of operation.  A `ProtectedStream` sits between a byte transport, such as TCP, and
the protocol of an application.  It is a protocol to the one and a transport to the other::

    AUTHENTICATING ──outcome──▶ OPEN ──loseConnection──▶ CLOSING ──peer's close──▶ CLOSED
          │                      │                          │                        ▲
          └──refused, deadline───┴──peer's close, violation,┴── deadline ────────────┘
                                    trust withdrawn, abort

*AUTHENTICATING* is the matter of `pkengine.auth.connection`.  *OPEN*: octets go through the
protection that the mechanism gave.  Back-pressure is that of the byte transport, whose
producer interfaces are passed through.  *CLOSING*: our authenticated close is sent, what
the peer still sends is dropped, and its own close is awaited.  *CLOSED*: the byte transport
was told to end; nothing more is delivered, and the application hears of it when the
transport has ended.

The end is clean, `ConnectionDone`, only where the peer has said provably that it was one;
what anybody on the path could have caused is `ConnectionLost`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, cast

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IProducer,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pkengine.auth.peer import Authenticated
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IAuthenticatedTransport, IProtection

_log = Logger()

#: How long the peer may take to answer our close, from when everything is sent.
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


@implementer(ITransport, IConsumer, IPushProducer, IAuthenticatedTransport)
class ProtectedStream:
    """One connection, from when its peer is known.

    Args:
        reactor: keeps the deadlines.
    """

    __slots__ = (
        "__weakref__",
        "_application",
        "_deadline",
        "_held",
        "_is_closing_wanted",
        "_is_paused",
        "_producer",
        "_protection",
        "_reactor",
        "_reason",
        "_transport",
        "_unwatch",
        "authenticated",
        "state",
    )

    authenticated: Authenticated

    def __init__(self, reactor: IReactorTime) -> None:
        self.state = State.AUTHENTICATING
        self._reactor = reactor
        self._protection: IProtection
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

    # What comes in.

    def _receive(self, data: bytes) -> None:
        """Take protected octets, in the state OPEN."""
        try:
            plain = self._protection.open(data)
        except AuthenticationError as error:
            _log.warn(
                "The stream from {peer} is broken: {reason}", peer=self._label(), reason=str(error)
            )
            self._write_some(self._protection.pending())
            self._end(error)
            return
        if plain:
            self._deliver(plain)
        if self._protection.is_closed and self.state is State.OPEN and not self._held:
            self._write_some(self._protection.close())
            self._end(None)

    def _deliver(self, plain: bytes) -> None:
        if self._is_paused or self._held:
            self._held += plain
        else:
            assert self._application is not None, "an open stream has an application"
            self._application.dataReceived(plain)

    def _deliver_held(self) -> None:
        if self.state is State.OPEN and not self._is_paused:
            held, self._held = self._held, b""
            self._transport.resumeProducing()
            if held:
                self._deliver(held)
            if self.state is State.OPEN:
                self._receive(b"")

    def _await_close(self, data: bytes) -> None:
        """Take protected octets, in the state CLOSING."""
        try:
            self._protection.open(data)
        except AuthenticationError:
            self._end(ConnectionDone())  # our own close is sent, and we take nothing more
        else:
            if self._protection.is_closed:
                self._end(None)

    # How it ends.

    def _lost(self, reason: Failure) -> None:
        """Tell the application that the byte transport has ended."""
        was_closing = self.state is State.CLOSING
        if self.state is not State.CLOSED:
            self._move(State.CLOSED)
        self._cancel_deadline()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        self._producer = None
        application, self._application = self._application, None
        if application is not None:
            application.connectionLost(self._final_reason(reason, was_closing))

    def _final_reason(self, reason: Failure, was_closing: bool) -> Failure:
        """Tell a provable end from one that anybody on the path could have caused."""
        if self._reason is not None:
            return Failure(self._reason)
        if self._protection.is_closed or was_closing:
            return Failure(ConnectionDone())
        if reason.check(ConnectionDone):
            return Failure(ConnectionLost("the stream ended without an authenticated close"))
        return reason

    def _end(self, reason: Exception | None) -> None:
        """Let the byte transport send what it has, and end."""
        self._reason = reason
        if self.state is State.CLOSING:
            self._transport.unregisterProducer()  # TLS below would wait for it
        self._move(State.CLOSED)
        self._transport.loseConnection()
        self._set_deadline(CLOSE_TIMEOUT_S, self._transport.abortConnection)

    def cut(self, reason: Exception | None) -> None:
        """End at once, without sending anything more."""
        if self.state is not State.CLOSED:
            self._reason = reason
            self._move(State.CLOSED)
        self._cancel_deadline()
        self._transport.abortConnection()

    def _label(self) -> str:
        return f"{self.authenticated.peer.name} ({self.getPeer()})"

    # The face to the application.

    def write(self, data: bytes) -> None:
        """Protect and send application octets."""
        if self.state is State.OPEN and data:
            self._transport.write(self._protection.seal(data))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Protect and send application octets."""
        self.write(b"".join(data))

    @property
    def disconnecting(self) -> bool:
        """Whether nothing more is delivered; Twisted's line protocols ask for it."""
        return self.state is not State.OPEN or self._is_closing_wanted

    def loseConnection(self) -> None:
        """Send everything, prove to the peer that this is the end, and close.

        With a producer registered this waits until it is unregistered.  What the peer sends
        from now on is dropped: there is no half-close.
        """
        if self.state is not State.OPEN:
            return
        if self._producer is not None:
            self._is_closing_wanted = True
            return
        if self._protection.is_closed:
            self._write_some(self._protection.close())
            self._end(None)
            return
        self._move(State.CLOSING)
        self._set_deadline(CLOSE_TIMEOUT_S, self._close_is_late)
        self._transport.registerProducer(_UnsentOctets(self), True)
        self._write_some(self._protection.close())
        self._transport.resumeProducing()  # to hear the peer's close

    def unsent(self, is_much: bool) -> None:
        """Wait for the peer's close only from when it could have come."""
        if self.state is State.CLOSING:
            if is_much:
                self._cancel_deadline()
            else:
                self._set_deadline(CLOSE_TIMEOUT_S, self._close_is_late)

    def _close_is_late(self) -> None:
        self._deadline = None
        self._transport.abortConnection()

    def abortConnection(self) -> None:
        """Close at once; the peer sees a truncated stream."""
        self.cut(None)

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
        if self._producer is not None:
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
            self._reactor.callLater(0, self._deliver_held)
        else:
            self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """End the connection."""
        self.loseConnection()

    # What both faces need.

    def _write_some(self, data: bytes) -> None:
        if data:
            self._transport.write(data)

    def _set_deadline(self, seconds: float, late: Callable[[], object]) -> None:
        self._cancel_deadline()
        self._deadline = self._reactor.callLater(seconds, late)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            if self._deadline.active():
                self._deadline.cancel()
            self._deadline = None


@implementer(IPushProducer)
class _UnsentOctets:
    """Hears from the byte transport whether much is unsent, while a stream is closing."""

    def __init__(self, stream: ProtectedStream) -> None:
        self._stream = stream

    def pauseProducing(self) -> None:
        """Much is unsent."""
        self._stream.unsent(True)

    def resumeProducing(self) -> None:
        """Everything was sent."""
        self._stream.unsent(False)

    def stopProducing(self) -> None:
        """The byte transport has ended; `connectionLost` follows."""
