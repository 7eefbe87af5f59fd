"""Steps on this host in a process of its own, which is not bound to what the agent may do."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

import pkengine
from pkengine.agent.installation import Installation
from pkengine.errors import AgentError

#: A step, how long it may take in seconds, and its parameters.
Step = tuple[str, float, dict[str, Any]]

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from pkengine.on_host.own_steps import main; main()"
)
_MARK = "pkengine "
_MAX_WORDS = 2000


class OwnSteps:
    """Has steps performed by the agent's own copy of `pkengine.on_host`.

    A child of a systemd service shares what is denied to that, and ends with it, so there
    systemd itself is asked to start the process.
    """

    def __init__(self, reactor: IReactorProcess) -> None:
        self._reactor = reactor

    async def perform(self, place: Installation, steps: list[Step], archive: Path | None) -> None:
        """Perform steps with an archive on their standard input, and wait for their end.

        Raises:
            AgentError: one failed; the sentence says why.
        """
        options = ("--wait", "--pipe", f"--unit=pkagent-check-{os.getpid()}")
        command = [*self._by(place, options), *_command(steps)]
        await self._run(command, archive or Path(os.devnull))

    async def leave(self, place: Installation, step: Step) -> None:
        """Start a step that outlives this agent.

        Raises:
            AgentError: it cannot be started.
        """
        command = _command([step], *(() if place.service == "systemd" else ("--detach",)))
        command = [*self._by(place, ("--unit=pkagent-upgrade",)), *command]
        await self._run(command, Path(os.devnull))

    def _by(self, place: Installation, options: tuple[str, ...]) -> tuple[str, ...]:
        if place.service != "systemd":
            return ()
        return ("systemd-run", "--collect", "--quiet", *options, "--")

    def _run(self, command: list[str], source: Path) -> Deferred[None]:
        ended = _Ended()
        try:
            with source.open("rb") as stream:
                descriptors: dict[int, int | str] = {0: stream.fileno(), 1: "r", 2: "r"}
                self._reactor.spawnProcess(
                    ended, command[0], command, env=None, path="/", childFDs=descriptors
                )
        except OSError as error:
            return fail(AgentError(f"{command[0]} cannot be started: {error.strerror}."))
        return ended.outcome


def _command(steps: list[Step], *options: str) -> list[str]:
    library = str(Path(pkengine.__file__).absolute().parents[1])
    python = (sys.executable, "-I", "-S", "-c", _PROGRAM, library)
    return [*python, *options, json.dumps(steps)]


class _Ended(ProcessProtocol):
    """Waits for the end of a process; fails with what it says about a failure."""

    def __init__(self) -> None:
        self.outcome: Deferred[None] = Deferred(self._cancel)
        self._said = ""

    def _cancel(self, _: Deferred[None]) -> None:
        if self.transport is not None and self.transport.pid is not None:
            self.transport.signalProcess("TERM")

    def errReceived(self, data: bytes) -> None:
        self._said = (self._said + data.decode("utf-8", "replace"))[-_MAX_WORDS:]

    def processEnded(self, reason: Failure) -> None:
        outcome = self.outcome
        if outcome.called:
            return
        status = getattr(reason.value, "exitCode", None)
        if status == 0:
            outcome.callback(None)
        else:
            outcome.errback(AgentError(_sentence(self._said)))


def _sentence(said: str) -> str:
    _, mark, text = said.rpartition(_MARK + "{")
    if mark:
        try:
            return str(json.JSONDecoder().raw_decode("{" + text)[0]["error"])
        except (ValueError, LookupError, TypeError):
            pass
    return f"a step on the host failed: {said.strip() or 'it says nothing'}"
