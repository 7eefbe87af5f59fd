"""Unpacking an archive while it arrives."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from pkengine.on_host.archive import skip_archive, unpack_archive
from pkengine.on_host.step import StepFailed

#: More than what may wait between receiving and writing.
LARGE = os.urandom(1 << 20) * 12


def pack(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1)


class ArchiveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def arrive(self, octets: bytes) -> io.BytesIO:
        stream = io.BytesIO(octets)
        self.patch(sys, "stdin", SimpleNamespace(buffer=stream))
        return stream

    def unpack(self, octets: bytes, *, expected: bytes | None = None) -> None:
        whole = octets if expected is None else expected
        self.arrive(octets)
        before = threading.enumerate()
        try:
            unpack_archive(
                str(self.folder), size=len(whole), sha256=hashlib.sha256(whole).hexdigest()
            )
        finally:
            self.assertEqual(before, threading.enumerate())

    def refusal(self, octets: bytes, *, expected: bytes | None = None) -> str:
        return str(self.assertRaises(StepFailed, self.unpack, octets, expected=expected))

    def test_all_files_are_there_with_their_modes(self) -> None:
        self.unpack(pack(bin__x=b"run", lib__large=LARGE, lib__empty=b""))
        self.assertEqual(LARGE, (self.folder / "lib/large").read_bytes())
        self.assertEqual(b"", (self.folder / "lib/empty").read_bytes())
        self.assertEqual(0o755, (self.folder / "bin/x").stat().st_mode & 0o777)

    def test_what_arrives_changed_or_cut_off_is_told_as_that(self) -> None:
        whole = pack(large=LARGE, small=b"x")
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        self.assertIn("arrived damaged", self.refusal(bytes(changed), expected=whole))
        self.assertIn("broke off after 1000 of", self.refusal(whole[:1000], expected=whole))
        self.assertIn("broke off after 0 of", self.refusal(b"", expected=whole))

    def test_what_is_no_archive_is_told_as_that(self) -> None:
        self.assertIn("arrived damaged", self.refusal(b"no archive at all"))
        self.assertIn("cannot be unpacked", self.refusal(gzip.compress(b"no archive" * 100)))

    def test_files_go_nowhere_else(self) -> None:
        for name in ("..__x", "__etc__x", "a__..__..__x"):
            self.assertIn("no plain file", self.refusal(pack(**{name: b"x", "large": LARGE})))

    def test_a_file_that_cannot_be_written_ends_it_while_more_arrives(self) -> None:
        (self.folder / "lib").write_text("a file")
        error = self.assertRaises(OSError, self.unpack, pack(lib__x=b"x", large=LARGE))
        self.assertTrue(str(error.filename).endswith("lib"))

    def test_an_archive_that_is_not_wanted_is_taken_in(self) -> None:
        stream = self.arrive(LARGE)
        skip_archive()
        self.assertEqual(b"", stream.read())
