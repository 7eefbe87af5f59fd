"""Signatures of every kind of key, and of what is none."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from twisted.conch.ssh.keys import Key
from twisted.trial.unittest import SynchronousTestCase

from pkengine.keys import SshPublicKey
from pkengine.ssh.signature import MAX_RSA_BITS, is_genuine
from pkengine.ssh.wire import MalformedMessage, mpint, string
from tests.ssh.server import host_key, public

ED25519, RSA = host_key("ssh-ed25519"), host_key("ssh-rsa")
KEYS = [
    ED25519,
    *(Key(ec.generate_private_key(c)) for c in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())),
]


def rsa_key(bits: int) -> SshPublicKey:
    modulus = (1 << bits) - 1
    return SshPublicKey("ssh-rsa", string(b"ssh-rsa") + mpint(65537) + mpint(modulus))


class SignatureTests(SynchronousTestCase):
    def test_what_the_key_signed_is_genuine_and_nothing_else(self):
        for key in KEYS:
            signature = key.sign(b"data")
            self.assertTrue(is_genuine(public(key), signature, b"data"))
            self.assertFalse(is_genuine(public(key), signature, b"Data"))

    def test_rsa_signs_by_sha2_and_by_the_hash_that_was_agreed(self):
        for algorithm in ("rsa-sha2-256", "rsa-sha2-512"):
            signature = RSA.sign(b"data", algorithm.encode())
            self.assertTrue(is_genuine(public(RSA), signature, b"data"))
            self.assertTrue(is_genuine(public(RSA), signature, b"data", algorithm=algorithm))
            other = {"rsa-sha2-256": "rsa-sha2-512"}.get(algorithm, "rsa-sha2-256")
            self.assertFalse(is_genuine(public(RSA), signature, b"data", algorithm=other))
        self.assertFalse(is_genuine(public(RSA), RSA.sign(b"data", b"ssh-rsa"), b"data"))

    def test_a_signature_of_another_kind_of_key_is_not_genuine(self):
        for one, other in zip(KEYS, reversed(KEYS), strict=True):
            self.assertFalse(is_genuine(public(one), other.sign(b"data"), b"data"))

    def test_octets_behind_a_signature_are_refused(self):
        signature = ED25519.sign(b"data") + b"\0"
        self.assertRaises(MalformedMessage, is_genuine, public(ED25519), signature, b"data")

    def test_keys_that_are_too_short_or_endless_are_refused(self):
        signature = string(b"rsa-sha2-512") + string(bytes(512))
        for bits in (512, 1023, MAX_RSA_BITS + 1, 200_000):
            self.assertRaises(MalformedMessage, is_genuine, rsa_key(bits), signature, b"data")
        self.assertFalse(is_genuine(rsa_key(MAX_RSA_BITS), signature, b"data"))

    @given(st.sampled_from(KEYS), st.binary(max_size=150))
    def test_garbage_is_never_genuine(self, key, garbage):
        algorithm = string(public(key).key_type.encode())
        for signature in (garbage, algorithm + string(garbage)):
            try:
                self.assertFalse(is_genuine(public(key), signature, b"data"))
            except MalformedMessage:
                continue

    @given(st.sampled_from(KEYS), st.binary(max_size=150))
    def test_a_key_that_is_none_is_malformed_or_signs_nothing(self, key, garbage):
        key_type = public(key).key_type
        broken = SshPublicKey(key_type, string(key_type.encode()) + garbage)
        try:
            self.assertFalse(is_genuine(broken, key.sign(b"data"), b"data"))
        except MalformedMessage:
            return
