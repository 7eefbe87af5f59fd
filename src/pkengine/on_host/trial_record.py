"""What a host notes of the trial of a version, so that whoever runs next can end it.

In ``STATE/upgrade``: ``trial`` says which version is on trial and what became of it,
``confirmed`` which one the engine has confirmed, and ``lock`` is locked by the process that
waits for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from pkengine.on_host.files import write

#: Nothing was decided yet.
TRYING = "trying"
#: The version is in use for good.
KEPT = "kept"
#: The version before it runs.
GIVEN_UP = "given up"


class TrialRecord:
    """The notes in one state folder; each is written whole or not at all.

    Args:
        state: the agent's state folder.
    """

    def __init__(self, state: str) -> None:
        self.folder = os.path.join(state, "upgrade")
        self._trial = os.path.join(self.folder, "trial")
        self._confirmed = os.path.join(self.folder, "confirmed")
        self._lock = os.path.join(self.folder, "lock")

    def prepare(self) -> None:
        """Make the folder, which is private."""
        os.makedirs(self.folder, 0o700, exist_ok=True)

    def note(self, bundle: str, outcome: str, reason: str = "", until: float = 0.0) -> None:
        """Write down how a version stands.

        Args:
            bundle: the hash of the version.
            outcome: `TRYING`, `KEPT` or `GIVEN_UP`.
            reason: a sentence that says why it was given up.
            until: when a trial ends, in seconds since the epoch.
        """
        self.prepare()
        what = {"bundle": bundle, "outcome": outcome, "reason": reason, "until": until}
        write(self._trial, json.dumps(what), 0o600)

    def read(self) -> dict[str, Any] | None:
        """Give the last note, or None where there is none that can be read."""
        try:
            with open(self._trial, encoding="utf-8") as stream:
                note = json.load(stream)
            return {
                "bundle": str(note["bundle"]),
                "outcome": str(note["outcome"]),
                "reason": str(note["reason"]),
                "until": float(note["until"]),
            }
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None

    def confirm(self, bundle: str) -> None:
        """Say that the engine has met the version."""
        write(self._confirmed, bundle, 0o600)

    def is_confirmed(self, bundle: str) -> bool:
        """Tell whether the engine has met the version."""
        try:
            with open(self._confirmed, encoding="utf-8") as stream:
                return stream.read() == bundle
        except FileNotFoundError:
            return False

    def forget_confirmation(self) -> None:
        """Let the next version begin without the confirmation of another one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._confirmed)

    @contextlib.contextmanager
    def watching(self) -> Iterator[bool]:
        """Be the one who ends the trial, or give False where somebody else is."""
        self.prepare()
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def is_watched(self) -> bool:
        """Tell whether somebody is at work on a trial."""
        with self.watching() as is_free:
            return not is_free
