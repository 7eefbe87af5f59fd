"""The ``sign`` mechanism: signatures with the parties' own keys, SIGMA-style.

SIGMA (Krawczyk, 2003) is a Diffie-Hellman exchange in which each end signs both shares and
proves, with a MAC under the fresh secret, that its identity belongs to it.  Shares are
X25519 (RFC 7748), keys are the P-256 or Ed25519 keys that the ends are pinned by, and a
signature is over the form of RFC 8446 §4.4.3 with a context of its own, so that a signature
made here is worth nothing in TLS and the other way round.
"""

from __future__ import annotations

import hmac
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from pkengine.auth.fields import decode_fields, encode_fields
from pkengine.auth.folder import TrustFolder, is_yes
from pkengine.auth.handshake import Hello
from pkengine.auth.handshake_authenticator import HandshakeAuthenticator
from pkengine.auth.judgement import judge_pin
from pkengine.auth.key_schedule import PROTOCOL, KeySchedule
from pkengine.auth.peer import Role, TrustedPeer
from pkengine.errors import AuthenticationError
from pkengine.interfaces import ITrustStore
from pkengine.keys.keypair import KeyPair
from pkengine.keys.pin import Pin, PublicKey
from pkengine.keys.secret import Secret

MECHANISM = "sign"

_ECDSA = ec.ECDSA(hashes.SHA256())


class SignAuthenticator(HandshakeAuthenticator):
    """Authenticates with signatures.

    Args:
        key_pair: this end's key.
        trust: the keys that are accepted, and for whom.
        policy: as for `HandshakeAuthenticator`.
    """

    mechanism = MECHANISM

    def __init__(self, key_pair: KeyPair, trust: ITrustStore, **policy: Any) -> None:
        super().__init__(trust, **policy)
        self.key_pair = key_pair
        self.pin = key_pair.pin
        self.spki = key_pair.private_key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    @classmethod
    def from_folder(cls, folder: TrustFolder, requireDirect: str = "no") -> SignAuthenticator:
        """Take the key pair and the trust of a folder; `requireDirect` is "yes" or "no"."""
        return cls(folder.key_pair, folder.trust, require_direct=is_yes(requireDirect))

    def _dial(self, expected: str | None) -> _Party:
        return _Party(self, Role.INITIATOR, expected)

    def _choose(self, hello: Hello) -> _Party:
        return _Party(self, Role.ACCEPTOR, None)

    def judge(self, pin: Pin, expected: str | None) -> TrustedPeer:
        """Decide whether a key is accepted now; see `judge_pin`."""
        return judge_pin(self.trust, pin, own=self.pin, mechanism=MECHANISM, expected=expected)


class _Party:
    """One end of one exchange, in either role."""

    def __init__(self, authenticator: SignAuthenticator, role: Role, expected: str | None) -> None:
        self.key_id = b""
        self.identity = str(authenticator.pin)
        self.peer = ""  # a name may have several keys: whose it is, is judged when it is known
        self._authenticator = authenticator
        self._role = role
        self._expected = expected
        self._ephemeral = x25519.X25519PrivateKey.generate()
        self.share = encode_fields(
            self._ephemeral.public_key().public_bytes_raw(), authenticator.spki
        )
        self._secret: Secret | None = None

    def judge(self, hello: Hello) -> TrustedPeer:
        pin = Pin.of_spki(decode_fields(hello.share, 2)[1])
        if hello.identity != str(pin):
            raise AuthenticationError("The identity in the peer's hello is not that of its key.")
        return self._authenticator.judge(pin, self._expected)

    def answer(self, hello: Hello, th2: bytes) -> bytes:
        self._agree(hello)
        self._peer_key = _public_key(hello)
        return self._prove(Role.ACCEPTOR, th2)

    def confirm(self, hello: Hello, th2: bytes, proof: bytes, th3: bytes) -> bytes:
        self._agree(hello)
        self._peer_key = _public_key(hello)
        self._check(Role.ACCEPTOR, th2, proof)
        return self._prove(Role.INITIATOR, th3)

    def finish(self, th3: bytes, proof: bytes) -> None:
        self._check(Role.INITIATOR, th3, proof)

    def secret(self) -> Secret:
        assert self._secret is not None, "the handshake asks for the secret behind the proofs"
        return self._secret

    def _agree(self, hello: Hello) -> None:
        share = decode_fields(hello.share, 2)[0]
        try:
            public_key = x25519.X25519PublicKey.from_public_bytes(share)
            # An all-zero result, from a point of small order, is refused (RFC 7748 §6.1).
            self._secret = Secret(self._ephemeral.exchange(public_key))
        except ValueError as error:
            raise AuthenticationError("The peer's X25519 share is not usable.") from error

    def _prove(self, role: Role, th: bytes) -> bytes:
        message = _signature_input(role, th)
        key = self._authenticator.key_pair.private_key
        if isinstance(key, ed25519.Ed25519PrivateKey):
            signature = key.sign(message)
        else:
            signature = key.sign(message, _ECDSA)
        return encode_fields(signature, self._mac(role, th))

    def _check(self, role: Role, th: bytes, proof: bytes) -> None:
        signature, mac = decode_fields(proof, 2)
        message = _signature_input(role, th)
        try:
            if isinstance(self._peer_key, ed25519.Ed25519PublicKey):
                self._peer_key.verify(signature, message)
            else:
                self._peer_key.verify(signature, message, _ECDSA)
        except InvalidSignature as error:
            raise AuthenticationError("The peer's signature is wrong.") from error
        if not hmac.compare_digest(self._mac(role, th), mac):
            raise AuthenticationError("The MAC of the peer's identity is wrong.")

    def _mac(self, role: Role, th: bytes) -> bytes:
        return KeySchedule(MECHANISM, self.secret()).finished(
            f"{role.value} finished".encode(), th
        )


def _public_key(hello: Hello) -> PublicKey:
    spki = decode_fields(hello.share, 2)[1]
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuthenticationError("The peer's public key cannot be read.") from error
    if isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return key
    raise AuthenticationError("The peer's key is neither P-256 nor Ed25519.")


def _signature_input(role: Role, th: bytes) -> bytes:
    """Give what is signed, in the form of RFC 8446 §4.4.3."""
    return b" " * 64 + PROTOCOL + b" " + role.value.encode() + b" signature\0" + th
