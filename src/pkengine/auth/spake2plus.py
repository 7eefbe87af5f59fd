"""SPAKE2+ (RFC 9383), suite P256-SHA256-HKDF-SHA256-HMAC-SHA256.

Theory of operation
===================

The *prover* knows a secret, the *verifier* holds a record made from it, and neither can be
impersonated with what passes between them.  Two messages and two confirmations::

    prover                                          verifier
    shareP = x*P + w0*M           -- shareP -->
                                  <-- shareV --     shareV = y*P + w0*N
                                  <-- confirmV --   confirmV = MAC(K_confirmV, shareP)
    checks confirmV
    confirmP = MAC(K_confirmP, shareV) -->          checks confirmP
    K_shared                                        K_shared

`Prover` and `Verifier` are one-shot: a second share from one object would let an eavesdropper
solve for the secret.  A verifier gives `K_shared` only after confirmP was right, a prover only
after confirmV was.

The password-based key derivation runs once, in `register`, and never while somebody waits on
a connection.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pkengine.auth.p256 import (
    ELEMENT_SIZE,
    GENERATOR,
    ORDER,
    EccPoint,
    InvalidPoint,
    decode_point,
    encode_point,
    encode_scalar,
    random_scalar,
)
from pkengine.errors import AuthenticationError
from pkengine.keys.secret import Secret

# The elements of unknown discrete logarithm for P-256 (RFC 9383 §4), uncompressed.
_M_ENCODED = bytes.fromhex(
    "04886e2f97ace46e55ba9dd7242579f2993b64e16ef3dcab95afd497333d8fa12f"
    "5ff355163e43ce224e0b0e65ff02ac8e5c7be09419c785e0ca547d55a12e2d20"
)
_N_ENCODED = bytes.fromhex(
    "04d8bbd6c639c62937b04d997f38c3770719c629d7014d49a24b4f98baa1292b49"
    "07d60aa6bfade45008a636337f5168c64d9bd36034808cd564490b1e656edbe7"
)
_M = decode_point(_M_ENCODED)
_N = decode_point(_N_ENCODED)

# RFC 9383 §3.2: each half of the PBKDF output has the bits of the order and 64 more.
_HALF_SIZE = ELEMENT_SIZE + 8
#: Octets from which a record is made.
MATERIAL_SIZE = 2 * _HALF_SIZE
# RFC 9383 §3.2 recommends scrypt with these (RFC 7914 §2): about 0.1 s and 32 MiB.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 32768, 8, 1


class _Masks:
    """The products of w0 that every exchange with one record needs; as secret as w0."""

    w0: int

    @cached_property
    def w0_m(self) -> EccPoint:
        """w0*M, which masks the prover's share."""
        return _M * self.w0

    @cached_property
    def w0_n(self) -> EccPoint:
        """w0*N, which masks the verifier's share."""
        return _N * self.w0


@dataclass(frozen=True, repr=False)
class ProverRecord(_Masks):
    """What the prover keeps (RFC 9383 §3.2): w0 and w1, both between 0 and the order."""

    w0: int
    w1: int

    @classmethod
    def from_material(cls, material: bytes) -> ProverRecord:
        """Make the record of `MATERIAL_SIZE` octets, all of which look random."""
        w0 = int.from_bytes(material[:_HALF_SIZE], "big") % ORDER
        w1 = int.from_bytes(material[_HALF_SIZE:], "big") % ORDER
        return cls(w0, w1)

    def verifier_record(self) -> VerifierRecord:
        """Give the half that the verifier keeps: w0 and L = w1*P."""
        return VerifierRecord(self.w0, encode_point(GENERATOR * self.w1))

    def encode(self) -> Secret:
        """Write the record as w0 and w1, 64 octets."""
        return Secret(encode_scalar(self.w0) + encode_scalar(self.w1))

    @classmethod
    def decode(cls, encoded: Secret) -> ProverRecord:
        """Read what `encode` wrote.

        Raises:
            ValueError: it is not such a record.
        """
        octets = encoded.reveal()
        if len(octets) != 2 * ELEMENT_SIZE:
            raise ValueError("A prover's record has 64 octets.")
        return cls(_decode_scalar(octets[:ELEMENT_SIZE]), _decode_scalar(octets[ELEMENT_SIZE:]))


@dataclass(frozen=True, repr=False)
class VerifierRecord(_Masks):
    """What the verifier keeps (RFC 9383 §3.2).

    Whoever steals it can pose as the verifier to this prover, but not as the prover.

    Attributes:
        w0: between 0 and the order.
        l_encoded: the point L, bytes, 65 long.
    """

    w0: int
    l_encoded: bytes

    @cached_property
    def l_point(self) -> EccPoint:
        """The point L, decoded once."""
        return decode_point(self.l_encoded)

    def encode(self) -> Secret:
        """Write the record as w0 and L, 97 octets."""
        return Secret(encode_scalar(self.w0) + self.l_encoded)

    @classmethod
    def decode(cls, encoded: Secret) -> VerifierRecord:
        """Read what `encode` wrote.

        Raises:
            ValueError: it is not such a record.
        """
        octets = encoded.reveal()
        record = cls(_decode_scalar(octets[:ELEMENT_SIZE]), octets[ELEMENT_SIZE:])
        decode_point(record.l_encoded)
        return record


def _decode_scalar(octets: bytes) -> int:
    scalar = int.from_bytes(octets, "big")
    if len(octets) != ELEMENT_SIZE or not 0 < scalar < ORDER:
        raise ValueError("A scalar is 32 octets and lies between 0 and the order.")
    return scalar


def register(secret: Secret, *, id_prover: bytes, id_verifier: bytes, salt: bytes) -> ProverRecord:
    """Derive the prover's record from a secret (RFC 9383 §3.2).

    This is slow on purpose (scrypt, about 0.1 s), so that a secret that a person can say is
    not guessed from a stolen record faster than that.  Call it in a thread.

    Args:
        secret: a password, a join code or a key.
        id_prover: who proves; never empty (RFC 8844 tells why).
        id_verifier: who verifies; never empty.
        salt: the public id of the record.
    """
    if not id_prover or not id_verifier:
        raise ValueError("Both identities must be given.")
    password = secret.reveal()
    material = Scrypt(
        salt=salt, length=MATERIAL_SIZE, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P
    ).derive(_with_length(password) + _with_length(id_prover) + _with_length(id_verifier))
    return ProverRecord.from_material(material)


@dataclass(frozen=True, slots=True)
class Binding:
    """What both sides must agree on besides the secret (RFC 9383 §3.3, Context and ids)."""

    context: bytes
    id_prover: bytes
    id_verifier: bytes


class Prover:
    """The prover's half of one exchange.

    Args:
        record: the prover's record.
        draw_scalar: where the ephemeral secret comes from; only the tests of the published
            vectors hand in anything else.
    """

    def __init__(
        self, record: ProverRecord, *, draw_scalar: Callable[[], int] = random_scalar
    ) -> None:
        self._record: ProverRecord | None = record
        self._x = draw_scalar()
        self.share = encode_point(GENERATOR * self._x + record.w0_m)

    def finish(self, binding: Binding, share_v: bytes, confirm_v: bytes) -> tuple[bytes, Secret]:
        """Check the verifier's confirmation.

        Returns:
            confirmP, to send, and K_shared, 32 octets.

        Raises:
            AuthenticationError: the share is malformed or the confirmation is wrong.
        """
        record, self._record = self._record, None
        if record is None:
            raise AuthenticationError("A SPAKE2+ exchange was used a second time.")
        try:
            unmasked = decode_point(share_v) + -record.w0_n
            z = encode_point(unmasked * self._x)
            v = encode_point(unmasked * record.w1)
        except InvalidPoint as error:
            raise AuthenticationError(f"SPAKE2+ share of the verifier: {error}") from error
        keys = _derive(binding, self.share, share_v, z, v, record.w0)
        if not hmac.compare_digest(keys.confirm_v(self.share), confirm_v):
            raise AuthenticationError(
                "The SPAKE2+ confirmation of the verifier is wrong: the peer does not have the "
                "record of this key, or accepts it no longer."
            )
        return keys.confirm_p(share_v), keys.shared


class Verifier:
    """The verifier's half of one exchange; arguments as for `Prover`."""

    def __init__(
        self, record: VerifierRecord, *, draw_scalar: Callable[[], int] = random_scalar
    ) -> None:
        self._record: VerifierRecord | None = record
        self._y = draw_scalar()
        self.share = encode_point(GENERATOR * self._y + record.w0_n)
        self._keys: _Keys | None = None

    def respond(self, binding: Binding, share_p: bytes) -> bytes:
        """Take the prover's share.

        Returns:
            confirmV, to send together with `share`.

        Raises:
            AuthenticationError: the share is malformed.
        """
        record, self._record = self._record, None
        if record is None:
            raise AuthenticationError("A SPAKE2+ exchange was used a second time.")
        try:
            unmasked = decode_point(share_p) + -record.w0_m
            z = encode_point(unmasked * self._y)
            v = encode_point(record.l_point * self._y)
        except InvalidPoint as error:
            raise AuthenticationError(f"SPAKE2+ share of the prover: {error}") from error
        self._keys = _derive(binding, share_p, self.share, z, v, record.w0)
        return self._keys.confirm_v(share_p)

    def finish(self, confirm_p: bytes) -> Secret:
        """Check the prover's confirmation.

        Returns:
            K_shared, 32 octets.

        Raises:
            AuthenticationError: the confirmation is wrong.
        """
        keys, self._keys = self._keys, None
        if keys is None or not hmac.compare_digest(keys.confirm_p(self.share), confirm_p):
            raise AuthenticationError(
                "The SPAKE2+ confirmation of the prover is wrong: the peer does not have this key."
            )
        return keys.shared


class _Keys:
    """The key schedule (RFC 9383 §3.4)."""

    __slots__ = ("_for_prover", "_for_verifier", "shared")

    def __init__(self, transcript: bytes) -> None:
        main = hashlib.sha256(transcript).digest()
        confirmation = _expand(main, b"ConfirmationKeys", 64)
        self._for_prover, self._for_verifier = confirmation[:32], confirmation[32:]
        self.shared = Secret(_expand(main, b"SharedKey", 32))

    def confirm_p(self, share_v: bytes) -> bytes:
        return hmac.digest(self._for_prover, share_v, "sha256")

    def confirm_v(self, share_p: bytes) -> bytes:
        return hmac.digest(self._for_verifier, share_p, "sha256")


def _derive(
    binding: Binding, share_p: bytes, share_v: bytes, z: bytes, v: bytes, w0: int
) -> _Keys:
    fields = (
        binding.context,
        binding.id_prover,
        binding.id_verifier,
        _M_ENCODED,
        _N_ENCODED,
        share_p,
        share_v,
        z,
        v,
        encode_scalar(w0),
    )
    return _Keys(b"".join(map(_with_length, fields)))


def _with_length(field: bytes) -> bytes:
    """Prefix with the length as 8 octets, little-endian (RFC 9383 §3.3)."""
    return struct.pack("<Q", len(field)) + field


def _expand(key: bytes, info: bytes, length: int) -> bytes:
    """KDF(nil, key, info) of RFC 9383 §3.4: extract with no salt, then expand."""
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(key)
