"""Short files in which the kernel says one thing each."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """Give what a file says, without white space around it; empty where it says nothing.

    A file that is missing, or that this user may not read, says nothing: which of these
    files there are depends on the machine and on who asks.
    """
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return ""
