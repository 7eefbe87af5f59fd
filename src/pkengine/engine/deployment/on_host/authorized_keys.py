"""The engine's line in the ``authorized_keys`` of the user who is logged in."""

from __future__ import annotations

import os
import stat
from typing import Any

from pkengine.engine.deployment.on_host.files import relabel, write


def authorize(*, key: str) -> dict[str, Any]:
    """Let an SSH public key in, beside those that are let in already."""
    folder = os.path.expanduser("~/.ssh")
    path = os.path.join(folder, "authorized_keys")
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o700)
        relabel(folder)
    lines = _read_lines(path)
    if any(_has_key(line, key) for line in lines):
        return {"changed": False}
    # One write at the end: other lines, owner, mode and links stay what they are.
    text = f"{key}\n" if not lines or lines[-1].endswith("\n") else f"\n{key}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    relabel(path)
    return {"changed": True}


def deauthorize(*, key: str) -> dict[str, Any]:
    """Let an SSH public key in no more; other lines stay as they are."""
    path = os.path.realpath(os.path.expanduser("~/.ssh/authorized_keys"))
    lines = _read_lines(path)
    kept = [line for line in lines if not _has_key(line, key)]
    if len(kept) < len(lines):
        write(path, "".join(kept), stat.S_IMODE(os.stat(path).st_mode))
    return {"changed": len(kept) < len(lines)}


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            return stream.readlines()
    except FileNotFoundError:
        return []


def _has_key(line: str, key: str) -> bool:
    """Tell whether a line, which may begin with options, has that key."""
    return not line.lstrip().startswith("#") and key.split()[1] in line.split()
