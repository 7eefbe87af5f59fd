"""Secrets at rest: what is sealed opens by the right key and for the same thing only."""

from __future__ import annotations

import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.store import Seal
from pkengine.errors import KeyFileError
from pkengine.keys import Secret

SECRET = Secret(b"correct horse battery staple")


class SealTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.seal = Seal(Secret(b"k" * 32), "secrets.key")

    @given(st.binary(max_size=200), st.lists(st.text(), max_size=3))
    def test_what_is_sealed_opens_for_the_same_thing(
        self, octets: bytes, context: list[str]
    ) -> None:
        seal = Seal(Secret(b"k" * 32), "secrets.key")
        sealed = seal.seal(Secret(octets), *context)
        self.assertEqual(seal.open(sealed, *context).reveal(), octets)

    def test_the_secret_does_not_show_and_no_two_seals_are_the_same(self) -> None:
        first, second = (self.seal.seal(SECRET, "host", "key") for _ in range(2))
        self.assertNotIn(SECRET.reveal(), first)
        self.assertNotEqual(first, second)

    def test_it_opens_for_nothing_else(self) -> None:
        sealed = self.seal.seal(SECRET, "host", "key")
        for context in (("host", "other"), ("key", "host"), ("host",), ("hostkey",), ()):
            self.assertRaises(KeyFileError, self.seal.open, sealed, *context)

    def test_a_changed_octet_anywhere_is_noticed(self) -> None:
        sealed = self.seal.seal(SECRET, "host")
        for place in range(len(sealed)):
            changed = bytearray(sealed)
            changed[place] ^= 1
            self.assertRaises(KeyFileError, self.seal.open, bytes(changed), "host")
        for size in range(len(sealed)):
            self.assertRaises(KeyFileError, self.seal.open, sealed[:size], "host")

    def test_another_key_opens_nothing_and_the_sentence_names_its_file(self) -> None:
        sealed = self.seal.seal(SECRET, "host")
        other = Seal(Secret(b"o" * 32), "/var/lib/pkengine/secrets.key")
        with self.assertRaises(KeyFileError) as caught:
            other.open(sealed, "host")
        self.assertIn("/var/lib/pkengine/secrets.key", str(caught.exception))
        self.assertIn("one backup", str(caught.exception))


class KeyFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir(mode=0o700)
        self.path = folder / "secrets.key"

    def refusal(self, *, is_in_use: bool = True) -> str:
        with self.assertRaises(KeyFileError) as caught:
            Seal.load(self.path, is_in_use=is_in_use)
        self.assertIn(str(self.path), str(caught.exception))
        return str(caught.exception)

    def test_the_file_is_made_once_and_is_private(self) -> None:
        sealed = Seal.load(self.path, is_in_use=False).seal(SECRET, "host")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(Seal.load(self.path, is_in_use=False).open(sealed, "host"), SECRET)
        self.assertEqual(Seal.load(self.path, is_in_use=True).open(sealed, "host"), SECRET)

    def test_a_file_that_is_in_use_and_missing_is_not_made_anew(self) -> None:
        self.assertIn("is missing", self.refusal())
        self.assertFalse(self.path.exists())

    def test_a_file_that_others_may_read_is_refused(self) -> None:
        Seal.load(self.path, is_in_use=False)
        self.path.chmod(0o644)
        self.assertIn("chmod 600", self.refusal())

    def test_a_broken_file_is_refused_and_kept(self) -> None:
        for content in (b"", b"nonsense!", b"c2hvcnQ="):
            self.path.write_bytes(content)
            self.path.chmod(0o600)
            self.assertIn("holds no key", self.refusal(is_in_use=False))
            self.assertEqual(self.path.read_bytes(), content)
