"""SSH keys and fingerprints, compared with what ssh-keygen itself prints."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from pkengine.errors import InvalidKeyText
from pkengine.keys import SshFingerprint, SshPublicKey

SHA256 = st.binary(min_size=32, max_size=32).map(lambda d: SshFingerprint("SHA256", d))
MD5 = st.binary(min_size=16, max_size=16).map(lambda d: SshFingerprint("MD5", d))
KEY_TYPES = st.from_regex(r"[a-z0-9@.-]{1,64}", fullmatch=True)


def _blob(key_type: str, rest: bytes) -> bytes:
    return len(key_type).to_bytes(4, "big") + key_type.encode("ascii") + rest


KEYS = st.builds(
    lambda key_type, rest: SshPublicKey.from_blob(_blob(key_type, rest)),
    KEY_TYPES,
    st.binary(min_size=1, max_size=600),
)


class FingerprintTests(unittest.TestCase):
    @given(SHA256 | MD5)
    def test_what_is_printed_is_read_as_the_same(self, fingerprint: SshFingerprint) -> None:
        self.assertEqual(fingerprint, SshFingerprint.parse(str(fingerprint)))
        self.assertEqual(fingerprint, SshFingerprint.parse(f"  {fingerprint}\n"))

    @given(st.text() | st.text().map("SHA256:".__add__) | st.text().map("MD5:".__add__))
    def test_any_other_text_is_refused_with_a_sentence(self, text: str) -> None:
        with self.assertRaisesRegex(InvalidKeyText, "is not an SSH fingerprint: expected"):
            SshFingerprint.parse(text)

    @given(MD5)
    def test_md5_is_read_in_either_case_and_without_its_prefix(self, md5: SshFingerprint) -> None:
        digits = str(md5).removeprefix("MD5:")
        for text in (digits, digits.upper(), "md5:" + digits):
            self.assertEqual(md5, SshFingerprint.parse(text))

    @given(SHA256)
    def test_padding_that_other_tools_print_is_read(self, fingerprint: SshFingerprint) -> None:
        self.assertEqual(fingerprint, SshFingerprint.parse(f"{fingerprint}="))

    def test_close_misses_are_refused(self) -> None:
        right = str(SshFingerprint("SHA256", bytes(32)))
        for wrong in (
            right.removeprefix("SHA256:"),
            right.lower(),
            right[:-1],
            right + "A",
            right[:-1] + "B",  # the unused bits of the last character are not zero
            right + " comment",
            "sha256//" + base64.b64encode(bytes(32)).decode(),
            "MD5:" + ":".join(["00"] * 15),
            "MD5:" + ":".join(["00"] * 17),
            "SHA1:" + base64.b64encode(bytes(20)).decode(),
            "SHA256:" + "é" * 43,
        ):
            with self.assertRaises(InvalidKeyText):
                SshFingerprint.parse(wrong)

    @given(KEYS, KEYS)
    def test_it_matches_its_own_key_and_no_other(
        self, key: SshPublicKey, other: SshPublicKey
    ) -> None:
        for algorithm in ("SHA256", "MD5"):
            fingerprint = key.fingerprint(algorithm)
            self.assertTrue(fingerprint.matches(key))
            self.assertEqual(key.blob == other.blob, fingerprint.matches(other))


class PublicKeyTests(unittest.TestCase):
    @given(KEYS, st.sampled_from(["", " ", " root@host", "\troot@host and more\n", "\r\n"]))
    def test_what_is_printed_is_read_as_the_same(self, key: SshPublicKey, behind: str) -> None:
        self.assertEqual(key, SshPublicKey.parse(str(key) + behind))

    @given(st.text() | st.binary().map(lambda b: "ssh-rsa " + base64.b64encode(b).decode()))
    def test_any_other_text_is_refused_with_a_sentence(self, text: str) -> None:
        try:
            key = SshPublicKey.parse(text)
        except InvalidKeyText as error:
            self.assertIn("is not an SSH public key: expected one line", str(error))
        else:
            self.assertEqual("ssh-rsa", key.key_type)

    @given(st.binary(max_size=200))
    def test_any_octets_are_a_key_that_keeps_them_or_are_refused(self, octets: bytes) -> None:
        try:
            key = SshPublicKey.from_blob(octets)
        except InvalidKeyText:
            return
        self.assertEqual(octets, key.blob)
        self.assertEqual(_blob(key.key_type, b""), octets[: 4 + len(key.key_type)])

    @given(KEYS)
    def test_a_key_cut_within_its_name_is_refused(self, key: SshPublicKey) -> None:
        for size in range(5 + len(key.key_type)):
            with self.assertRaises(InvalidKeyText):
                SshPublicKey.from_blob(key.blob[:size])

    @given(KEYS)
    def test_a_type_that_is_not_the_keys_is_refused(self, key: SshPublicKey) -> None:
        encoded = str(key).split()[1]
        with self.assertRaises(InvalidKeyText):
            SshPublicKey.parse(f"{key.key_type}x {encoded}")

    @given(KEYS)
    def test_two_lines_are_not_one_key(self, key: SshPublicKey) -> None:
        for separator in ("\n", "\r", " comment\n"):
            with self.assertRaises(InvalidKeyText):
                SshPublicKey.parse(f"{key}{separator}{key}")

    def test_of_a_private_key_nothing_is_repeated(self) -> None:
        text = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n"
        with self.assertRaisesRegex(InvalidKeyText, "expected the public one") as caught:
            SshPublicKey.parse(text)
        self.assertNotIn("b3Bl", str(caught.exception))

    def test_a_long_text_is_cut_in_the_error(self) -> None:
        with self.assertRaises(InvalidKeyText) as caught:
            SshPublicKey.parse("x" * 100_000)
        self.assertLess(len(str(caught.exception)), 300)


class OpenSshTests(unittest.TestCase):
    """OpenSSH's own ssh-keygen makes the keys and says what is right."""

    if shutil.which("ssh-keygen") is None:
        skip = "ssh-keygen is not installed (Debian: openssh-client)"

    def test_every_key_type_reads_prints_and_hashes_as_in_ssh_keygen(self) -> None:
        for key_type, bits in (("ed25519", 256), ("ecdsa", 256), ("ecdsa", 521), ("rsa", 2048)):
            path = Path(self.mktemp())
            _ssh_keygen("-q", "-t", key_type, "-b", str(bits), "-N", "", "-C", "a b", "-f", path)
            line = Path(f"{path}.pub").read_text(encoding="ascii")
            key = SshPublicKey.parse(line)
            self.assertEqual(line, f"{key} a b\n")
            for algorithm in ("SHA256", "MD5"):
                printed = _ssh_keygen("-l", "-E", algorithm.lower(), "-f", f"{path}.pub").split()[
                    1
                ]
                self.assertEqual(printed, str(key.fingerprint(algorithm)))
                self.assertTrue(SshFingerprint.parse(printed).matches(key))


def _ssh_keygen(*arguments: str | os.PathLike[str]) -> str:
    return subprocess.run(
        ["ssh-keygen", *arguments], check=True, capture_output=True, text=True
    ).stdout
