"""The engine's line in the ``authorized_keys`` of the user who is logged in."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pkengine.on_host.files import edit, relabel
from pkengine.on_host.step import StepFailed
from pkengine.ssh.authorized_keys import AuthorizedKey, own_line
from pkengine.ssh.authorized_keys import authorize as with_key
from pkengine.ssh.authorized_keys import deauthorize as without_keys


def authorize(
    *, line: str, beside: str | None = None, keeps_options: bool = False
) -> dict[str, Any]:
    """Let an engine's SSH key in; see `pkengine.ssh.authorized_keys.authorize`.

    It says from where the host sees the engine, for ``from=`` is compared with that, and which
    line of the engine's was there before.
    """
    entry = AuthorizedKey.parse(line)
    if entry is None:
        raise StepFailed(f"{line[:80]!r} is no line of an authorized_keys file.")
    before: AuthorizedKey | None = None

    def change(text: str) -> str:
        nonlocal before
        before = own_line(text, entry)
        return with_key(text, entry, beside=beside, keeps_options=keeps_options)

    return {
        "changed": _edit(change),
        "seen_from": os.environ.get("SSH_CONNECTION", "").split(" ")[0],
        "before": str(before) if before else None,
    }


def deauthorize(*, keys: list[str], marker: str | None = None) -> dict[str, Any]:
    """Let SSH keys in no more; other lines stay as they are."""
    if not os.path.exists(_path()):
        return {"changed": False}
    return {"changed": _edit(lambda text: without_keys(text, marker=marker, keys=keys))}


def _path() -> str:
    return os.path.expanduser("~/.ssh/authorized_keys")


def _edit(change: Callable[[str], str]) -> bool:
    folder = os.path.dirname(_path())
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o700)
        relabel(folder)
    return edit(_path(), change)
