"""The group: what may enter it, and how it is written."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.p256 import (
    GENERATOR,
    ORDER,
    InvalidPoint,
    decode_point,
    encode_point,
    encode_scalar,
    random_scalar,
)

FIELD_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
BASE = encode_point(GENERATOR)
X, Y = BASE[1:33], BASE[33:]


class PointsFromOutside(SynchronousTestCase):
    """Each malformed encoding is refused when it is read, before anything is computed."""

    def test_each_malformed_encoding_is_refused(self) -> None:
        beyond_the_prime = (int.from_bytes(b"\0" * 31 + b"\5", "big") + FIELD_PRIME).to_bytes(
            32, "big"
        )
        malformed = {
            "the identity, one octet": b"\0",
            "the identity, as zeros": b"\4" + bytes(64),
            "off the curve": b"\4" + X + Y[:-1] + bytes([Y[-1] ^ 1]),
            "compressed": bytes([2 + (Y[-1] & 1)]) + X,
            "hybrid": bytes([6 + (Y[-1] & 1)]) + X + Y,
            "a coordinate beyond the field prime": b"\4" + beyond_the_prime + Y,
            "one octet short": BASE[:-1],
            "one octet long": BASE + b"\0",
            "all ones": b"\4" + b"\xff" * 64,
            "empty": b"",
        }
        for name, encoded in malformed.items():
            with self.subTest(name), self.assertRaises(InvalidPoint):
                decode_point(encoded)

    def test_every_truncation_of_a_point_is_refused(self) -> None:
        for length in range(len(BASE)):
            with self.assertRaises(InvalidPoint):
                decode_point(BASE[:length])

    def test_the_identity_is_never_written(self) -> None:
        with self.assertRaises(InvalidPoint):
            encode_point(GENERATOR * ORDER)

    @given(st.integers(min_value=1, max_value=ORDER - 1))
    def test_multiples_of_the_base_point_agree_with_another_implementation(self, k: int) -> None:
        theirs = ec.derive_private_key(k, ec.SECP256R1()).public_key()
        encoded = theirs.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.assertEqual(encode_point(GENERATOR * k), encoded)
        self.assertEqual(encode_point(decode_point(encoded)), encoded)


class Scalars(SynchronousTestCase):
    def test_a_small_scalar_is_written_with_leading_zeros(self) -> None:
        self.assertEqual(encode_scalar(5), bytes(31) + b"\5")

    def test_random_scalars_are_in_range_and_differ(self) -> None:
        drawn = {random_scalar() for _ in range(100)}
        self.assertEqual(len(drawn), 100)
        self.assertTrue(all(0 < scalar < ORDER for scalar in drawn))
