"""The one driver of authenticated connections, for every mechanism and any byte stream.

An `AuthenticatedConnection` begins in the state AUTHENTICATING: octets go to the exchange
of the mechanism.  The application's protocol does not exist yet, so nothing can reach it.
With the outcome it becomes the open stream that `pkengine.auth.stream` describes, and the
application's protocol gets it for its transport.

The peer learns nothing but that the connection ended.  Why, stands in the local log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IProtocol,
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
from pkengine.auth.stream import ProtectedStream, State
from pkengine.errors import AuthenticationError, AuthenticationTimeout
from pkengine.interfaces import IExchange, ITrustStore

_log = Logger()


class ConnectionOwner(Protocol):
    """What the connections of one endpoint share; they tell it how each of them fares.

    Attributes:
        reactor: keeps the deadlines.
        trust: whose withdrawals end the connections.
        deadline_s: how long authentication may take, or None where the owner sees to it.
    """

    reactor: IReactorTime
    trust: ITrustStore
    deadline_s: float | None

    def exchange(self, channel_binding: bytes) -> IExchange:
        """Make the run of the mechanism.

        Args:
            channel_binding: the RFC 9266 exporter value of the TLS connection below, or
                empty where there is none.
        """

    def began(self, connection: AuthenticatedConnection) -> None:
        """A connection is under way; it is half-open."""

    def authenticated(
        self, connection: AuthenticatedConnection, address: IAddress
    ) -> IProtocol | None:
        """Authentication has ended well: give the application's protocol, if it wants one."""

    def connected(self, connection: AuthenticatedConnection, application: IProtocol) -> None:
        """The application's protocol has its transport."""

    def refused(self, connection: AuthenticatedConnection, reason: Failure) -> None:
        """The connection ended before there was an application's protocol."""


def late(seconds: float | None) -> AuthenticationTimeout:
    """Say that authentication took too long."""
    return AuthenticationTimeout(f"The peer did not finish authentication within {seconds:g} s.")


@implementer(IProtocol, IHandshakeListener)
class AuthenticatedConnection(ProtectedStream):
    """One connection: authentication first, then the application's protocol.

    Args:
        owner: what this connection shares with others of one endpoint.
    """

    __slots__ = ("_exchange", "_has_begun", "_owner")

    def __init__(self, owner: ConnectionOwner) -> None:
        super().__init__(owner.reactor)
        self._owner = owner
        self._exchange: IExchange | None = None
        self._has_begun = False

    # The face to the byte transport.

    def makeConnection(self, transport: ITransport) -> None:
        """Begin authentication on a byte transport."""
        self._transport = transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if self._owner.deadline_s is not None:
            self._set_deadline(self._owner.deadline_s, self._authentication_is_late)
        self._owner.began(self)
        self.connectionMade()

    def connectionMade(self) -> None:
        """Begin the exchange, where no TLS below must agree on its keys first."""
        if not ISSLTransport.providedBy(self._transport):
            self._begin(b"")

    def handshakeCompleted(self) -> None:
        """Begin the exchange: the TLS connection below has agreed on its keys."""
        tls = self._transport.getHandle()
        self._begin(tls.export_keying_material(BINDING_LABEL, BINDING_LENGTH))

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the wire."""
        if self.state is State.OPEN:
            self._receive(data)
        elif self.state is State.AUTHENTICATING:
            assert self._exchange is not None, "TLS gives no octets before its handshake ends"
            self._authenticate(self._exchange.receive, data)
        elif self.state is State.CLOSING:
            self._await_close(data)

    def connectionLost(self, reason: Failure) -> None:
        """Tell the application, or whoever waits for it, that the byte transport has ended."""
        if self._application is None:
            if self.state is State.AUTHENTICATING:
                self._reason = AuthenticationError(
                    "The peer closed the connection before authentication had ended: it may "
                    "not accept this end's key, or speak another protocol."
                )
            self._owner.refused(self, Failure(self._reason) if self._reason else reason)
        self._lost(reason)
        self._exchange = None

    # Authentication.

    def _begin(self, channel_binding: bytes) -> None:
        if not self._has_begun and self.state is State.AUTHENTICATING:
            self._has_begun = True
            self._authenticate(self._start, channel_binding)

    def _start(self, channel_binding: bytes) -> bytes:
        self._exchange = self._owner.exchange(channel_binding)
        return self._exchange.start()

    def _authenticate(self, step: Callable[[bytes], bytes], data: bytes) -> None:
        try:
            out = step(data)
        except AuthenticationError as error:
            self._refuse(error)
        except Exception:
            _log.failure("The mechanism failed on a connection with {peer}", peer=self.getPeer())
            self._refuse(AuthenticationError("The mechanism failed; see the log."))
        else:
            self._write_some(out)
            exchange = self._exchange
            if exchange is not None and exchange.outcome is not None:
                self._admit(exchange, exchange.outcome)

    def _admit(self, exchange: IExchange, outcome: Authenticated) -> None:
        self.authenticated = outcome
        self._protection = exchange.protection()
        self._exchange = None
        self._cancel_deadline()
        self._move(State.OPEN)
        self._unwatch = self._owner.trust.watch(self._trust_withdrawn, self._reactor)
        application = self._owner.authenticated(self, self.getPeer())
        if application is None:
            self._end(ConnectionClosed("the application takes no connection"))
            return
        self._application = application
        application.makeConnection(self)
        self._owner.connected(self, application)
        if self.state is State.OPEN:
            self._receive(b"")  # what came behind the exchange

    def _trust_withdrawn(self, key: PeerKey) -> None:
        peer = self.authenticated.peer
        if key != peer.key:
            return
        now = self._owner.trust.lookup(key)
        if (
            now is not None
            and now.name == peer.name
            and self.authenticated.mechanism in now.mechanisms
        ):
            return  # what the key has lost is another mechanism
        _log.info("Trust in {peer} is withdrawn: its connection ends", peer=self._label())
        self.cut(AuthenticationError(f"The key {key} of {self._label()} is not trusted any more."))

    def _refuse(self, reason: AuthenticationError) -> None:
        """End authentication: the peer gets at most the alert of the mechanism."""
        if self._exchange is not None:
            self._write_some(self._exchange.pending())
        self._end(reason)

    def _authentication_is_late(self) -> None:
        self._deadline = None
        self.cut(late(self._owner.deadline_s))
