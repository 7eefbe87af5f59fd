"""Private files: written atomically, 0600 in folders of 0700, refused when too open."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pkengine.errors import KeyFileError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


def make_private_directory(directory: Path) -> None:
    """Make a folder that only its owner may enter, or check that it is one.

    Raises:
        KeyFileError: it cannot be made or entered, or it lets others in.
    """
    try:
        directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        mode = stat.S_IMODE(directory.stat().st_mode)
        os.scandir(directory).close()
    except OSError as error:
        raise KeyFileError(
            f"Cannot make or enter the folder {directory}: {error.strerror}."
        ) from error
    if mode & 0o077:
        raise KeyFileError(
            f"The folder {directory} has mode {mode:04o} and lets other users in: "
            f"expected 0700. Run: chmod 700 {directory}"
        )


def write_atomically(path: Path, content: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Put content at path so that a reader sees the old file or the new one, never a part.

    Raises:
        KeyFileError: the file cannot be written; what was there before is still there.
    """
    with _temporary_file(path, content, mode) as temporary:
        os.replace(temporary, path)


def create_atomically(path: Path, content: bytes, *, mode: int = PRIVATE_FILE) -> bool:
    """Like `write_atomically`, but leave a file that exists as it is.

    Returns:
        True where this call made the file; of several racing calls just one gets True.
    """
    with _temporary_file(path, content, mode) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def _temporary_file(path: Path, content: bytes, mode: int) -> Iterator[str]:
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
        _sync_directory(path.parent)
    except OSError as error:
        raise KeyFileError(f"Cannot write {path}: {error.strerror}.") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path) -> bytes:
    """Read a file that holds a secret.

    Raises:
        KeyFileError: it cannot be read, or users other than its owner may read it; the
            text then has the command that mends it.
    """
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"The file {path} has mode {mode:04o}, so other users may read the "
                    f"secret in it: expected 0600. Run: chmod 600 {path}"
                )
            return stream.read()
    except OSError as error:
        raise KeyFileError(f"Cannot read {path}: {error.strerror}.") from error
