"""Endpoints whose connections are authenticated before an application sees them.

They wrap any Twisted endpoint, and take any factory: to an ordinary protocol its transport
looks as usual, and it also provides `IAuthenticatedTransport`.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pkengine.auth.connection import AuthenticatedConnection
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IAuthenticator, IExchange

_log = Logger()

AUTHENTICATION_TIMEOUT_S = 10.0
MAX_PENDING = 1024


@implementer(IStreamServerEndpoint)
class AuthenticatedServerEndpoint:
    """Listens on an endpoint, as the acceptor of every connection.

    Args:
        reactor: keeps the deadlines.
        endpoint: where the byte streams come from.
        authenticator: the mechanism, who this end is and whom it accepts.
        timeout_s: how long authentication may take.
        max_pending: how many connections may be under way in authentication; with one
            more, the oldest of them is cut, so that idle strangers keep nobody out.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        authenticator: IAuthenticator,
        *,
        timeout_s: float = AUTHENTICATION_TIMEOUT_S,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._authenticator = authenticator
        self._timeout_s = timeout_s
        self._max_pending = max_pending

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; the factory makes a protocol for each peer that proved who it is."""
        return self._endpoint.listen(
            _Acceptors(
                self._reactor,
                self._authenticator,
                protocolFactory,
                self._timeout_s,
                self._max_pending,
            )
        )


@implementer(IStreamClientEndpoint)
class AuthenticatedClientEndpoint:
    """Connects to an endpoint, as the initiator.

    Args:
        reactor: keeps the deadlines.
        endpoint: gives the byte stream.
        authenticator: the mechanism, who this end is and whom it accepts.
        expected: the name of the peer that must answer, or None for any trusted one.
        timeout_s: how long authentication may take, from when the byte stream is there.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        authenticator: IAuthenticator,
        expected: str | None = None,
        *,
        timeout_s: float = AUTHENTICATION_TIMEOUT_S,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._authenticator = authenticator
        self._expected = expected
        self._timeout_s = timeout_s

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; the result is the factory's protocol, once the peer has said *ready*.

        Cancelling ends the connection.  Errors are those of the wrapped endpoint, and
        AuthenticationError.
        """
        initiator = _Initiator(
            self._reactor, self._authenticator, protocolFactory, self._expected, self._timeout_s
        )
        initiator.connecting = self._endpoint.connect(initiator)
        initiator.connecting.addErrback(initiator.failed)
        return initiator.result


class _AuthenticatingFactory(Factory):
    """Makes the driver of each connection, and the application's protocol after it."""

    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        authenticator: IAuthenticator,
        application: IProtocolFactory,
        timeout_s: float,
    ) -> None:
        self.reactor = reactor
        self.trust = authenticator.trust
        self.timeout_s = timeout_s
        self._authenticator = authenticator
        self._application = application

    def startFactory(self) -> None:
        self._application.doStart()

    def stopFactory(self) -> None:
        self._application.doStop()

    def logPrefix(self) -> str:
        return type(self._application).__name__

    def authenticated(
        self, connection: AuthenticatedConnection, address: IAddress | None
    ) -> IProtocol | None:
        return self._application.buildProtocol(cast(Any, address))


class _Acceptors(_AuthenticatingFactory):
    """The connections of one listening port."""

    def __init__(
        self,
        reactor: IReactorTime,
        authenticator: IAuthenticator,
        application: IProtocolFactory,
        timeout_s: float,
        max_pending: int,
    ) -> None:
        super().__init__(reactor, authenticator, application, timeout_s)
        self._max_pending = max_pending
        self._pending: dict[AuthenticatedConnection, None] = {}  # oldest first

    def buildProtocol(self, addr: IAddress | None) -> AuthenticatedConnection:  # type: ignore[override]
        return AuthenticatedConnection(self, self._authenticator.acceptor, addr)

    def began(self, connection: AuthenticatedConnection) -> None:
        self._pending[connection] = None
        if len(self._pending) > self._max_pending:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.cut(
                AuthenticationError(
                    f"More than {self._max_pending} connections are under way in "
                    "authentication: the oldest is cut."
                )
            )

    def authenticated(
        self, connection: AuthenticatedConnection, address: IAddress | None
    ) -> IProtocol | None:
        self._pending.pop(connection, None)
        return super().authenticated(connection, address)

    def connected(self, connection: AuthenticatedConnection, application: IProtocol) -> None:
        _log.debug(
            "{name} at {peer} is authenticated by {mechanism}",
            name=connection.authenticated.peer.name,
            peer=connection.getPeer(),
            mechanism=connection.authenticated.mechanism,
        )

    def refused(self, connection: AuthenticatedConnection, reason: Failure) -> None:
        self._pending.pop(connection, None)
        _log.warn(
            "A connection from {peer} is refused by {mechanism}: {reason}",
            peer=connection.getPeer(),
            mechanism=self._authenticator.mechanism,
            reason=reason.getErrorMessage(),
        )


class _Initiator(_AuthenticatingFactory):
    """One attempt to connect."""

    def __init__(
        self,
        reactor: IReactorTime,
        authenticator: IAuthenticator,
        application: IProtocolFactory,
        expected: str | None,
        timeout_s: float,
    ) -> None:
        super().__init__(reactor, authenticator, application, timeout_s)
        self._expected = expected
        self._connection: AuthenticatedConnection | None = None
        self.result: Deferred[IProtocol] = Deferred(self._cancel)
        self.connecting: Deferred[Any] | None = None

    def buildProtocol(self, addr: IAddress | None) -> AuthenticatedConnection:  # type: ignore[override]
        return AuthenticatedConnection(self, self._begin, addr)

    def _begin(self, channel_binding: bytes) -> IExchange:
        return self._authenticator.initiator(self._expected, channel_binding)

    def began(self, connection: AuthenticatedConnection) -> None:
        self._connection = connection

    def connected(self, connection: AuthenticatedConnection, application: IProtocol) -> None:
        self._connection = None
        if not self.result.called:
            self.result.callback(application)

    def refused(self, connection: AuthenticatedConnection, reason: Failure) -> None:
        self._connection = None
        self.failed(reason)

    def failed(self, failure: Failure) -> None:
        """The attempt came to nothing, before or after there was a byte stream."""
        if not self.result.called:
            self.result.errback(failure)

    def _cancel(self, result: Deferred[IProtocol]) -> None:
        if self._connection is not None:
            self._connection.cut(AuthenticationError("Connecting was cancelled."))
        if self.connecting is not None:
            self.connecting.cancel()
        if not result.called:
            result.errback(Failure(ConnectingCancelledError(cast(Any, None))))
