"""Private files: their modes, and what a reader sees while they are written."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial import unittest

from pkengine.errors import KeyFileError
from pkengine.keys.files import (
    create_atomically,
    make_private_directory,
    read_private,
    write_atomically,
)


def mode_of(path: Path) -> int:
    """Give the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


class FilesTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(mode=0o700)
        self.path = self.directory / "secret"


class DirectoryTests(FilesTestCase):
    def test_it_is_made_for_the_owner_only_whatever_the_umask(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        make_private_directory(self.directory / "a" / "b")
        self.assertEqual(0o700, mode_of(self.directory / "a" / "b"))

    def test_one_that_is_there_is_taken_as_it_is(self) -> None:
        make_private_directory(self.directory)
        self.assertEqual(0o700, mode_of(self.directory))

    def test_one_that_lets_others_in_is_refused_with_the_command_that_mends_it(self) -> None:
        for mode in (0o750, 0o705, 0o711, 0o777):
            self.directory.chmod(mode)
            with self.assertRaisesRegex(KeyFileError, f"chmod 700 {self.directory}"):
                make_private_directory(self.directory)
            self.assertEqual(mode, mode_of(self.directory))

    def test_a_file_in_its_place_is_named(self) -> None:
        self.path.write_bytes(b"")
        with self.assertRaisesRegex(KeyFileError, f"folder {self.path}: File exists"):
            make_private_directory(self.path)


class WriteTests(FilesTestCase):
    def test_content_and_mode_are_there(self) -> None:
        for write in (write_atomically, create_atomically):
            for mode in (0o600, 0o644):
                write(self.path, b"content", mode=mode)
                self.assertEqual(b"content", self.path.read_bytes())
                self.assertEqual(mode, mode_of(self.path))
                self.path.unlink()

    def test_the_mode_is_private_when_nothing_is_said_whatever_the_umask(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        write_atomically(self.path, b"content")
        self.assertEqual(0o600, mode_of(self.path))

    def test_writing_replaces_and_creating_does_not(self) -> None:
        self.assertTrue(create_atomically(self.path, b"one"))
        self.assertFalse(create_atomically(self.path, b"two"))
        self.assertEqual(b"one", self.path.read_bytes())
        write_atomically(self.path, b"three")
        self.assertEqual(b"three", self.path.read_bytes())

    def test_nothing_else_stays_in_the_folder(self) -> None:
        create_atomically(self.path, b"one")
        create_atomically(self.path, b"two")
        write_atomically(self.path, b"three")
        self.assertEqual(["secret"], os.listdir(self.directory))

    def test_a_failed_write_keeps_the_old_file_and_leaves_no_part_of_the_new(self) -> None:
        write_atomically(self.path, b"old")
        for function in ("fsync", "replace", "fchmod"):
            full = OSError(28, os.strerror(28))
            with (
                mock.patch.object(os, function, side_effect=full),
                self.assertRaisesRegex(
                    KeyFileError, f"write {self.path}: No space left on device"
                ),
            ):
                write_atomically(self.path, b"new")
            self.assertEqual(b"old", self.path.read_bytes())
            self.assertEqual(["secret"], os.listdir(self.directory))

    def test_a_folder_that_is_missing_is_told(self) -> None:
        with self.assertRaisesRegex(KeyFileError, "No such file or directory"):
            write_atomically(self.directory / "missing" / "secret", b"")

    def test_of_racing_creators_one_wins_and_its_content_stays(self) -> None:
        contents = [str(number).encode() for number in range(16)]
        won = in_threads(lambda content: create_atomically(self.path, content), contents)
        self.assertEqual(1, won.count(True))
        self.assertEqual(contents[won.index(True)], self.path.read_bytes())

    def test_a_reader_sees_an_old_or_a_new_file_and_never_a_part(self) -> None:
        contents = [character * 50_000 for character in (b"a", b"b", b"c", b"d")]
        write_atomically(self.path, contents[0])

        def write_or_read(content: bytes) -> list[bytes]:
            if content is contents[0]:
                return [self.path.read_bytes() for _ in range(50)]
            for _ in range(10):
                write_atomically(self.path, content)
            return []

        seen = in_threads(write_or_read, contents)[0]
        self.assertEqual(50, len(seen))
        self.assertEqual(set(), set(seen) - set(contents))


class ReadTests(FilesTestCase):
    def test_a_private_file_is_read(self) -> None:
        write_atomically(self.path, b"content")
        self.assertEqual(b"content", read_private(self.path))

    def test_one_that_others_may_read_is_refused_with_the_command_that_mends_it(self) -> None:
        write_atomically(self.path, b"content")
        for mode in (0o640, 0o604, 0o620, 0o601, 0o666):
            self.path.chmod(mode)
            with self.assertRaisesRegex(KeyFileError, f"{mode:04o}.*chmod 600 {self.path}"):
                read_private(self.path)

    def test_one_that_is_missing_is_named(self) -> None:
        with self.assertRaisesRegex(KeyFileError, f"read {self.path}: No such file"):
            read_private(self.path)

    def test_a_folder_is_no_file(self) -> None:
        with self.assertRaisesRegex(KeyFileError, "Is a directory"):
            read_private(self.directory)


def in_threads(function: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
    """Call the function with each argument at once, and give what it returned for each."""
    results: list[Any] = [None] * len(arguments)
    start = threading.Barrier(len(arguments))

    def work(index: int) -> None:
        start.wait()
        results[index] = function(arguments[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
