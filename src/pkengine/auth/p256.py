"""The group of points on P-256, as a password-authenticated key exchange needs it.

Arithmetic is pycryptodome's (C, scalars blinded); what may enter the group from outside is
judged by ``cryptography``.  Nothing else in pkengine touches a curve.
"""

from __future__ import annotations

import secrets

# Documented there, but missing in its __all__; exported again for who computes with it.
from Crypto.PublicKey.ECC import EccPoint as EccPoint  # type: ignore[attr-defined]
from cryptography.hazmat.primitives.asymmetric import ec

#: The order of the group, a prime; the cofactor is 1 (SEC 2 §2.4.2).
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

#: Octets of a coordinate and of a scalar.
ELEMENT_SIZE = 32
#: Octets of an encoded point: 04, x, y (SEC 1 §2.3.3, uncompressed).
POINT_SIZE = 1 + 2 * ELEMENT_SIZE

#: The base point.
GENERATOR = EccPoint(
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    "p256",
)


class InvalidPoint(ValueError):
    """The octets are not an element of the group other than the identity."""


def decode_point(encoded: bytes) -> EccPoint:
    """Read an element of the group.

    Only the uncompressed form is read.  The library that checks the curve equation and the
    range of the coordinates also reads the compressed form, and the one that computes
    takes (0, 0) and coordinates beyond the field prime, so both checks are needed.

    Args:
        encoded: bytes, 65 long, beginning with 04.

    Raises:
        InvalidPoint: it is anything else, is not on the curve, or is the identity.
    """
    if len(encoded) != POINT_SIZE or encoded[0] != 4:
        raise InvalidPoint("A point is 65 octets, beginning with 04.")
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), encoded)
    except ValueError as error:
        raise InvalidPoint("The octets are no point on P-256.") from error
    x, y = encoded[1 : 1 + ELEMENT_SIZE], encoded[1 + ELEMENT_SIZE :]
    return EccPoint(int.from_bytes(x, "big"), int.from_bytes(y, "big"), "p256")


def encode_point(point: EccPoint) -> bytes:
    """Write an element of the group in the uncompressed form.

    Raises:
        InvalidPoint: it is the identity, which must never be sent or hashed.
    """
    if point.is_point_at_infinity():
        raise InvalidPoint("The point is the identity.")
    x, y = point.xy
    return b"\x04" + encode_scalar(x) + encode_scalar(y)


def encode_scalar(scalar: int) -> bytes:
    """Write a scalar or a coordinate, always 32 octets, big-endian."""
    return int(scalar).to_bytes(ELEMENT_SIZE, "big")


def random_scalar() -> int:
    """Draw a scalar between 1 and the order less 1, all equally likely."""
    return secrets.randbelow(ORDER - 1) + 1
