"""Endpoints whose connections are authenticated before an application sees them.

They wrap any Twisted endpoint, and take any factory: to an ordinary protocol its transport
looks as usual, and it also provides `IAuthenticatedTransport`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, TimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
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

from pkengine.auth.connection import AuthenticatedConnection, late
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IAuthenticator, IExchange

_log = Logger()

AUTHENTICATION_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 20.0
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
        settled: is called when authentication on a connection has ended, well or not.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        authenticator: IAuthenticator,
        *,
        timeout_s: float = AUTHENTICATION_TIMEOUT_S,
        max_pending: int = MAX_PENDING,
        settled: Callable[[], object] = lambda: None,
    ) -> None:
        self._settled = settled
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
                self._settled,
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
        timeout_s: how long connecting and authentication may take together.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        authenticator: IAuthenticator,
        expected: str | None = None,
        *,
        timeout_s: float = CONNECT_TIMEOUT_S,
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
        return initiator.connect(self._endpoint)


class _Acceptors(Factory):
    """The connections of one listening port."""

    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        authenticator: IAuthenticator,
        application: IProtocolFactory,
        timeout_s: float,
        max_pending: int,
        settled: Callable[[], object],
    ) -> None:
        self._settled = settled
        self.reactor = reactor
        self.trust = authenticator.trust
        self.deadline_s: float | None = timeout_s
        self._authenticator = authenticator
        self._application = application
        self._max_pending = max_pending
        self._pending: dict[AuthenticatedConnection, None] = {}  # oldest first

    def startFactory(self) -> None:
        self._application.doStart()

    def stopFactory(self) -> None:
        self._application.doStop()

    def logPrefix(self) -> str:
        return type(self._application).__name__

    def buildProtocol(self, addr: IAddress | None) -> AuthenticatedConnection:  # type: ignore[override]
        return AuthenticatedConnection(self)

    def exchange(self, channel_binding: bytes) -> IExchange:
        return self._authenticator.acceptor(channel_binding)

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
        self, connection: AuthenticatedConnection, address: IAddress
    ) -> IProtocol | None:
        self._pending.pop(connection, None)
        self._settled()
        return self._application.buildProtocol(address)

    def connected(self, connection: AuthenticatedConnection, application: IProtocol) -> None:
        _log.debug(
            "{name} at {peer} is authenticated by {mechanism}",
            name=connection.authenticated.peer.name,
            peer=connection.getPeer(),
            mechanism=connection.authenticated.mechanism,
        )

    def refused(self, connection: AuthenticatedConnection, reason: Failure) -> None:
        self._pending.pop(connection, None)
        self._settled()
        _log.warn(
            "A connection from {peer} is refused by {mechanism}: {reason}",
            peer=connection.getPeer(),
            mechanism=self._authenticator.mechanism,
            reason=reason.getErrorMessage(),
        )


@implementer(IProtocolFactory)
class _Initiator:
    """One attempt to connect; light, because it lives as long as the connection."""

    __slots__ = (
        "_application",
        "_authenticator",
        "_connecting",
        "_connection",
        "_deadline",
        "_expected",
        "_result",
        "_timeout_s",
        "deadline_s",
        "reactor",
        "trust",
    )

    def __init__(
        self,
        reactor: IReactorTime,
        authenticator: IAuthenticator,
        application: IProtocolFactory,
        expected: str | None,
        timeout_s: float,
    ) -> None:
        self.reactor = reactor
        self.trust = authenticator.trust
        self.deadline_s: float | None = None  # it covers connecting, too
        self._timeout_s = timeout_s
        self._authenticator = authenticator
        self._application = application
        self._expected = expected
        self._connection: AuthenticatedConnection | None = None
        self._connecting: Deferred[Any] | None = None
        self._deadline: IDelayedCall | None = None
        self._result: Deferred[IProtocol] | None = None

    def connect(self, endpoint: IStreamClientEndpoint) -> Deferred[IProtocol]:
        """Begin the attempt."""
        result: Deferred[IProtocol] = Deferred(self._cancelled)
        self._result = result
        self._deadline = self.reactor.callLater(self._timeout_s, self._late)
        self._connecting = endpoint.connect(self)
        self._connecting.addErrback(self._failed)
        return result

    # The factory.

    def doStart(self) -> None:
        self._application.doStart()

    def doStop(self) -> None:
        self._application.doStop()

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:
        return AuthenticatedConnection(self)

    # The owner of the connection.

    def exchange(self, channel_binding: bytes) -> IExchange:
        return self._authenticator.initiator(self._expected, channel_binding)

    def began(self, connection: AuthenticatedConnection) -> None:
        self._connection = connection

    def authenticated(
        self, connection: AuthenticatedConnection, address: IAddress
    ) -> IProtocol | None:
        return self._application.buildProtocol(address)

    def connected(self, connection: AuthenticatedConnection, application: IProtocol) -> None:
        result = self._ended()
        assert result is not None, "an attempt that was given up connects nobody"
        result.callback(application)

    def refused(self, connection: AuthenticatedConnection, reason: Failure) -> None:
        self._failed(reason)

    # How the attempt ends.

    def _ended(self) -> Deferred[IProtocol] | None:
        """Give the result that somebody waits for, once."""
        result, self._result = self._result, None
        self._connection = self._connecting = None
        if self._deadline is not None:
            if self._deadline.active():
                self._deadline.cancel()
            self._deadline = None
        return result

    def _failed(self, failure: Failure) -> None:
        if (result := self._ended()) is not None:
            result.errback(failure)

    def _late(self) -> None:
        self._give_up(
            late(self._timeout_s)
            if self._connection is not None
            else TimeoutError(f"no connection within {self._timeout_s:g} s")
        )

    def _cancelled(self, _: Deferred[IProtocol]) -> None:
        self._give_up(ConnectingCancelledError(cast(Any, None)))

    def _give_up(self, reason: Exception) -> None:
        connection, connecting = self._connection, self._connecting
        self._failed(Failure(reason))
        if connection is not None:
            connection.cut(reason)
        else:
            assert connecting is not None, "an attempt that is under way is connecting"
            connecting.cancel()
