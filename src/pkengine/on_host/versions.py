"""The versions of the agent on a host, and which of them is in use.

``PREFIX/versions/HASH`` holds one version each; the symbolic links ``current`` and
``previous`` say which is in use and which was before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from typing import Any

from pkengine.on_host.archive import skip_archive, unpack_archive
from pkengine.on_host.files import locked, relabel
from pkengine.on_host.step import StepFailed, last_words, run


def upload(*, prefix: str, bundle: str, size: int, sha256: str) -> dict[str, Any]:
    """Unpack the archive on standard input as a new version, whole or not at all."""
    versions = os.path.join(prefix, "versions")
    target = os.path.join(versions, bundle)
    os.makedirs(versions, exist_ok=True)
    with locked(prefix):
        _remove_leftovers(versions)
        if os.path.isdir(target):  # another engine was quicker
            skip_archive()
            return {"changed": False}
        partial = tempfile.mkdtemp(prefix=f".{bundle}.partial-", dir=versions)
        try:
            os.chmod(partial, 0o755)  # noqa: S103 - programs are for everybody
            unpack_archive(partial, size=size, sha256=sha256)
            os.symlink(os.path.realpath(sys.executable), os.path.join(partial, "bin", "python3"))
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        relabel(target)
    return {"changed": True}


def _remove_leftovers(versions: str) -> None:
    """Remove what interrupted uploads left; nobody else uploads while the lock is held."""
    for name in os.listdir(versions):
        if name.startswith(".") and ".partial-" in name:
            shutil.rmtree(os.path.join(versions, name))


def check(*, prefix: str, bundle: str) -> dict[str, Any]:
    """Load the version's service before anything is made to depend on it.

    A version that does not load, such as one that was damaged when the power failed, is
    removed, so that the next deployment sends it anew.
    """
    version = os.path.join(prefix, "versions", bundle)
    python = os.path.join(version, "bin", "python3")
    try:
        done = run([python, "-I", "-S", os.path.join(version, "lib"), "check"])
        words = last_words(done.stderr)
    except OSError as error:
        words = f"{error.filename}: {error.strerror}"
    else:
        if done.returncode == 0:
            return {}
    interpreter = os.path.realpath(python)
    with locked(prefix):
        shutil.rmtree(version, ignore_errors=True)
    raise StepFailed(
        f"the agent does not start with {interpreter}, and was removed again: {words}"
    )


def install(*, prefix: str, bundle: str, command: str | None) -> dict[str, Any]:
    """Put a version in use, and keep the one before it for the way back."""
    with locked(prefix):
        return {"changed": put_in_use(prefix, bundle, command)}


def put_in_use(prefix: str, bundle: str, command: str | None) -> bool:
    """Do that while the lock is held; say whether another version was in use."""
    current, previous = _version_in(prefix, "current"), _version_in(prefix, "previous")
    if current != bundle:
        if current is not None:
            point(prefix, "previous", current)
            previous = current
        point(prefix, "current", bundle)
    versions = os.path.join(prefix, "versions")
    for name in os.listdir(versions):
        if name not in (bundle, previous):
            shutil.rmtree(os.path.join(versions, name), ignore_errors=True)
    if command is not None and not os.path.lexists(command):
        with contextlib.suppress(FileNotFoundError):  # no folder for local commands
            os.symlink(command_of(prefix, "pkagent"), command)
    return current != bundle


def command_of(prefix: str, name: str, version: str = "current") -> str:
    """Give the path of a command of the version in use, or of another one."""
    return os.path.join(prefix, version, "bin", name)


def _version_in(prefix: str, name: str) -> str | None:
    try:
        return os.path.basename(os.readlink(os.path.join(prefix, name)))
    except FileNotFoundError:
        return None


def point(prefix: str, name: str, bundle: str) -> None:
    """Let a symbolic link lead to a version; it leads there or where it did before."""
    temporary = os.path.join(prefix, f".{name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(os.path.join("versions", bundle), temporary)
    os.replace(temporary, os.path.join(prefix, name))


def remove_versions(prefix: str) -> None:
    """Remove every version, and the folder unless somebody else put something there."""
    for name in ("current", "previous", ".lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(prefix, name))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(os.path.join(prefix, "versions"))
    with contextlib.suppress(OSError):
        os.rmdir(prefix)
