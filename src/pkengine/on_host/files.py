"""Files that are written whole or not at all, locks, and labels.

`write` is for files of the agent's, `edit` for a file of somebody else's, of which nothing but the
text changes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from pkengine.on_host.step import StepFailed

#: Why a file cannot be replaced by another one that is like it, though it may be written.
_IRREPLACEABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)
#: How often an edit begins anew, because somebody else was quicker.
_ATTEMPTS = 20


def write(path: str, content: str, mode: int) -> bool:
    """Write a file whole or not at all; say whether it is another one than before."""
    octets = content.encode("utf-8", "surrogateescape")
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as before:
        if before.read() == octets:
            return False
    descriptor, temporary = tempfile.mkstemp(prefix=".pkagent-", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            stream.write(octets)
            stream.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    relabel(path)
    return True


def edit(path: str, change: Callable[[str], str]) -> bool:
    """Change a text file; owner, group, mode, context, links and other octets stay what they are.

    It is replaced atomically.  Where that is impossible, because its owner, its other names or
    its folder would not be kept, it is written in place, from the first difference on.

    Args:
        path: where it is, perhaps behind links; where it is not, it is made, and private.
        change: gives the new text.

    Returns:
        Whether it is another one than before.

    Raises:
        StepFailed: it is no regular file, or somebody else changes it all the time.
    """
    path = os.path.realpath(path)
    with _locked_folder(os.path.dirname(path)):
        for _ in range(_ATTEMPTS):
            before, octets = _read(path)
            text = octets.decode("utf-8", "surrogateescape")
            new = change(text).encode("utf-8", "surrogateescape")
            if new == octets:
                return False
            if _put(path, before, octets, new):
                return True
    raise StepFailed(f"{path} is changed by somebody else all the time.")


def _read(path: str) -> tuple[os.stat_result | None, bytes]:
    # Without O_NONBLOCK, a pipe would be waited for.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None, b""
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise StepFailed(f"{path} is no regular file: it was left as it is.")
        return found, stream.read()


def _put(path: str, before: os.stat_result | None, old: bytes, new: bytes) -> bool:
    """Put the new content there; say no where the file is not the one that was read."""
    if before is not None and before.st_nlink > 1:
        return _overwrite(path, before, old, new)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".pkengine-", dir=os.path.dirname(path))
        with os.fdopen(descriptor, "wb") as stream:
            if before is not None:
                _make_like(descriptor, temporary, before, path)
            stream.write(new)
            stream.flush()
            os.fsync(descriptor)
        if not _is_still(path, before):
            return False
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        if before is None or error.errno not in _IRREPLACEABLE:
            raise
        return _overwrite(path, before, old, new)
    finally:
        if temporary is not None:
            os.unlink(temporary)
    _sync_folder(os.path.dirname(path))
    if before is None:
        relabel(path)
    return True


def _make_like(descriptor: int, temporary: str, before: os.stat_result, path: str) -> None:
    """Give a new file the owner, the mode, the access list and the context of another one."""
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    shutil.copystat(path, temporary)
    os.utime(temporary)


def _overwrite(path: str, before: os.stat_result, old: bytes, new: bytes) -> bool:
    """Write in place; what is the same in front is not touched, so a line is added whole."""
    pairs = enumerate(zip(old, new, strict=False))
    same = next((n for n, (a, b) in pairs if a != b), min(len(old), len(new)))
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "wb", buffering=0) as stream:
        if not _is_still(path, before):
            return False
        stream.seek(same)
        left = memoryview(new)[same:]
        while left:
            left = left[stream.write(left) :]
        stream.truncate(len(new))
        os.fsync(descriptor)
    return True


def _is_still(path: str, before: os.stat_result | None) -> bool:
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return before is None
    return before is not None and (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) == (
        before.st_dev,
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # not every file system knows how
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked_folder(folder: str) -> Iterator[None]:
    """Keep other engines' edits in a folder out, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # NFS locks no folder; then it is noticed when somebody else was quicker.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(prefix: str) -> Iterator[None]:
    """Keep other deployments on this host out; the kernel ends it with the process."""
    descriptor = os.open(os.path.join(prefix, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def relabel(path: str) -> None:
    """Give files the labels that SELinux wants there, where it is in use."""
    if os.path.isdir("/sys/fs/selinux/initial_contexts") and shutil.which("restorecon"):
        subprocess.run(["restorecon", "-R", path], check=False, stderr=subprocess.DEVNULL)
