"""Authenticated peers for `twisted.cred`: a portal turns a peer into an avatar."""

from __future__ import annotations

from collections.abc import Collection

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import ITransport
from zope.interface import implementer

from pkengine.auth.peer import Authenticated
from pkengine.interfaces import IAuthenticatedTransport, IPeerCredentials


@implementer(IPeerCredentials)
class PeerCredentials:
    """What an authenticated connection shows to a portal.

    Args:
        authenticated: the outcome of its authentication.
    """

    def __init__(self, authenticated: Authenticated) -> None:
        self.authenticated = authenticated

    @classmethod
    def of(cls, transport: ITransport) -> PeerCredentials:
        """Take them from a protocol's transport.

        Raises:
            TypeError: the connection is not authenticated.
        """
        return cls(IAuthenticatedTransport(transport).authenticated)


@implementer(ICredentialsChecker)
class PeerChecker:
    """Gives the name of the peer as the avatar's id.

    The connection is authenticated already; what is checked here is who may come in.

    Args:
        names: the peers that may, or None for all that are trusted.
        mechanisms: the mechanisms that are good enough, or None for all.
    """

    credentialInterfaces = (IPeerCredentials,)

    def __init__(
        self, names: Collection[str] | None = None, mechanisms: Collection[str] | None = None
    ) -> None:
        self._names = names
        self._mechanisms = mechanisms

    def requestAvatarId(self, credentials: IPeerCredentials) -> Deferred[bytes | tuple[()]]:
        """Give the peer's name in UTF-8, or fail with UnauthorizedLogin."""
        authenticated = credentials.authenticated
        name, mechanism = authenticated.peer.name, authenticated.mechanism
        if self._names is not None and name not in self._names:
            return fail(UnauthorizedLogin(f"{name!r} may not come in."))
        if self._mechanisms is not None and mechanism not in self._mechanisms:
            return fail(UnauthorizedLogin(f"Mechanism {mechanism!r} is not enough here."))
        return succeed(name.encode())
