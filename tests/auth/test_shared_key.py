"""Shared keys: their file form, their folder, and the limit on attempts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pkengine.auth.attempts import AttemptLimit
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey, SharedKeyFolder
from pkengine.errors import InvalidKeyText, KeyFileError
from pkengine.interfaces import ISharedKeyStore
from pkengine.keys.key_id import KeyId


def new_key() -> SharedKey:
    return SharedKey.generate("hmac", local="agent", peer="engine")


class TextForm(SynchronousTestCase):
    def test_a_key_survives_writing_and_reading(self) -> None:
        key = new_key()
        self.assertEqual(SharedKey.decode(key.encode()), key)

    def test_the_other_half_has_the_ends_the_other_way_round(self) -> None:
        key = new_key()
        other = key.for_peer()
        self.assertEqual((other.local, other.peer), ("engine", "agent"))
        self.assertEqual((other.key_id, other.secret), (key.key_id, key.secret))

    def test_new_keys_differ(self) -> None:
        self.assertNotEqual(new_key().secret, new_key().secret)
        self.assertNotEqual(new_key().key_id, new_key().key_id)

    def test_a_key_needs_two_different_ends(self) -> None:
        for local, peer in (("a", "a"), ("", "a"), ("a", "")):
            with self.assertRaises(InvalidKeyText):
                SharedKey.generate("hmac", local=local, peer=peer)

    def test_anything_else_is_refused_without_showing_it(self) -> None:
        good = json.loads(new_key().encode())
        for broken in (
            b"",
            b"c2VjcmV0IG9jdGV0cw==",
            b"[]",
            json.dumps({**good, "secret": "c2VjcmV0IG9jdGV0cw"}).encode(),
            json.dumps({**good, "secret": 7}).encode(),
            json.dumps({**good, "id": "kid//7"}).encode(),
            json.dumps({name: value for name, value in good.items() if name != "peer"}).encode(),
        ):
            error = self.assertRaises(InvalidKeyText, SharedKey.decode, broken)
            self.assertNotIn("c2Vj", str(error))
            self.assertIsNone(error.__cause__)

    def test_the_secret_is_not_in_the_repr(self) -> None:
        key = new_key()
        self.assertNotIn(json.loads(key.encode())["secret"], repr(key))


class KeyIds(SynchronousTestCase):
    @given(st.binary(min_size=16, max_size=16))
    def test_the_text_form_is_read_back(self, octets: bytes) -> None:
        key_id = KeyId(octets)
        self.assertEqual(KeyId.parse(str(key_id)), key_id)

    def test_other_forms_are_refused(self) -> None:
        good = str(KeyId(bytes(16)))
        for text in ("", good[:-1], good + "0", good.upper(), good[5:], good[:-1] + "g"):
            with self.assertRaises(InvalidKeyText):
                KeyId.parse(text)
        with self.assertRaises(InvalidKeyText):
            KeyId(b"short")


class Stores(SynchronousTestCase):
    def stores(self) -> list[MemorySharedKeys | SharedKeyFolder]:
        return [MemorySharedKeys(), SharedKeyFolder(Path(self.mktemp()))]

    def test_a_key_is_kept_found_and_forgotten(self) -> None:
        for store in self.stores():
            verifyObject(ISharedKeyStore, store)
            key = new_key()
            self.assertIsNone(store.key(key.key_id))
            store.add(key)
            self.assertEqual(store.key(key.key_id), key)
            self.assertEqual(store.keys(), [key])
            store.remove(key.key_id)
            self.assertIsNone(store.key(key.key_id))
            with self.assertRaises(KeyError):
                store.remove(key.key_id)

    def folder(self) -> tuple[SharedKeyFolder, Path]:
        path = Path(self.mktemp())
        return SharedKeyFolder(path), path

    def test_a_file_that_others_put_there_is_seen(self) -> None:
        folder, path = self.folder()
        key = new_key()
        SharedKeyFolder(path).add(key)
        self.assertEqual(folder.key(key.key_id), key)

    def test_key_files_are_private(self) -> None:
        folder, path = self.folder()
        key = new_key()
        folder.add(key)
        self.assertEqual(folder.path(key.key_id).stat().st_mode & 0o777, 0o600)
        self.assertEqual(path.stat().st_mode & 0o777, 0o700)

    def test_a_key_file_that_others_may_read_is_refused_with_the_command_that_mends_it(
        self,
    ) -> None:
        folder, path = self.folder()
        key = new_key()
        folder.add(key)
        folder.path(key.key_id).chmod(0o640)
        error = self.assertRaises(KeyFileError, SharedKeyFolder, path)
        self.assertIn("chmod 600", str(error))

    def test_a_broken_file_is_named(self) -> None:
        folder, path = self.folder()
        broken = path / ("0" * 32 + ".json")
        broken.touch(mode=0o600)
        self.assertIn(str(broken), str(self.assertRaises(KeyFileError, folder.keys)))

    def test_a_key_in_the_file_of_another_is_refused(self) -> None:
        folder, path = self.folder()
        key = new_key()
        folder.add(key)
        os.rename(folder.path(key.key_id), path / ("0" * 32 + ".json"))
        self.assertIn("expected it in", str(self.assertRaises(KeyFileError, folder.keys)))


class Limits(SynchronousTestCase):
    def test_after_the_burst_one_attempt_is_allowed_each_interval(self) -> None:
        clock = Clock()
        limit = AttemptLimit(clock.seconds, burst=3, interval_s=10)
        self.assertEqual([limit.begin("a") for _ in range(5)], [True] * 3 + [False] * 2)
        clock.advance(10)
        self.assertEqual([limit.begin("a") for _ in range(2)], [True, False])
        clock.advance(1000)
        self.assertEqual([limit.begin("a") for _ in range(4)], [True] * 3 + [False])

    def test_success_gives_everything_back(self) -> None:
        limit = AttemptLimit(Clock().seconds, burst=2, interval_s=10)
        limit.begin("a")
        limit.begin("a")
        self.assertFalse(limit.begin("a"))
        limit.succeeded("a")
        self.assertTrue(limit.begin("a"))
        limit.succeeded("never began")

    def test_keys_are_counted_apart(self) -> None:
        limit = AttemptLimit(Clock().seconds, burst=1, interval_s=10)
        self.assertTrue(limit.begin("a"))
        self.assertTrue(limit.begin("b"))
        self.assertFalse(limit.begin("a"))

    def test_so_many_keys_are_remembered_and_no_more(self) -> None:
        limit = AttemptLimit(Clock().seconds, burst=1, interval_s=10, remembered=2)
        for key in ("a", "b", "c"):
            self.assertTrue(limit.begin(key))
        self.assertFalse(limit.begin("c"))
        self.assertFalse(limit.begin("b"))
        self.assertTrue(limit.begin("a"))
