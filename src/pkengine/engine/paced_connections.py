"""Bounds what many connections together may take of one turn of the reactor.

Theory of operation.  A fleet that has lost its engine comes back at once, and a turn of the
reactor that shook hands with all of it would let nobody else be heard for seconds.  So a
connection is begun, and what comes on it is passed on, only while the turn has time left; the
others wait, first come, first served, and are not read from meanwhile.  Who says nothing takes
no place in the queue.  Where there is no crowd nothing ever waits.

A connection on which a request was answered may be told apart from the crowd: `hasten` lets it
pass by the queue from then on.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

#: What goes on while this is used up is finished, so a turn takes a little longer.
TURN_S = 0.02


def hasten(transport: object) -> None:
    """Have a connection wait for others no more, where it is a paced one, whatever is on top."""
    # Protocols that wrap others pass on what they do not know themselves.
    do = getattr(transport, "hasten", None)
    if do is not None:
        do()


class PacedConnection(ProtocolWrapper):
    """A connection that goes on when it is its turn."""

    factory: PacedConnections
    _held = b""
    _has_begun = False
    _is_waiting = False
    _is_paused = False
    _is_hastened = False

    def makeConnection(self, transport: ITransport) -> None:
        """Begin what speaks above when it is this connection's turn."""
        directlyProvides(self, providedBy(transport))
        self.connected = 1
        self.transport = transport
        self.factory.registerProtocol(self)  # type: ignore[no-untyped-call]
        self.factory.pass_on(self)

    def dataReceived(self, data: bytes) -> None:
        """Take octets, for now or for later."""
        if self._is_hastened and not self._is_waiting:
            self.wrappedProtocol.dataReceived(data)
            return
        self._held += data
        if not self._is_waiting:
            self.factory.pass_on(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell what speaks above, where it has begun."""
        self.connected = 0
        self._held = b""
        self.factory.leave(self)
        if self._has_begun:
            super().connectionLost(reason)  # type: ignore[no-untyped-call]
        else:
            self.factory.unregisterProtocol(self)  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        """See `IPushProducer`; called from above."""
        self._is_paused = True
        self._read(False)

    def resumeProducing(self) -> None:
        """See `IPushProducer`; called from above."""
        self._is_paused = False
        if self._is_waiting:
            return
        self._read(True)
        if self._held:
            self.factory.pass_on(self)

    def hasten(self) -> None:
        """Wait no more from now on; what waits already keeps its place."""
        self._is_hastened = True

    def wait(self) -> None:
        """Read nothing until `go_on`."""
        self._is_waiting = True
        self._read(False)

    def go_on(self) -> None:
        """Begin, or pass on what has come."""
        was_waiting, self._is_waiting = self._is_waiting, False
        if not self._has_begun:
            self._has_begun = True
            self.wrappedProtocol.makeConnection(cast(ITransport, self))
        if self._held and not self._is_paused:
            held, self._held = self._held, b""
            self.wrappedProtocol.dataReceived(held)
        if was_waiting and not (self._is_paused or self._is_waiting):
            self._read(True)

    def abort(self) -> None:
        """End the connection at once."""
        if self.connected:
            cast(ITCPTransport, self.transport).abortConnection()

    def _read(self, is_wanted: bool) -> None:
        if not self.connected:
            return
        producer = cast(IPushProducer, self.transport)
        if is_wanted:
            producer.resumeProducing()
        else:
            producer.pauseProducing()


class PacedConnections(WrappingFactory):
    """Gives all connections together so much of each turn of the reactor, and no more.

    Args:
        factory: speaks on the connections.
        clock: measures, and calls in the next turn.
        turn_s: the time in a turn, in seconds.
    """

    protocol = PacedConnection
    noisy = False
    _log = Logger()

    def __init__(
        self, factory: IProtocolFactory, clock: IReactorTime, *, turn_s: float = TURN_S
    ) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self._clock = clock
        self._turn_s = turn_s
        self._spent_s = 0.0
        self._waiting: dict[PacedConnection, None] = {}
        self._next_turn: IDelayedCall | None = None

    def pass_on(self, connection: PacedConnection) -> None:
        """Let a connection go on now, where this turn has time for it, or when it has."""
        if self._waiting or self._spent_s >= self._turn_s:
            self._waiting[connection] = None
            connection.wait()
        else:
            self._go_on(connection)

    def leave(self, connection: PacedConnection) -> None:
        """Forget one that may wait."""
        self._waiting.pop(connection, None)

    def _go_on(self, connection: PacedConnection) -> None:
        if self._next_turn is None:
            self._next_turn = self._clock.callLater(0, self._begin_turn)
        begun = self._clock.seconds()
        try:
            connection.go_on()
        finally:
            # The clock of the system may be set back.
            self._spent_s += max(0.0, self._clock.seconds() - begun)

    def _begin_turn(self) -> None:
        self._next_turn = None
        self._spent_s = 0.0
        while self._waiting and self._spent_s < self._turn_s:
            connection = next(iter(self._waiting))
            del self._waiting[connection]
            try:
                self._go_on(connection)
            except Exception:  # the reactor does the same where it calls a protocol itself
                self._log.failure("A connection failed, and is ended")
                connection.abort()
