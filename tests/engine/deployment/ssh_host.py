"""A host for the tests of deployments: a folder in which commands really run."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pkengine.engine.deployment.bundle import AgentBundle, build_bundle
from pkengine.engine.deployment.layout import OWN_FOLDER
from pkengine.errors import SshCommandFailed, SshConnectionLost, SudoNotAllowed, SudoRefused
from pkengine.on_host.processes import agents
from pkengine.ssh import CommandResult, SshTarget


class LocalConnection:
    """What a deployment needs of an SSH connection, run by ``/bin/sh`` with a home of its own.

    Attributes:
        commands: what was run, as (command, as_root).
        break_after: the connection is lost when it has sent so many octets of standard input.
        break_before: the connection is lost before the command of this number.
        sudo_error: what sudo answers a user who is not root.
    """

    def __init__(self, home: Path, *, user: str = "root", path: str | None = None) -> None:
        self.target = SshTarget("host.example", user=user)
        self.home = home
        self.commands: list[tuple[str, bool]] = []
        self.break_after: int | None = None
        self.break_before: int | None = None
        self.sudo_error: type[SudoRefused] | None = SudoNotAllowed
        self.environment = {"HOME": str(home), "PATH": path or "/usr/sbin:/usr/bin:/sbin:/bin"}

    async def run(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        as_root: bool = False,
        timeout_s: float = 60.0,
        check: bool = True,
        heard: Callable[[bytes], None] = lambda _: None,
    ) -> CommandResult:
        return self._run(command, stdin or b"", as_root, timeout_s, heard)

    async def send(
        self,
        command: str,
        source: BinaryIO,
        size: int,
        *,
        as_root: bool = False,
        progress: Callable[[int, int], None] | None = None,
        heard: Callable[[bytes], None] = lambda _: None,
        timeout_s: float = 600.0,
    ) -> CommandResult:
        octets = b""
        while chunk := source.read(1 << 20):
            octets += chunk
            if progress is not None:
                progress(len(octets), size)
        assert len(octets) == size
        return self._run(command, octets, as_root, timeout_s, heard)

    def _run(
        self,
        command: str,
        stdin: bytes,
        as_root: bool,
        timeout_s: float,
        heard: Callable[[bytes], None] = lambda _: None,
    ) -> CommandResult:
        lost = SshConnectionLost("The connection to host.example was lost.")
        if self.break_before == len(self.commands):
            raise lost
        self.commands.append((command, as_root))
        if as_root and self.target.user != "root" and self.sudo_error is not None:
            raise self.sudo_error("sudo on host.example refuses.")
        is_broken = self.break_after is not None and len(stdin) > self.break_after
        if is_broken:
            stdin = stdin[: self.break_after]
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            input=stdin,
            capture_output=True,
            cwd=self.home,
            env=self.environment,
            timeout=timeout_s,
            check=False,
        )
        for octet in done.stdout:  # nobody knows where the network splits it
            heard(bytes((octet,)))
        if is_broken:
            raise lost
        if done.returncode != 0:
            stderr = done.stderr.decode()[:2000]
            raise SshCommandFailed(f"The command failed: {stderr}", done.returncode, stderr)
        return CommandResult(done.returncode, done.stdout, done.stderr, "")


def make_home(parent: Path, *, has_own_folder: bool = True) -> Path:
    """Make the home of a user, who asked for an agent of their own."""
    home = parent / "home"
    (home / OWN_FOLDER if has_own_folder else home).mkdir(parents=True)
    return home


def end_agents(prefix: Path) -> None:
    """Kill the agents that a test left behind."""
    for agent in agents(str(prefix), str(prefix / "state")):
        os.kill(agent.pid, signal.SIGKILL)


def free_port() -> int:
    """Give a TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET6) as found:
        found.bind(("::", 0))
        port: int = found.getsockname()[1]
        return port


@functools.cache
def shared_bundle() -> AgentBundle:
    """Give the real bundle, built once for all tests of a process."""
    directory = Path(tempfile.mkdtemp(prefix="pkengine-test-bundle-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return build_bundle(directory)
