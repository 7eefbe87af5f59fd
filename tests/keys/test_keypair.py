"""Key pairs: what their certificates say, and how they are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial import unittest

from pkengine.errors import KeyFileError
from pkengine.keys import KeyPair, KeyType
from tests.keys.test_files import in_threads, mode_of

NO_OPENSSL = "openssl is not installed (Debian: openssl)"


def _openssl(stdin: bytes, *arguments: str) -> str:
    return subprocess.run(
        ["openssl", *arguments], input=stdin, check=True, capture_output=True
    ).stdout.decode()


class CertificateTests(unittest.TestCase):
    if shutil.which("openssl") is None:
        skip = NO_OPENSSL

    def test_openssl_sees_a_certificate_that_never_expires(self) -> None:
        for key_type in KeyType:
            pem = KeyPair.generate("agent", key_type=key_type).certificate_pem()
            self.assertEqual(
                "notAfter=Dec 31 23:59:59 9999 GMT\n", _openssl(pem, "x509", "-enddate", "-noout")
            )
            # RFC 5280 §4.1.2.5: from 2050 on a GeneralizedTime, and this value for "never".
            self.assertIn("GENERALIZEDTIME   :99991231235959Z", _openssl(pem, "asn1parse"))

    def test_openssl_sees_that_it_signs_itself_and_is_no_authority(self) -> None:
        for key_type in KeyType:
            pem = KeyPair.generate("agent", key_type=key_type).certificate_pem()
            text = _openssl(pem, "x509", "-text", "-noout")
            self.assertIn("Version: 3", text)
            self.assertIn("Subject: CN = agent", text)
            self.assertIn("Issuer: CN = agent", text)
            self.assertIn("CA:FALSE", text)
            path = Path(self.mktemp())
            path.write_bytes(pem)
            verified = _openssl(b"", "verify", "-CAfile", str(path), "-partial_chain", str(path))
            self.assertIn("OK", verified)

    def test_p256_is_the_default_and_ed25519_is_there(self) -> None:
        for text, pair in (
            ("ASN1 OID: prime256v1", KeyPair.generate("agent")),
            ("ED25519", KeyPair.generate("agent", key_type=KeyType.ED25519)),
        ):
            self.assertIn(text, _openssl(pair.certificate_pem(), "x509", "-text", "-noout"))

    def test_names_and_addresses_are_what_clients_compare(self) -> None:
        names = ["engine.example", "192.0.2.1", "2001:db8::1"]
        pair = KeyPair.generate("engine", subject_alternative_names=names)
        text = _openssl(pair.certificate_pem(), "x509", "-ext", "subjectAltName", "-noout")
        self.assertIn(
            "DNS:engine.example, IP Address:192.0.2.1, IP Address:2001:DB8:0:0:0:0:0:1", text
        )
        without = KeyPair.generate("engine").certificate_pem()
        self.assertNotIn("Alternative Name", _openssl(without, "x509", "-text", "-noout"))

    @given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1))
    @example("x" * 65)
    @example("x" + "ü" * 64)
    def test_any_name_makes_a_certificate_with_as_much_of_it_as_fits(self, name: str) -> None:
        (attribute,) = KeyPair.generate(name).certificate.subject
        self.assertTrue(name.startswith(str(attribute.value)))
        self.assertLessEqual(len(str(attribute.value).encode()), 64)
        self.assertGreater(len(str(attribute.value).encode()), min(60, len(name.encode()) - 1))

    def test_two_pairs_have_nothing_in_common(self) -> None:
        one, other = KeyPair.generate("agent"), KeyPair.generate("agent")
        self.assertNotEqual(one.pin, other.pin)
        self.assertNotEqual(one.certificate.serial_number, other.certificate.serial_number)

    def test_its_repr_shows_the_pin_and_nothing_else(self) -> None:
        pair = KeyPair.generate("agent")
        self.assertEqual(f"<KeyPair {pair.pin}>", repr(pair))


class KeptTests(unittest.TestCase):
    if shutil.which("openssl") is None:
        skip = NO_OPENSSL

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.key = self.directory / "agent.key"
        self.certificate = self.directory / "agent.crt"

    def create(self, key_type: KeyType = KeyType.P256) -> KeyPair:
        return KeyPair.load_or_create(self.directory, "agent", key_type=key_type)

    def assert_same(self, one: KeyPair, other: KeyPair) -> None:
        self.assertEqual(one.private_key_pem(), other.private_key_pem())
        self.assertEqual(one.certificate, other.certificate)

    def test_it_is_made_once_and_then_the_same(self) -> None:
        for key_type in KeyType:
            self.directory = Path(self.mktemp())
            pair = self.create(key_type)
            self.assert_same(pair, self.create(key_type))
            self.assert_same(pair, KeyPair.load(self.directory, "agent"))

    def test_only_its_owner_reads_the_key_and_everybody_the_certificate(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.create()
        self.assertEqual(0o700, mode_of(self.directory))
        self.assertEqual(0o600, mode_of(self.key))
        self.assertEqual(0o644, mode_of(self.certificate))
        self.assertEqual({"agent.key", "agent.crt"}, set(os.listdir(self.directory)))

    def test_openssl_reads_the_key_that_belongs_to_the_certificate(self) -> None:
        self.create()
        self.assertEqual(
            _openssl(self.key.read_bytes(), "pkey", "-pubout"),
            _openssl(self.certificate.read_bytes(), "x509", "-pubkey", "-noout"),
        )

    def test_a_certificate_that_is_missing_is_made_for_the_key_that_is_there(self) -> None:
        for key_type in KeyType:
            self.directory = Path(self.mktemp())
            pair = self.create(key_type)
            (self.directory / "agent.crt").unlink()
            again = self.create()
            self.assertEqual(pair.pin, again.pin)
            self.assert_same(again, KeyPair.load(self.directory, "agent"))

    def test_racing_makers_end_with_one_key(self) -> None:
        pairs = in_threads(lambda _: self.create(), list(range(8)))
        self.assertEqual({pairs[0].pin}, {pair.pin for pair in pairs})
        self.assertEqual(pairs[0].pin, KeyPair.load(self.directory, "agent").pin)

    def test_names_are_kept_in_the_certificate(self) -> None:
        pair = KeyPair.load_or_create(
            self.directory, "https", subject_alternative_names=["engine.example"]
        )
        self.assert_same(pair, KeyPair.load(self.directory, "https"))
        text = _openssl(pair.certificate_pem(), "x509", "-ext", "subjectAltName", "-noout")
        self.assertIn("DNS:engine.example", text)

    def assert_refused(self, sentence: str) -> None:
        content = self.key.read_bytes()
        for read in (lambda: KeyPair.load(self.directory, "agent"), self.create):
            with self.assertRaisesRegex(KeyFileError, sentence) as caught:
                read()
            self.assertNotIn("PRIVATE", str(caught.exception))
        self.assertEqual(content, self.key.read_bytes())

    def test_a_key_that_others_may_read_is_refused(self) -> None:
        self.create()
        self.key.chmod(0o644)
        self.assert_refused(f"chmod 600 {self.key}")

    def test_garbage_is_refused_and_not_replaced(self) -> None:
        self.create()
        self.key.write_bytes(b"garbage")
        self.assert_refused(f"{self.key} holds no unencrypted private key")

    def test_an_empty_key_is_refused_and_not_replaced(self) -> None:
        self.create()
        self.key.write_bytes(b"")
        self.assert_refused(f"{self.key} holds no unencrypted private key")

    def test_an_encrypted_key_is_refused(self) -> None:
        pair = self.create()
        self.key.write_bytes(
            pair.private_key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
            )
        )
        self.assert_refused(f"{self.key} holds no unencrypted private key")

    def test_a_key_of_another_kind_is_refused(self) -> None:
        self.create()
        for other in (
            ec.generate_private_key(ec.SECP384R1()),
            rsa.generate_private_key(65537, 2048),
        ):
            self.key.write_bytes(
                other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )
            self.assert_refused("neither P-256 nor Ed25519")

    def test_a_certificate_of_another_key_is_refused_with_what_to_do(self) -> None:
        self.create()
        self.certificate.write_bytes(KeyPair.generate("agent").certificate_pem())
        self.assert_refused(f"is not the certificate of {self.key}: remove {self.certificate}")
        self.certificate.unlink()
        self.create()

    def test_a_broken_certificate_is_refused_with_what_to_do(self) -> None:
        self.create()
        self.certificate.write_bytes(b"garbage")
        self.assert_refused(f"{self.certificate}.*remove it")
        self.certificate.unlink()
        self.create()

    def test_a_missing_pair_is_named(self) -> None:
        with self.assertRaisesRegex(KeyFileError, str(self.key)):
            KeyPair.load(self.directory, "agent")

    def test_a_missing_certificate_is_named(self) -> None:
        self.create()
        self.certificate.unlink()
        with self.assertRaisesRegex(KeyFileError, str(self.certificate)):
            KeyPair.load(self.directory, "agent")
