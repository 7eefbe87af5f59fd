"""Unpack the archive on standard input while more of it is on its way.

One thread receives and inflates, another one writes the files: on a host with two processors
that takes as long as the slower of them, and neither keeps more than some pieces in memory.
The files are good for nothing before the whole archive is known to be the expected one.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import tarfile
import threading
import zlib
from typing import BinaryIO, cast

from pkengine.on_host.step import StepFailed

_CHUNK = 1 << 18
_MAX_PIECES = 16
#: To zlib: expect the header of gzip, with the largest window.
_GZIP = 16 + zlib.MAX_WBITS


def unpack_archive(folder: str, *, size: int, sha256: str) -> None:
    """Unpack a ``tar.gz`` of that size and hash into a folder.

    Raises:
        StepFailed: it did not arrive as it should; what is in the folder is to be removed.
    """
    pieces = _Pieces()
    failures: list[Exception] = []

    def write_files() -> None:
        try:
            _write_files(pieces, folder)
        except Exception as error:
            failures.append(error)
        finally:
            pieces.drain()

    writer = threading.Thread(target=write_files)
    writer.start()
    try:
        _receive(pieces, size, sha256)
    finally:
        pieces.end()
        writer.join()
    for failure in failures:
        if isinstance(failure, tarfile.TarError):
            raise StepFailed(f"the archive cannot be unpacked: {failure}.") from failure
        raise failure


def skip_archive() -> None:
    """Take it in, so that its sender comes to an end."""
    while sys.stdin.buffer.read(_CHUNK):
        pass


class _Pieces:
    """What was inflated; whoever reads it waits for more, and whoever adds to it for room."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes] = queue.Queue(_MAX_PIECES)
        self._current = memoryview(b"")
        self._is_at_end = False

    def add(self, piece: bytes) -> None:
        if piece:
            self._queue.put(piece)

    def end(self) -> None:
        self._queue.put(b"")

    def read(self, limit: int) -> bytes:
        """Give up to that many octets; none at the end."""
        if not self._current and not self._is_at_end:
            self._current = memoryview(self._queue.get())
            self._is_at_end = not self._current
        octets, self._current = bytes(self._current[:limit]), self._current[limit:]
        return octets

    def drain(self) -> None:
        """Pass over what is left, so that nobody waits for room."""
        while self.read(_CHUNK):
            pass


def _receive(pieces: _Pieces, size: int, sha256: str) -> None:
    damaged = StepFailed("the archive arrived damaged: its SHA-256 is not the expected one.")
    digest, inflating = hashlib.sha256(), zlib.decompressobj(_GZIP)
    received = 0
    while chunk := sys.stdin.buffer.read(_CHUNK):
        received += len(chunk)
        digest.update(chunk)
        try:
            pieces.add(inflating.decompress(chunk))
        except zlib.error:
            raise damaged from None
    if received != size:
        raise StepFailed(f"the archive broke off after {received} of {size} octets.")
    if digest.hexdigest() != sha256:
        raise damaged


def _write_files(pieces: _Pieces, folder: str) -> None:
    made = set()
    with tarfile.open(fileobj=cast(BinaryIO, pieces), mode="r|") as members:
        for member in members:
            parts = tuple(member.name.split("/"))
            content = members.extractfile(member) if member.isfile() else None
            if content is None or "" in parts or ".." in parts:
                raise StepFailed(f"the archive holds {member.name!r}, which is no plain file.")
            path = os.path.join(folder, member.name)
            if parts[:-1] not in made:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                made.add(parts[:-1])
            with open(path, "wb") as output:
                output.write(content.read())
                os.fchmod(output.fileno(), member.mode & 0o755)
