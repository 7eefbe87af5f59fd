"""Every public interface of pkengine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from twisted.cred.credentials import ICredentials
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from pkengine.auth.folder import TrustFolder
    from pkengine.auth.peer import Authenticated, PeerKey, TrustedPeer
    from pkengine.auth.shared_key import SharedKey
    from pkengine.keys.key_id import KeyId


class ITrustStore(Interface):
    """The peers that one end accepts; read anew for each connection."""

    def lookup(key: PeerKey) -> TrustedPeer | None:
        """Give the record of a key, or None where the key is not (or no longer) accepted."""

    def peers() -> Iterable[TrustedPeer]:
        """Give every record that is accepted now."""

    def add(peer: TrustedPeer) -> None:
        """Accept a key; a record with the same key is replaced."""

    def remove(key: PeerKey) -> None:
        """Accept a key no longer; its live connections close at once.

        Raises:
            KeyError: the key was not accepted.
        """

    def watch(callback: Callable[[PeerKey], None], clock: IReactorTime) -> Callable[[], None]:
        """Ask to be called, in the reactor's thread, with each key that loses trust.

        A key also loses trust when its record expires, or when it is replaced by one with
        another name or without one of the mechanisms.  `lookup` tells what is left of it.

        Args:
            callback: takes the key.
            clock: what the store looks with, every now and then while it is watched, for
                a changed file or an expired record.

        Returns:
            A function that ends the watch.
        """


class ISharedKeyStore(Interface):
    """The secrets that one end shares with its peers; trust in them is the trust store's."""

    def key(key_id: KeyId) -> SharedKey | None:
        """Give a key, or None; in the same time for both."""

    def keys() -> Iterable[SharedKey]:
        """Give every key."""

    def add(key: SharedKey) -> None:
        """Keep a key."""

    def remove(key_id: KeyId) -> None:
        """Forget a key.

        Raises:
            KeyError: there is no such key.
        """


class IExchange(Interface):
    """One run of a mechanism, for one connection and one role; it performs no IO.

    The driver sends what `start` and `receive` give and feeds what arrives, split in any
    way, until `outcome` is set or an error is raised.  An exchange is used once: after
    it raised, everything raises.
    """

    outcome: Authenticated | None = Attribute("What was proved, or None while under way.")

    def start() -> bytes:
        """Begin, once; give the first octets to send, which may be none."""

    def receive(data: bytes) -> bytes:
        """Take octets from the peer; give octets to send.

        Octets that came behind the end of the exchange are kept for `protection`.

        Raises:
            AuthenticationError: the peer did not prove who it is.  The connection must be
                closed without telling the peer why.
        """

    def pending() -> bytes:
        """Give octets that must still reach the peer, such as an alert, after an error."""

    def protection() -> IProtection:
        """Give the record protection that goes with the outcome, once."""


class IProtection(Interface):
    """Protects an authenticated byte stream; it performs no IO.

    Under TLS this is TLS itself; after a mechanism with a session key it is a MAC on each
    record.
    """

    is_closed: bool = Attribute("The peer has said, provably, that it sends no more.")

    def seal(data: bytes) -> bytes:
        """Protect application octets; give octets to send."""

    def open(data: bytes) -> bytes:
        """Take octets from the peer; give the application octets proved so far.

        Raises:
            AuthenticationError: something was injected, dropped, repeated, reordered or
                changed.  The connection must be closed.
        """

    def close() -> bytes:
        """Give the octets that tell the peer, provably, that nothing follows."""

    def pending() -> bytes:
        """Give octets that must still reach the peer, such as an alert, after an error."""


class IAuthenticator(Interface):
    """A mechanism with its local identity and its trust store; serves many connections."""

    mechanism: str = Attribute("The mechanism's name, as peer records and strings have it.")
    trust: ITrustStore = Attribute("The peers it accepts; what loses trust there is cut off.")

    def initiator(expected: str | None = None, channel_binding: bytes = b"") -> IExchange:
        """Begin an exchange as the initiator.

        Args:
            expected: the name of the peer that must answer, or None for any trusted one.
            channel_binding: the RFC 9266 exporter value of the TLS connection below, or
                empty where there is none.
        """

    def acceptor(channel_binding: bytes = b"") -> IExchange:
        """Begin an exchange as the acceptor."""


class IAuthenticatorPlugin(Interface):
    """What a Twisted plugin declares in order to add a mechanism."""

    mechanism: str = Attribute("The mechanism's name.")

    def authenticator(folder: TrustFolder, **arguments: str) -> IAuthenticator:
        """Build the authenticator from a folder and the arguments of an endpoint string."""


class IAuthenticatedTransport(Interface):
    """Provided, beside the usual interfaces, by the transport of an authenticated protocol."""

    authenticated: Authenticated = Attribute("Who the peer is and how it was proved.")


class IPeerCredentials(ICredentials):
    """What an authenticated connection shows to a portal of `twisted.cred`."""

    authenticated: Authenticated = Attribute("Who the peer is and how it was proved.")
