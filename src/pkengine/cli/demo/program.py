"""A program that runs beside the demo, and ends with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from pkengine.errors import EngineError

START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.1
_LAST_LINES = 15


class Program:
    """A program in a process of its own.

    Args:
        reactor: runs the process, and keeps the time.
        name: what it is, for errors, such as "engine".
        log: the file that it logs to.
        environment: of the process.

    Attributes:
        log: that file.
        ended: fires when the process has ended, which before `stop` is a mishap.
    """

    def __init__(self, reactor: Any, name: str, log: Path, environment: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._clock = IReactorTime(reactor)
        self._name = name
        self._environment = environment
        self._process: IProcessTransport | None = None
        self.log = log
        self.ended: Deferred[None] = Deferred()

    async def start(self, command: Sequence[str], is_ready: Callable[[], bool]) -> None:
        """Start it, and wait until it is ready.

        Raises:
            EngineError: it ended, or took too long; with the end of its log.
        """
        with self.log.open("ab") as output:
            self._process = self._reactor.spawnProcess(
                _Ending(self.ended),
                command[0],
                command,
                dict(self._environment),
                childFDs={0: "w", 1: output.fileno(), 2: output.fileno()},
            )
        deadline = self._clock.seconds() + START_TIMEOUT_S
        while not is_ready():
            if self.ended.called or self._clock.seconds() > deadline:
                raise EngineError(
                    f"The {self._name} did not start. Its log ends so:\n{self.log_end()}"
                )
            await deferLater(self._clock, _POLL_INTERVAL_S)

    def log_end(self) -> str:
        """Give the last lines of its log."""
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-_LAST_LINES:]) or "(it wrote no log)"

    async def stop(self) -> None:
        """End it, by force if it takes too long."""
        if self._process is None or self.ended.called:
            return
        kill = self._clock.callLater(_STOP_TIMEOUT_S, self._signal, "KILL")
        self._signal("TERM")
        await self.ended
        if kill.active():
            kill.cancel()

    def _signal(self, name: str) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessExitedAlready):  # then its end is on the way to us
            self._process.signalProcess(name)


class _Ending(ProcessProtocol):
    def __init__(self, ended: Deferred[None]) -> None:
        self._ended = ended

    def processEnded(self, reason: Failure) -> None:
        self._ended.callback(None)
