"""A real engine in a process of its own, started as the manual says."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
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


class EngineProcess:
    """``twistd -n pkengine`` on a free port of the loopback interface.

    Args:
        reactor: runs the process, and keeps the time.
        folder: where its state folder and its log go.
        environment: of the process.

    Attributes:
        state: its state folder.
        log: the file that it logs to.
        ended: fires when the process has ended, which before `stop` is a mishap.
    """

    def __init__(self, reactor: Any, folder: Path, environment: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._environment = environment
        self._clock = IReactorTime(reactor)
        self.state = folder / "engine"
        self.log = folder / "engine.log"
        self.ended: Deferred[None] = Deferred()
        self._process: IProcessTransport | None = None

    async def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            EngineError: it ended, or took too long; with the end of its log.
        """
        command = (
            *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()"),
            *("--nodaemon", "--pidfile=", f"--logfile={self.log}"),
            *("pkengine", "--state", str(self.state)),
            *("--https", "tcp:0:interface=127.0.0.1"),
        )
        self._process = self._reactor.spawnProcess(
            _Ending(self.ended),
            command[0],
            command,
            dict(self._environment),
            childFDs={0: "w", 1: 1, 2: 2},
        )
        deadline = self._clock.seconds() + START_TIMEOUT_S
        while not (self.state / "https.url").exists():
            if self.ended.called or self._clock.seconds() > deadline:
                raise EngineError(f"The engine did not start. Its log ends so:\n{self.log_end()}")
            await deferLater(self._clock, _POLL_INTERVAL_S)

    def log_end(self) -> str:
        """Give the last lines of its log."""
        if not self.log.exists():
            return "(it wrote no log)"
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:])

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
