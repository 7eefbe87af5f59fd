"""Pins: one text form, which curl and openssl agree with."""

from __future__ import annotations

import base64
import shutil
import subprocess

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from pkengine.errors import InvalidKeyText
from pkengine.keys import KeyPair, KeyType, Pin

DIGESTS = st.binary(min_size=32, max_size=32)


class PinTests(unittest.TestCase):
    @given(DIGESTS)
    def test_what_is_printed_is_read_as_the_same_pin(self, digest: bytes) -> None:
        pin = Pin(digest)
        self.assertEqual(pin, Pin.parse(str(pin)))
        self.assertEqual(hash(pin), hash(Pin.parse(str(pin))))

    @given(st.text())
    def test_any_text_is_refused_or_is_the_one_form_of_its_pin(self, text: str) -> None:
        try:
            pin = Pin.parse(text)
        except InvalidKeyText as error:
            self.assertIn("sha256//", str(error))
        else:
            self.assertEqual(text, str(pin))

    @given(DIGESTS, st.integers(0, 50), st.characters(codec="ascii"))
    def test_no_other_text_reads_as_a_pin(self, digest: bytes, at: int, character: str) -> None:
        text = str(Pin(digest))
        changed = text[:at] + character + text[at + 1 :]
        try:
            pin = Pin.parse(changed)
        except InvalidKeyText:
            return
        self.assertEqual(changed, str(pin))
        self.assertEqual(changed == text, pin == Pin(digest))

    def test_close_misses_are_refused(self) -> None:
        right = str(Pin(bytes(32)))
        for wrong in (
            "",
            right[:-1],
            right + "=",
            right + "\n",
            " " + right,
            right.replace("//", ":"),
            right.upper(),
            right[:-2] + "B=",  # the unused bits of the last character are not zero
            "sha256//" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
            "sha256//" + base64.b64encode(bytes(31)).decode(),
            "sha256//" + base64.b64encode(bytes(33)).decode(),
            "SHA256:" + base64.b64encode(bytes(32)).decode().rstrip("="),
        ):
            with self.assertRaisesRegex(InvalidKeyText, "expected 'sha256//'"):
                Pin.parse(wrong)

    def test_a_pin_has_32_octets(self) -> None:
        for size in (0, 31, 33):
            with self.assertRaisesRegex(InvalidKeyText, f"has {size}"):
                Pin(bytes(size))

    def test_pins_sort_by_their_octets(self) -> None:
        low, high = Pin(bytes(32)), Pin(b"\xff" * 32)
        self.assertEqual([low, high], sorted([high, low]))


class OpenSslTests(unittest.TestCase):
    if shutil.which("openssl") is None:
        skip = "openssl is not installed (Debian: openssl)"

    def test_it_is_what_openssl_computes_from_the_certificate(self) -> None:
        for key_type in KeyType:
            pair = KeyPair.generate("peer", key_type=key_type)
            public = _openssl(pair.certificate_pem(), "x509", "-pubkey", "-noout")
            spki = _openssl(public, "pkey", "-pubin", "-outform", "DER")
            digest = _openssl(spki, "dgst", "-sha256", "-binary")
            self.assertEqual("sha256//" + base64.b64encode(digest).decode(), str(pair.pin))
            self.assertEqual(pair.pin, Pin.of_spki(spki))


def _openssl(stdin: bytes, *arguments: str) -> bytes:
    return subprocess.run(
        ["openssl", *arguments], input=stdin, check=True, capture_output=True
    ).stdout
