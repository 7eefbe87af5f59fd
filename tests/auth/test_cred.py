"""A portal turns an authenticated peer into an avatar."""

from __future__ import annotations

from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, alsoProvides, implementer

from pkengine.auth.cred import PeerChecker, PeerCredentials
from pkengine.auth.peer import Authenticated, TrustedPeer
from pkengine.interfaces import IAuthenticatedTransport
from pkengine.keys import Pin


class IDesk(Interface):
    """What an avatar is here."""


@implementer(IRealm)
class Realm:
    def requestAvatar(self, avatar_id: bytes, mind: object, *interfaces: type) -> tuple:
        return IDesk, f"desk of {avatar_id.decode()}", lambda: None


def credentials(name: str = "agent-7", mechanism: str = "pin") -> PeerCredentials:
    transport = StringTransport()
    transport.authenticated = Authenticated(TrustedPeer(name, Pin(bytes(32))), mechanism)
    alsoProvides(transport, IAuthenticatedTransport)
    return PeerCredentials.of(transport)


class PortalTests(SynchronousTestCase):
    def login(self, checker: PeerChecker, shown: PeerCredentials) -> str:
        portal = Portal(Realm(), [checker])
        return self.successResultOf(portal.login(shown, None, IDesk))[1]

    def test_the_avatar_is_found_by_the_name_of_the_peer(self) -> None:
        self.assertEqual(self.login(PeerChecker(), credentials()), "desk of agent-7")

    def test_a_peer_that_is_not_named_may_not_come_in(self) -> None:
        checker = PeerChecker(names={"agent-7"})
        self.assertEqual(self.login(checker, credentials()), "desk of agent-7")
        login = Portal(Realm(), [checker]).login(credentials("agent-8"), None, IDesk)
        self.failureResultOf(login, UnauthorizedLogin)

    def test_a_mechanism_that_is_not_enough_may_not_come_in(self) -> None:
        checker = PeerChecker(mechanisms={"pin"})
        self.assertEqual(self.login(checker, credentials()), "desk of agent-7")
        login = Portal(Realm(), [checker]).login(credentials(mechanism="hmac"), None, IDesk)
        self.failureResultOf(login, UnauthorizedLogin)

    def test_a_connection_that_is_not_authenticated_shows_no_credentials(self) -> None:
        with self.assertRaises(TypeError):
            PeerCredentials.of(StringTransport())
