"""How far a deployment is, and what its steps on the host say about themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pkengine.engine.model import StepStatus
from pkengine.errors import DeploymentError, PkengineError, SshCommandFailed, SshConnectionLost

_MARK = "pkengine "

#: What each step does, for a person who watches.
DESCRIPTIONS = {
    "probe": "Look at what the host has",
    "upload": "Send the agent",
    "check": "Check that the agent runs there",
    "install": "Put the agent in use",
    "init": "Make the host's key and exchange public keys",
    "authorize": "Let the engine's SSH key in",
    "login": "Log in by the engine's SSH key",
    "start": "Start the agent",
    "verify": "Connect to the agent by the new keys",
    "restart": "Start the agent anew",
    "restore": "Put the version before it back in use",
    "undeploy": "Stop and remove the agent",
    "deauthorize": "Let the engine's SSH key in no more",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step, at one moment.

    Attributes:
        name: such as ``upload``.
        description: the same for a person.
        status: `started`, `finished`, `failed`, or `aborted` where the caller gave up.
        progress: per cent, where that can be told.
        detail: why it failed, or empty.
    """

    name: str
    description: str
    status: StepStatus
    progress: int | None = None
    detail: str = ""


Report = Callable[[StepReport], None]


class Progress:
    """Reports the steps of one deployment, each from its start to its one end.

    Args:
        report: is called with each change.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._current = ""
        self._percent: int | None = None

    def begin(self, name: str) -> None:
        """A step begins, unless it is the one that is under way."""
        if name != self._current:
            self._current, self._percent = name, None
            self._say(StepStatus.STARTED)

    def percent(self, percent: int) -> None:
        """The step that is under way got this far."""
        if percent != self._percent:
            self._percent = percent
            self._say(StepStatus.STARTED)

    def finish(self) -> None:
        """The step that is under way is done."""
        self._say(StepStatus.FINISHED)
        self._current = ""

    def missed(self, sentence: str) -> None:
        """The step that is under way failed, and the others do not need it."""
        self._say(StepStatus.FAILED, sentence)
        self._current = ""

    def failed(self, error: PkengineError) -> DeploymentError:
        """The step that is under way failed; give the error that names it."""
        sentence = str(error)
        if isinstance(error, SshConnectionLost):
            sentence += " Install the host again: what is done already is not done twice."
        self._say(StepStatus.FAILED, sentence)
        return DeploymentError(self._current, sentence)

    def aborted(self) -> None:
        """The caller gave up."""
        self._say(StepStatus.ABORTED)

    def _say(self, status: StepStatus, detail: str = "") -> None:
        if self._current:
            self._report(
                StepReport(
                    name=self._current,
                    description=DESCRIPTIONS[self._current],
                    status=status,
                    progress=self._percent,
                    detail=detail,
                )
            )


def parse_results(stdout: bytes) -> dict[str, Any]:
    """Read what became of each step; lines that are not of the program are passed over."""
    results = {}
    for line in stdout.decode("utf-8", "replace").splitlines():
        if line.startswith(_MARK):
            report = json.loads(line.removeprefix(_MARK))
            results[report["step"]] = report["result"]
    return results


def parse_failure(error: SshCommandFailed, names: Sequence[str]) -> tuple[str, str] | None:
    """Read which of the steps failed, and why; None where the program did not say it."""
    _, mark, text = error.stderr.rpartition(_MARK + "{")
    try:
        report, _ = json.JSONDecoder().raw_decode("{" + text)
        step, sentence = str(report["step"]), str(report["error"])
    except (ValueError, LookupError, TypeError):
        return None
    return (step, sentence) if mark and step in names else None
