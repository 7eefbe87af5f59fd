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

Where the octets come out of another TLS connection, as behind a proxy, the two ends find out
whether that is one and the same: the client offers a digest of its channel binding (RFC 9266)
as the name of an application protocol (RFC 7301), beside one more name, and the server
selects the first where its own digest is equal, else the other.  Both names are part of the
handshake, so that nobody in between can change them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from hashlib import sha256
from sys import intern
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from OpenSSL import SSL
from OpenSSL.crypto import X509
from zope.interface import implementer

from pkengine.auth.channel_binding import (
    BINDING_LABEL,
    BINDING_LENGTH,
    DIRECT,
    PROXIED,
    UNKNOWN,
)
from pkengine.auth.peer import Role
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IProtection
from pkengine.keys.keypair import KeyPair
from pkengine.keys.pin import Pin

#: The plain octets of one TLS record (RFC 8446 §5.1); a read gives no more at once.
_RECORD = 16384

#: How much goes through OpenSSL's memory buffers at once: they never get smaller again, so
#: that one long message would cost its length for the rest of the connection.
_PIECE = 8192
_HANDSHAKE_PIECE = 512

_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"

#: Names of "application protocols" (RFC 7301) by which the ends compare what is below.
_PATH_NAME = b"pkengine-path/"
_OTHER_PATH = b"pkengine-path/other"

Judge = Callable[[Pin], None]


def pinned_context(key_pair: KeyPair, *, post_quantum: bool = True) -> SSL.Context:
    """Make the context for all sessions, of both roles, of one key pair.

    Args:
        key_pair: who this end is.
        post_quantum: leave the key exchange to OpenSSL, which is X25519MLKEM768 where both
            ends have it, so that what is recorded today is not read by a quantum computer
            later.  OpenSSL keeps such keys for as long as the connection lives, some 6 KiB.
            Else the key exchange is ECDH on P-256.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"pkengine")
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_tls13_ciphersuites(_CIPHERS)
    if not post_quantum:
        context.set_tmp_ecdh(ec.SECP256R1())
    context.use_privatekey(key_pair.private_key)
    context.use_certificate(key_pair.certificate)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    context.set_alpn_select_callback(_select)
    return context


def _verify(connection: SSL.Connection, certificate: X509, _: int, depth: int, __: int) -> bool:
    """Decide on one certificate of the peer's chain, whatever OpenSSL found."""
    session = connection.get_app_data()
    return session is not None and session.accepts(certificate, depth)


def _select(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """Say as the server whether the client sees the same TLS connection below."""
    session = connection.get_app_data()
    return SSL.NO_OVERLAPPING_PROTOCOLS if session is None else session.compares(offered)


@implementer(IProtection)
class TlsSession:
    """One TLS connection between two memory buffers.

    Args:
        context: from `pinned_context`.
        role: the initiator is the TLS client.
        judge: takes the pin of the peer and raises AuthenticationError to refuse it.
        below: the channel binding of the TLS connection below, or empty where there is none.
    """

    __slots__ = (
        "_connection",
        "_judge",
        "_judged",
        "_path_name",
        "_refusal",
        "_unread",
        "is_closed",
        "peer_pin",
    )

    def __init__(self, context: SSL.Context, role: Role, judge: Judge, below: bytes = b"") -> None:
        #: The key that was judged, and found good.
        self.peer_pin: Pin | None = None
        self.is_closed = False
        self._judge: Judge | None = judge
        #: The hash of the certificate that was judged and found good, during the handshake.
        self._judged = b""
        self._refusal: Exception | None = None
        self._unread = b""
        self._connection = SSL.Connection(context, None)
        self._connection.set_app_data(self)
        #: What both ends call the path that they have in common, during the handshake.
        self._path_name = _PATH_NAME + sha256(below).hexdigest()[:32].encode("ascii")
        if role is Role.INITIATOR:
            self._connection.set_alpn_protos([self._path_name, _OTHER_PATH])
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
                self.peer_pin, self._judged = pin, certificate.digest("sha256")
            except Exception as error:
                self._refusal = error
                return False
        return True

    def compares(self, offered: list[bytes]) -> Any:
        """Select what to say of the path below to a client that offers these names."""
        if _OTHER_PATH not in offered:  # it does not know of this
            return SSL.NO_OVERLAPPING_PROTOCOLS
        return self._path_name if self._path_name in offered else _OTHER_PATH

    def path(self) -> str:
        """Tell whether both ends see the same TLS connection below, after the handshake.

        Where both see none, there is nothing below that could end at a proxy.
        """
        selected = self._connection.get_alpn_proto_negotiated()
        if selected == self._path_name:
            return DIRECT
        return PROXIED if selected == _OTHER_PATH else UNKNOWN

    def shake_hands(self, data: bytes = b"") -> bool:
        """Take octets of the handshake; tell whether it has ended.

        Raises:
            AuthenticationError: it failed.  `pending` has the alert for the peer.
        """
        try:
            while not self._shake(data[:_HANDSHAKE_PIECE]):
                data = data[_HANDSHAKE_PIECE:]
                if not data:
                    return False
        except SSL.Error as error:
            self._forget_judge()
            if self._refusal is not None:
                raise _as_refusal(self._refusal) from self._refusal
            raise AuthenticationError(f"The TLS handshake failed: {_reason(error)}.") from error
        self._forget_judge()
        if len(data) > _HANDSHAKE_PIECE:
            self._connection.bio_write(data[_HANDSHAKE_PIECE:])
        certificate, judged = self._connection.get_peer_certificate(), self._judged
        self._judged = b""
        if certificate is None or not judged or certificate.digest("sha256") != judged:
            raise AuthenticationError("The peer's certificate is not the one that was judged.")
        return True

    def _shake(self, piece: bytes) -> bool:
        if piece:
            self._connection.bio_write(piece)
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        return True

    def _forget_judge(self) -> None:
        """Let go of what only the handshake needs; whoever is judged from now on is refused."""
        self._judge = None
        self._connection.set_app_data(None)

    def facts(self) -> Mapping[str, str]:
        """Tell what was agreed on, and the RFC 9266 channel binding in hexadecimal."""
        connection = self._connection
        binding = connection.export_keying_material(BINDING_LABEL, BINDING_LENGTH)
        return {
            "tls_version": intern(connection.get_protocol_version_name()),
            "tls_group": intern(connection.get_group_name() or "unknown"),
            "cipher": intern(connection.get_cipher_name() or "unknown"),
            "channel_binding": binding.hex(),
            "tls_path": self.path(),
        }

    # The protected stream.

    def seal(self, data: bytes) -> bytes:
        """Encrypt application octets; give octets to send."""
        if len(data) <= _PIECE:
            self._connection.send(data)
            return self.pending()
        view, sealed = memoryview(data), []
        for start in range(0, len(data), _PIECE):
            self._connection.send(view[start : start + _PIECE])
            sealed.append(self.pending())
        return b"".join(sealed)

    def open(self, data: bytes) -> bytes:
        """Take octets from the wire; give the application octets in them.

        Raises:
            AuthenticationError: they are not what the peer sent.
        """
        parts = []
        if self._unread:
            parts.append(self._unread)
            self._unread = b""
        if len(data) <= _PIECE:
            self._open_piece(data, parts)
        else:
            view = memoryview(data)
            for start in range(0, len(data), _PIECE):
                self._open_piece(view[start : start + _PIECE], parts)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _open_piece(self, data: bytes | memoryview, parts: list[bytes]) -> None:
        if self.is_closed:
            return
        if data:
            self._connection.bio_write(data)
        receive = self._connection.recv
        try:
            while True:
                parts.append(receive(_RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.is_closed = True
        except SSL.Error as error:
            raise AuthenticationError(f"TLS ended the connection: {_reason(error)}.") from error

    def unread(self, data: bytes) -> None:
        """Put application octets back; the next `open` gives them first."""
        self._unread = data + self._unread

    def close(self) -> bytes:
        """Give the close_notify alert (RFC 8446 §6.1)."""
        with contextlib.suppress(SSL.Error):  # a session that has failed has sent its alert
            self._connection.shutdown()
        return self.pending()

    def pending(self) -> bytes:
        """Give what OpenSSL has written for the wire."""
        octets = b""
        try:
            # A shorter read than was asked for has emptied the buffer.
            while len(octets) % _RECORD == 0:
                octets += self._connection.bio_read(_RECORD)
        except SSL.WantReadError:
            pass
        return octets


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
