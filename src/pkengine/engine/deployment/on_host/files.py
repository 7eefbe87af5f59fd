"""Files that are written whole or not at all, locks, and labels."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator


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
