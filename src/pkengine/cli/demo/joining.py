"""The act in which a host without SSH joins by a code that a person reads out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from pkengine.agent.state import StateFolder
from pkengine.cli.demo import verification
from pkengine.cli.demo.dial_in_verification import agent_status, check_strange_agent, check_way
from pkengine.cli.demo.engine_process import TWISTD
from pkengine.cli.demo.program import Program
from pkengine.cli.demo.proxy import free_port
from pkengine.cli.demo.screen import Screen
from pkengine.cli.demo.stage import Stage
from pkengine.cli.demo.verification import Check
from pkengine.cli.exit_status import CommandFailed
from pkengine.cli.hosts import act, find_host, newest_event, wait_for_host
from pkengine.cli.rest_client import Entity, RestClient

HOST_NAME = "demo-host"


class Joining:
    """Invites a host, types the code at its console, and approves it.

    Args:
        reactor: runs the host's programs.
        folder: for the host; it is made.
        stage: the engine.
        screen: shows it.
    """

    def __init__(self, reactor: Any, folder: Path, stage: Stage, screen: Screen) -> None:
        self._reactor = reactor
        self._folder = folder
        self._stage = stage
        self._screen = screen
        folder.mkdir(mode=0o700)
        self._agent_state = folder / "state"
        self._agent = Program(reactor, "agent", folder / "agent.log", os.environ)

    async def introduce(self) -> None:
        """Start the agent, which knows no engine yet."""
        command = (
            *TWISTD,
            *("--nodaemon", "--pidfile=", f"--logfile={self._agent.log}"),
            *("pkagent", "--state", str(self._agent_state)),
            *("--listen", f"tcp:{free_port()}:interface=127.0.0.1", "--listen-on-demand"),
        )
        await self._agent.start(command, StateFolder(self._agent_state).control_socket.exists)
        self._screen.fact("host", "an agent without SSH, which knows no engine")

    async def play(self, client: RestClient) -> None:
        """Invite the host, let it join, approve it, and try the code again.

        Raises:
            CommandFailed: the host does not join, or does not get `up`.
        """
        screen = self._screen
        screen.head("The administrator invites a host, and reads the code out")
        invitation = await client.post("/invitations", {"host_name": HOST_NAME})
        code, url = str(invitation["code"]), str(invitation["url"])
        screen.fact("code", code)
        screen.head("Somebody at the host's console types it")
        screen.command(f"$ pkagent join {url}")
        screen.command(f"The code that the administrator reads out? {code}")
        status, said = await self._join(self._agent_state, url, code)
        for line in said.splitlines():
            screen.command(line)
        if status != 0:
            raise CommandFailed("The host did not join.")

        screen.head("The administrator approves it")
        host = await find_host(client, HOST_NAME)
        waited = str(host["status"])
        since = await newest_event(client)
        await act(client, host, "approve", activate=True)
        host = await wait_for_host(client, host, ("up",), since_event=since)
        screen.done(f"{HOST_NAME} is {host['status']}")
        screen.head("What was verified")
        screen.show([Check("Host waited for the approval", waited == "pending_approval", waited)])
        await self._verify(host)
        screen.head("Somebody else types the same code")
        status, said = await self._join(self._folder / "other", url, code)
        screen.show([Check("A code is good for one host", status != 0, said.strip())])

    async def stop(self) -> None:
        """End the agent."""
        await self._agent.stop()

    async def _verify(self, entity: Entity) -> None:
        screen, engine, agent = self._screen, self._stage.engine, self._agent_state
        screen.show(verification.check_keys(entity, engine.state, agent))
        status = await agent_status(agent)
        screen.show(check_way(entity, status, self._stage))
        screen.show([await check_strange_agent(self._reactor, status, self._stage)])
        screen.show([verification.check_secrets(None, engine.state, agent, engine.log)])

    async def _join(self, state: Path, url: str, code: str) -> tuple[int, str]:
        """Run ``pkagent join``; give its exit status and what it said."""
        run = "from pkengine.cli.launch import pkagent; pkagent()"
        command = (sys.executable, "-c", run, "join", "--state", str(state), url)
        console = _Console(f"{code}\n".encode())
        self._reactor.spawnProcess(console, command[0], command, dict(os.environ))
        return await console.ended


class _Console(ProcessProtocol):
    """Types one line, and reads what a program says."""

    def __init__(self, line: bytes) -> None:
        self._line = line
        self._said = b""
        self.ended: Deferred[tuple[int, str]] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None, "Twisted sets the transport before this call"
        self.transport.write(self._line)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._said += data

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        status = getattr(reason.value, "exitCode", None)
        said = self._said.decode("utf-8", "replace")
        self.ended.callback((1 if status is None else status, said))
