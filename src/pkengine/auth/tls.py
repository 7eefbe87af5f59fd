"""Mutual TLS 1.3 with a pinned peer, as a machine without IO.

Theory of operation.  `pinned_context` makes one OpenSSL context for a key pair; it never
changes, because pins are not in it.  `TlsSession` is one connection of it, between two
memory buffers: octets from the wire go in, octets for the wire come out.

Who the peer is, is decided in OpenSSL's verify callback, so that a peer that is refused
gets a TLS alert and never finishes the handshake.  The callback is one for the whole
context and finds the session of its connection through OpenSSL's application data.  It
judges nothing but the key of the peer's own certificate (depth 0): no issuer, no validity,
no name, and never what OpenSSL thinks of the chain.  There are no session tickets and no
session cache, because a resumed session would skip the callback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from sys import intern

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from OpenSSL import SSL
from OpenSSL.crypto import X509
from zope.interface import implementer

from pkengine.auth.peer import Role
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IProtection
from pkengine.keys.keypair import KeyPair
from pkengine.keys.pin import Pin

#: The RFC 9266 label of the channel binding, and its length.
_BINDING_LABEL = b"EXPORTER-Channel-Binding"
_BINDING_LENGTH = 32

#: The plain octets of one TLS record (RFC 8446 §5.1); a read gives no more at once.
_RECORD = 16384

Judge = Callable[[Pin], None]


def pinned_context(key_pair: KeyPair) -> SSL.Context:
    """Make the context for all sessions, of both roles, of one key pair."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"pkengine")
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.use_privatekey(key_pair.private_key)
    context.use_certificate(key_pair.certificate)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    return context


def _verify(connection: SSL.Connection, certificate: X509, _: int, depth: int, __: int) -> bool:
    """Decide on one certificate of the peer's chain, whatever OpenSSL found."""
    session = connection.get_app_data()
    return session is not None and session.accepts(certificate, depth)


@implementer(IProtection)
class TlsSession:
    """One TLS connection between two memory buffers.

    Args:
        context: from `pinned_context`.
        role: the initiator is the TLS client.
        judge: takes the pin of the peer and raises AuthenticationError to refuse it.
    """

    __slots__ = ("_connection", "_judge", "_refusal", "_unread", "is_closed", "peer_pin")

    def __init__(self, context: SSL.Context, role: Role, judge: Judge) -> None:
        #: The key that was judged, and found good.
        self.peer_pin: Pin | None = None
        self.is_closed = False
        self._judge: Judge | None = judge
        self._refusal: Exception | None = None
        self._unread = b""
        self._connection = SSL.Connection(context, None)
        self._connection.set_app_data(self)
        if role is Role.INITIATOR:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()

    # The handshake.

    def accepts(self, certificate: X509, depth: int) -> bool:
        """Judge a certificate of the peer; OpenSSL asks twice for one that is self-signed.

        Nothing is raised: an exception here would reach whichever connection of the
        context OpenSSL looks at next.
        """
        if depth != 0 or self._judge is None or self._refusal is not None:
            return False
        if self.peer_pin is None:
            try:
                pin = _pin_of(certificate)
                self._judge(pin)
                self.peer_pin = pin
            except Exception as error:
                self._refusal = error
                return False
        return True

    def shake_hands(self, data: bytes = b"") -> bool:
        """Take octets of the handshake; tell whether it has ended.

        Raises:
            AuthenticationError: it failed.  `pending` has the alert for the peer.
        """
        if data:
            self._connection.bio_write(data)
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            if self._refusal is not None:
                raise _as_refusal(self._refusal) from self._refusal
            raise AuthenticationError(f"The TLS handshake failed: {_reason(error)}.") from error
        finally:
            if self._refusal is not None:
                self._forget_judge()
        self._forget_judge()
        certificate = self._connection.get_peer_certificate()
        if certificate is None or self.peer_pin is None or _pin_of(certificate) != self.peer_pin:
            raise AuthenticationError("The peer's certificate is not the one that was judged.")
        return True

    def _forget_judge(self) -> None:
        """Let go of what only the handshake needs; whoever is judged from now on is refused."""
        self._judge = None
        self._connection.set_app_data(None)

    def facts(self) -> Mapping[str, str]:
        """Tell what was agreed on, and the RFC 9266 channel binding in hexadecimal."""
        connection = self._connection
        binding = connection.export_keying_material(_BINDING_LABEL, _BINDING_LENGTH)
        return {
            "tls_version": intern(connection.get_protocol_version_name()),
            "tls_group": intern(connection.get_group_name() or "unknown"),
            "cipher": intern(connection.get_cipher_name() or "unknown"),
            "channel_binding": binding.hex(),
        }

    # The protected stream.

    def seal(self, data: bytes) -> bytes:
        """Encrypt application octets; give octets to send."""
        self._connection.sendall(data)
        return self.pending(len(data) + 256)  # room for the overhead of some records

    def open(self, data: bytes) -> bytes:
        """Take octets from the wire; give the application octets in them.

        Raises:
            AuthenticationError: they are not what the peer sent.
        """
        if data and not self.is_closed:
            self._connection.bio_write(data)
        parts = []
        if self._unread:
            parts.append(self._unread)
            self._unread = b""
        receive = self._connection.recv
        try:
            while not self.is_closed:
                parts.append(receive(_RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.is_closed = True
        except SSL.Error as error:
            raise AuthenticationError(f"TLS ended the connection: {_reason(error)}.") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def unread(self, data: bytes) -> None:
        """Put application octets back; the next `open` gives them first."""
        self._unread = data + self._unread

    def close(self) -> bytes:
        """Give the close_notify alert (RFC 8446 §6.1)."""
        with contextlib.suppress(SSL.Error):  # a session that has failed has sent its alert
            self._connection.shutdown()
        return self.pending()

    def pending(self, at_least: int = _RECORD) -> bytes:
        """Give what OpenSSL has written for the wire."""
        parts = []
        try:
            while True:
                part = self._connection.bio_read(at_least)
                parts.append(part)
                if len(part) < at_least:
                    break
        except SSL.WantReadError:
            pass
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _pin_of(certificate: X509) -> Pin:
    public_key = certificate.to_cryptography().public_key()
    if isinstance(public_key, ed25519.Ed25519PublicKey) or (
        isinstance(public_key, ec.EllipticCurvePublicKey)
        and isinstance(public_key.curve, ec.SECP256R1)
    ):
        return Pin.of(public_key)
    raise AuthenticationError("The peer's key is neither P-256 nor Ed25519.")


def _as_refusal(error: Exception) -> AuthenticationError:
    if isinstance(error, AuthenticationError):
        return AuthenticationError(str(error))
    return AuthenticationError(f"Judging the peer's key failed with {type(error).__name__}.")


def _reason(error: SSL.Error) -> str:
    """Give OpenSSL's own words, such as ``tlsv1 alert unknown ca``."""
    errors = error.args[0] if error.args else ()
    if isinstance(errors, list) and errors:
        return str(errors[-1][-1])
    return str(error) or type(error).__name__
