"""OpenSSH's ssh-agent, for a test."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol

from pkengine.keys import SshPublicKey


def is_available() -> bool:
    return shutil.which("ssh-agent") is not None


class SshAgent(ProcessProtocol):
    """One agent.

    Attributes:
        socket: where it listens.
    """

    def __init__(self) -> None:
        # The path of a socket must be short.
        self.folder = Path(tempfile.mkdtemp())
        self.socket = str(self.folder / "agent")
        self._ready: Deferred[None] = Deferred()
        self._ended: Deferred[None] = Deferred()

    async def start(self) -> None:
        command = ["ssh-agent", "-D", "-a", self.socket]
        reactor.spawnProcess(self, shutil.which("ssh-agent"), command, env={})
        await self._ready

    def outReceived(self, data: bytes) -> None:
        if not self._ready.called:
            self._ready.callback(None)

    def processEnded(self, reason: Any) -> None:
        self._ended.callback(None)

    def add_key(self, *kind: str) -> SshPublicKey:
        """Give it a new key, of which nothing else is left than the public half."""
        path = self.folder / "key"
        for command in (
            ["ssh-keygen", "-q", "-N", "", "-f", str(path), *kind],
            ["ssh-add", "-q", str(path)],
        ):
            env = {"SSH_AUTH_SOCK": self.socket}
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=env)
        path.unlink()
        key = SshPublicKey.parse(path.with_suffix(".pub").read_text())
        path.with_suffix(".pub").unlink()
        return key

    async def stop(self) -> None:
        if self.transport is not None and not self._ended.called:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")
            await self._ended
        shutil.rmtree(self.folder, ignore_errors=True)
