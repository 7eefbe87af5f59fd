"""How a step fails, and how it runs the commands of the host."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

#: What stands before the reason in the output of the agent or of Twisted.
_REASONS = ("pkagent: ", "Couldn't listen on ")
_MAX_WORDS = 600


class StepFailed(Exception):
    """The step cannot be done; the text is a sentence for a person."""


def run(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command with a text for its input, and collect what it prints."""
    return subprocess.run(
        command,
        check=False,
        cwd="/",
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def last_words(text: str) -> str:
    """Pick from a log or an error output what tells the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        for mark in _REASONS:
            if mark in line:
                return line[line.index(mark) :].replace("pkagent: ", "")[:_MAX_WORDS]
    return " | ".join(lines[-3:])[-_MAX_WORDS:] or "it says nothing."
