"""The ``pin`` mechanism: mutual TLS 1.3 between two self-signed keys that know each other.

It needs nothing but a byte stream, so it also runs nested in a connection on which a proxy
terminates an outer TLS: the proxy then sees ciphertext only.
"""

from __future__ import annotations

from zope.interface import implementer

from pkengine.auth.channel_binding import require_direct_path
from pkengine.auth.fields import MessageReader
from pkengine.auth.folder import TrustFolder, is_yes
from pkengine.auth.judgement import judge_pin
from pkengine.auth.peer import Authenticated, Role, TrustedPeer
from pkengine.auth.ready import Ready
from pkengine.auth.tls import TlsSession, pinned_context
from pkengine.auth.trust import Clock, utc_now
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IAuthenticator, IExchange, IProtection, ITrustStore
from pkengine.keys.keypair import KeyPair
from pkengine.keys.pin import Pin

MECHANISM = "pin"


@implementer(IAuthenticator)
class PinAuthenticator:
    """Proves one's own key pair, and accepts peers by the pins of their keys.

    Args:
        key_pair: who this end is.
        trust: whom it accepts; read anew for each connection.
        clock: gives the time of day, for the *ready* message.
        post_quantum: use a post-quantum key exchange where the peer has it too, which takes
            some 6 KiB more memory a connection.
        require_direct: refuse a path on which a proxy ends another TLS connection around
            this one.
    """

    mechanism = MECHANISM

    def __init__(
        self,
        key_pair: KeyPair,
        trust: ITrustStore,
        *,
        clock: Clock = utc_now,
        post_quantum: bool = True,
        require_direct: bool = False,
    ) -> None:
        self.require_direct = require_direct
        self.trust = trust
        self.pin = key_pair.pin
        self.clock = clock
        self.context = pinned_context(key_pair, post_quantum=post_quantum)

    @classmethod
    def from_folder(
        cls, folder: TrustFolder, postQuantum: str = "yes", requireDirect: str = "no"
    ) -> PinAuthenticator:
        """Take the key pair and the trust of a folder; the rest is "yes" or "no"."""
        return cls(
            folder.key_pair,
            folder.trust,
            post_quantum=is_yes(postQuantum),
            require_direct=is_yes(requireDirect),
        )

    def initiator(self, expected: str | None = None, channel_binding: bytes = b"") -> PinExchange:
        """Begin as the TLS client; `expected` is the name that the peer must have.

        This TLS is end to end.  The channel binding of a TLS connection below it tells
        whether that one is, too.
        """
        return PinExchange(self, Role.INITIATOR, expected, channel_binding)

    def acceptor(self, channel_binding: bytes = b"") -> PinExchange:
        """Begin as the TLS server."""
        return PinExchange(self, Role.ACCEPTOR, None, channel_binding)

    def judge(self, pin: Pin, expected: str | None) -> TrustedPeer:
        """Decide whether a key is accepted now; see `judge_pin`."""
        return judge_pin(self.trust, pin, own=self.pin, mechanism=MECHANISM, expected=expected)


@implementer(IExchange)
class PinExchange:
    """One handshake, and the *ready* message behind it."""

    __slots__ = (
        "_authenticator",
        "_channel_binding",
        "_expected",
        "_failed",
        "_ready",
        "_role",
        "_tls",
        "outcome",
    )

    def __init__(
        self,
        authenticator: PinAuthenticator,
        role: Role,
        expected: str | None,
        channel_binding: bytes,
    ) -> None:
        self._channel_binding = channel_binding
        self.outcome: Authenticated | None = None
        self._authenticator = authenticator
        self._role = role
        self._expected = expected
        self._tls: TlsSession | None = None
        #: What the initiator reads *ready* with, once the handshake has ended.
        self._ready: MessageReader | None = None
        self._failed = False

    def start(self) -> bytes:
        """Begin; the initiator speaks first."""
        if self._tls is not None:
            raise AuthenticationError("An exchange is used once.")
        self._tls = TlsSession(
            self._authenticator.context, self._role, self._judge, self._channel_binding
        )
        if self._role is Role.ACCEPTOR:
            return b""
        self._tls.shake_hands()
        return self._tls.pending()

    def receive(self, data: bytes) -> bytes:
        """Take octets from the peer; give octets to send."""
        if self._failed or self._tls is None or self.outcome is not None:
            raise AuthenticationError("The exchange has not begun, or has ended.")
        try:
            return self._advance(self._tls, data)
        except Exception:
            self._failed = True
            raise

    def _advance(self, tls: TlsSession, data: bytes) -> bytes:
        if self._ready is not None:
            return self._await_ready(tls, self._ready, data)
        if not tls.shake_hands(data):
            return tls.pending()
        if self._role is Role.ACCEPTOR:
            return self._accept(tls)
        self._ready = MessageReader()
        return tls.pending() + self._await_ready(tls, self._ready, b"")

    def _accept(self, tls: TlsSession) -> bytes:
        pin = _judged(tls)
        peer = self._authenticator.judge(pin, self._expected)
        self._check_path(tls, peer)
        ready = Ready(
            MECHANISM, str(self._authenticator.pin), str(pin), self._authenticator.clock()
        )
        self.outcome = Authenticated(peer, MECHANISM, None, tls.facts())
        return tls.seal(ready.encode())

    def _await_ready(self, tls: TlsSession, reader: MessageReader, data: bytes) -> bytes:
        try:
            plain = tls.open(data)
        except AuthenticationError as error:
            raise AuthenticationError(
                f"The peer does not accept this end's key {self._authenticator.pin}: {error}"
            ) from error
        message = reader.feed(plain)
        if message is None:
            if tls.is_closed:
                raise AuthenticationError("The peer closed the connection without 'ready'.")
            return b""
        pin = _judged(tls)
        ready = Ready.decode(message)
        ready.check(mechanism=MECHANISM, acceptor=str(pin), initiator=str(self._authenticator.pin))
        peer = self._authenticator.judge(pin, self._expected)  # it may have changed since
        self._check_path(tls, peer)
        tls.unread(reader.rest())
        self.outcome = Authenticated(peer, MECHANISM, None, tls.facts())
        return b""

    def _check_path(self, tls: TlsSession, peer: TrustedPeer) -> None:
        if self._authenticator.require_direct:
            require_direct_path(tls.path(), peer.name)

    def _judge(self, pin: Pin) -> None:
        self._authenticator.judge(pin, self._expected)

    def pending(self) -> bytes:
        """Give the alert, where TLS has made one."""
        return self._tls.pending() if self._tls is not None else b""

    def protection(self) -> IProtection:
        """Give the TLS session, once."""
        if self.outcome is None or self._tls is None:
            raise AuthenticationError("There is no protection without an outcome.")
        tls, self._tls = self._tls, None
        tls.peer_pin = None  # the outcome has it
        return tls


def _judged(tls: TlsSession) -> Pin:
    assert tls.peer_pin is not None, "a finished handshake has judged a key"
    return tls.peer_pin
