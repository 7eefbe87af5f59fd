"""Runs the command ``pkengine`` in a process of its own, as a person or a script does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

PROGRAM = (sys.executable, "-c", "from pkengine.cli.pkengine import main; main()")


def environment(**more: str) -> dict[str, str]:
    """Give an environment in which nothing of pkengine is set but what the test says."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PKENGINE")}
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Command(ProcessProtocol):
    """One run; on a terminal the answers are typed, each when its question has appeared."""

    def __init__(self, stdin: bytes, dialogue: list[tuple[str, bytes]]) -> None:
        self._stdin = stdin
        self._dialogue = list(dialogue)
        self._answered = 0
        self._out = self._err = b""
        self.ended: Deferred[Ended] = Deferred()

    def connectionMade(self) -> None:
        if not self._dialogue:
            self.transport.write(self._stdin)
            self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._out += data
        shown = self._out.decode("utf-8", "replace")
        while self._dialogue and self._dialogue[0][0] in shown[self._answered :]:
            question, answer = self._dialogue.pop(0)
            self._answered = shown.index(question, self._answered) + len(question)
            self.transport.write(answer)

    def errReceived(self, data: bytes) -> None:
        self._err += data

    def printed(self) -> str:
        """Give what it has printed so far."""
        return self._out.decode("utf-8", "replace")

    def processEnded(self, reason: Failure) -> None:
        status = reason.value.exitCode
        if status is None:
            status = -reason.value.signal
        self.ended.callback(Ended(status, self._out.decode(), self._err.decode()))


def start_pkengine(
    *arguments: str,
    stdin: bytes = b"",
    dialogue: list[tuple[str, bytes]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Command:
    """Start the command; with a dialogue it runs on a terminal of its own."""
    command = Command(stdin, dialogue or [])
    program = (*PROGRAM, *arguments)
    reactor.spawnProcess(
        command,
        program[0],
        program,
        dict(environ or environment()),
        usePTY=dialogue is not None,
    )
    return command


async def pkengine(*arguments: str, **how: Any) -> Ended:
    """Run the command to its end."""
    return await start_pkengine(*arguments, **how).ended
