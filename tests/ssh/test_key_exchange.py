"""The key exchanges by themselves, and against another implementation."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from twisted.conch.ssh import _kex
from twisted.trial.unittest import SynchronousTestCase

from pkengine.ssh.key_exchange import METHODS
from pkengine.ssh.modp_groups import modp_prime
from pkengine.ssh.wire import mpint, string
from tests.ssh.server import RecordingTransport
from tests.ssh.test_client import ClientTestCase

SYMMETRIC = [name for name in METHODS if not name.startswith("mlkem")]


class KeyExchangeTests(SynchronousTestCase):
    def test_both_sides_get_the_same_secret(self):
        for name in SYMMETRIC:
            _, begin = METHODS[name]
            one, other = begin(), begin()
            self.assertEqual(one.shared_secret(other.init), other.shared_secret(one.init), name)

    def test_a_shared_secret_is_written_as_an_mpint(self):
        for value, written in (
            (0, b"\0\0\0\0"),
            (0x80, b"\0\0\0\2\0\x80"),
            (0x9A378F9B2E332A7, bytes.fromhex("00000008 09a378f9b2e332a7")),  # RFC 4251 §5
        ):
            self.assertEqual(mpint(value), written)

    def test_values_that_make_no_secret_are_refused(self):
        prime = modp_prime(14)
        for name, values in {
            "curve25519-sha256": (b"", bytes(31), bytes(32), bytes(33)),
            "ecdh-sha2-nistp256": (b"", b"\0", b"\4" + bytes(64), b"\4" * 65),
            "diffie-hellman-group14-sha256": (
                b"",
                b"\0",
                b"\1",
                b"\0\2",
                b"\xff",
                mpint(prime)[4:],
                mpint(prime - 1)[4:],
                mpint(prime + 2)[4:],
            ),
            "mlkem768x25519-sha256": (b"", bytes(32), bytes(1088), bytes(1121), bytes(1120)),
        }.items():
            for value in values:
                _, begin = METHODS[name]
                self.assertRaises(ValueError, begin().shared_secret, value)

    def test_the_hybrid_secret_hashes_both_parts_and_is_a_string(self):
        _, begin = METHODS["mlkem768x25519-sha256"]
        exchange = begin()
        self.assertEqual(len(exchange.init), 1184 + 32)
        post_quantum, ciphertext = MLKEM768PublicKey.from_public_bytes(
            exchange.init[:1184]
        ).encapsulate()
        ours = X25519PrivateKey.generate()
        classical = ours.exchange(X25519PublicKey.from_public_bytes(exchange.init[1184:]))
        reply = ciphertext + ours.public_key().public_bytes_raw()
        expected = hashlib.sha256(post_quantum + classical).digest()
        self.assertEqual(exchange.shared_secret(reply), string(expected))

    def test_the_groups_are_those_of_rfc_3526(self):
        # The two longer ones are compared with OpenSSH's in the tests against sshd.
        generator, prime = _kex.getDHGeneratorAndPrime(b"diffie-hellman-group14-sha1")
        self.assertEqual((2, modp_prime(14)), (generator, prime))


class AgainstConchTests(ClientTestCase):
    async def test_every_method_that_conchs_server_has(self):
        methods = [m for m in RecordingTransport.supportedKeyExchanges if m.decode() in METHODS]
        for method in [*methods, b"mlkem768x25519-sha256"]:
            self.patch(RecordingTransport, "supportedKeyExchanges", [method])
            server = self.serve()
            connection = await self.connect(server)
            self.assertEqual((await connection.run("echo hi")).stdout, b"hi\n")
            self.assertEqual(server.connections[-1].kexAlg, method)

    async def test_the_post_quantum_method_comes_first(self):
        self.patch(
            RecordingTransport,
            "supportedKeyExchanges",
            [b"curve25519-sha256", b"mlkem768x25519-sha256"],
        )
        server = self.serve()
        await self.connect(server)
        self.assertEqual(server.connections[0].kexAlg, b"mlkem768x25519-sha256")
