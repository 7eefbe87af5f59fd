"""How far a deployment is, and what its steps on the host say about themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pkengine.engine.model import StepStatus
from pkengine.errors import (
    DeploymentError,
    PkengineError,
    SshCommandFailed,
    SshConnectionLost,
    SshError,
)

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


class Performance:
    """Follows a program that performs several steps, by what it prints after each.

    So each step takes in the progress as long as it takes on the host.

    Args:
        names: the steps, in their order.
        progress: learns of each.
    """

    def __init__(self, names: Iterable[str], progress: Progress) -> None:
        self.results: dict[str, Any] = {}
        self._names = list(names)
        self._progress = progress
        self._line = b""
        self._progress.begin(self._names[0])

    def heard(self, stdout: bytes) -> None:
        """Take what the program printed; lines that are not its own are passed over.

        Raises:
            SshError: it does not say what it should.
        """
        *lines, self._line = (self._line + stdout).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace")
            if text.startswith(_MARK):
                self._finished(*_parse_result(text.removeprefix(_MARK)))

    def _finished(self, name: str, result: Any) -> None:
        if name not in self._remaining[:1]:
            raise SshError(f"the host says that it did '{name}', which was not asked for now.")
        self.results[name] = result
        self._progress.finish()
        if self._remaining:
            self._progress.begin(self._remaining[0])

    @property
    def _remaining(self) -> list[str]:
        return self._names[len(self.results) :]

    def check_whole(self) -> None:
        """Check that nothing is left to do.

        Raises:
            SshError: the program ended too early.
        """
        if self._remaining:
            raise SshError("the host ended before it was done, and does not say why.")

    def failure(self, error: SshCommandFailed) -> SshCommandFailed:
        """Give the program's own sentence where it says why the step under way failed."""
        _, mark, text = error.stderr.rpartition(_MARK + "{")
        try:
            report, _ = json.JSONDecoder().raw_decode("{" + text)
            step, sentence = str(report["step"]), str(report["error"])
        except (ValueError, LookupError, TypeError):
            return error
        if not mark or step not in self._remaining[:1]:
            return error
        return SshCommandFailed(sentence, error.exit_status, error.stderr)


def _parse_result(text: str) -> tuple[str, Any]:
    try:
        report = json.loads(text)
        return str(report["step"]), report["result"]
    except (ValueError, LookupError, TypeError) as error:
        raise SshError(f"the host does not say what became of a step: {text[:80]!r}.") from error
