"""A real engine in a process of its own, started as the manual says."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from pkengine.cli.demo.program import Program

#: `twistd` of the environment in which this runs.
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")


class EngineProcess:
    """``twistd -n pkengine`` on a port of the loopback interface.

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
        self.state = folder / "engine"
        self.log = folder / "engine.log"
        self._program = Program(reactor, "engine", self.log, environment)
        self.ended: Deferred[None] = self._program.ended

    async def start(self, port: int = 0, arguments: Sequence[str] = ()) -> None:
        """Start it, and wait until it listens.

        Args:
            port: where; 0 for any.
            arguments: more than the state folder and the port.

        Raises:
            EngineError: it ended, or took too long; with the end of its log.
        """
        command = (
            *TWISTD,
            *("--nodaemon", "--pidfile=", f"--logfile={self.log}"),
            *("pkengine", "--state", str(self.state)),
            *("--https", f"tcp:{port}:interface=127.0.0.1"),
            *arguments,
        )
        await self._program.start(command, (self.state / "https.url").exists)

    def log_end(self) -> str:
        """Give the last lines of its log."""
        return self._program.log_end()

    async def stop(self) -> None:
        """End it, by force if it takes too long."""
        await self._program.stop()
