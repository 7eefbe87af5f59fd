"""The demo from its beginning to its end, as a user of the engine would do it."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric import ed25519
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import CancelledError

from pkengine.cli.demo import verification
from pkengine.cli.demo.engine_process import EngineProcess
from pkengine.cli.demo.ssh_host import USER, ThrowAwayHost
from pkengine.cli.demo.verification import Check
from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.hosts import (
    SshAccess,
    add_host,
    describe_key,
    list_hosts,
    newest_event,
    wait_for_host,
)
from pkengine.cli.jobs import progress_display
from pkengine.cli.login import Login, resolve_login
from pkengine.cli.rest_client import Entity, RestClient
from pkengine.cli.running import run
from pkengine.cli.terminal import printable
from pkengine.keys import KeyPair, SshPublicKey

HOST_NAME = "demo-host"


def show_all(folder: Path, *, once: bool) -> NoReturn:
    """Show it all below a folder, and exit."""

    async def work(reactor: Any) -> None:
        console = Console(highlight=False, soft_wrap=True)
        demo = _Demo(reactor, folder, console)
        try:
            await demo.show()
            if not once:
                await demo.stay()
        finally:
            await demo.stop()

    run(work)


class _Demo:
    def __init__(self, reactor: Any, folder: Path, console: Console) -> None:
        self._reactor = reactor
        self._console = console
        self._folder = folder
        (folder / "host").mkdir(mode=0o700)
        self._engine = EngineProcess(reactor, folder, os.environ)
        self._host = ThrowAwayHost(reactor, folder / "host")
        self._agent_state = self._host.home / ".local/share/pkagent/state"
        self._failed: list[Check] = []

    async def show(self) -> None:
        """Set up, add the host, verify, and try a wrong fingerprint.

        Raises:
            CommandFailed: something was not as it should be.
        """
        self._head(f"An engine and a host on this machine, below {self._folder}")
        await self._engine.start()
        login = self._login()
        self._fact("engine", login.api)
        self._fact("its key", str(KeyPair.load(self._engine.state, "engine").pin))
        self._host.listen()
        self._fact("SSH host", f"127.0.0.1 port {self._host.port}, user {USER}")
        self._fact("its key", _named(self._host.public_key))

        client = RestClient(self._reactor, login)
        try:
            self._head("Adding the host with its fingerprint and a password")
            host = await self._add(client)
            self._head("What was verified")
            self._show(verification.check_host_key(host, self._host))
            for check in verification.check_pins(host, self._engine.state, self._agent_state):
                self._show(check)
            for check in await verification.check_connection(
                self._reactor, host, self._engine.state, self._agent_state
            ):
                self._show(check)
            self._show(await verification.check_stranger(self._reactor, host, self._agent_state))
            self._show(
                verification.check_secrets(
                    self._host, self._engine.state, self._agent_state, self._engine.log
                )
            )
            self._head("Adding a host with a wrong fingerprint")
            for check in await self._add_wrongly(client):
                self._show(check)
        finally:
            await client.close()
        if self._failed:
            names = "; ".join(check.name for check in self._failed)
            raise CommandFailed(f"Not as it should be: {names}.")

    async def stay(self) -> None:
        """Say how to look around, and wait until an interrupt.

        Raises:
            CommandFailed: the engine ended by itself.
        """
        login = self._login()
        password = login.password().reveal_text()
        command = f"{_this_command()} --state {shlex.quote(str(self._engine.state))}"
        self._head("It runs on until Ctrl-C")
        self._fact("URL", login.api)
        self._fact("user", login.user)
        self._fact("password", password)
        self._head("Try in another terminal")
        for line in (
            f"{command} host list",
            f"{command} host show {HOST_NAME}",
            f"{command} events --follow",
            f"curl --cacert {shlex.quote(str(login.ca_file))} "
            f"-u {shlex.quote(f'{login.user}:{password}')} {login.api}/hosts",
        ):
            self._console.print(f"  {escape(line)}")
        try:
            await self._engine.ended
        except CancelledError:
            self._console.print()
            return
        raise CommandFailed(f"The engine ended. Its log ends so:\n{self._engine.log_end()}")

    async def stop(self) -> None:
        """End the engine and the SSH server; the keeper ends the rest."""
        await self._engine.stop()
        await self._host.stop()

    def _login(self) -> Login:
        return resolve_login(
            url=None,
            user=None,
            password_file=None,
            ca_file=None,
            state=str(self._engine.state),
            environ={},
            ask_password=None,
        )

    async def _add(self, client: RestClient) -> Entity:
        since = await newest_event(client)
        added = await add_host(
            client,
            HOST_NAME,
            "127.0.0.1",
            self._access(self._host.public_key),
            agent_port=free_port(),
        )
        with progress_display(self._console) as progress:
            host = await wait_for_host(
                client, added, ("up",), since_event=since, progress=progress
            )
        self._console.print(f"  [green]✓[/] {HOST_NAME} is {host['status']}")
        return host

    async def _add_wrongly(self, client: RestClient) -> list[Check]:
        other = Key(ed25519.Ed25519PrivateKey.generate()).public()
        before = len(self._host.visits)
        reason = None
        try:
            await add_host(
                client,
                "impostor",
                "localhost",
                self._access(SshPublicKey.from_blob(other.blob())),
            )
        except CommandFailed as error:
            if error.status is not ExitStatus.REFUSED:
                raise
            reason = str(error)
        hosts = await list_hosts(client)
        return list(verification.check_refusal(reason, self._host.visits[before:], hosts))

    def _access(self, key: SshPublicKey) -> SshAccess:
        return SshAccess(
            port=self._host.port,
            user=USER,
            fingerprint=key.fingerprint(),
            password=self._host.password,
        )

    def _head(self, text: str) -> None:
        self._console.print(f"\n[bold]{escape(text)}[/]")

    def _fact(self, name: str, value: str) -> None:
        self._console.print(f"  {name:<9} {escape(printable(value))}")

    def _show(self, check: Check) -> None:
        mark = "[green]✓[/]" if check.is_right else "[red]✗[/]"
        self._console.print(f"  {mark} {escape(check.name)}")
        found = Text(printable(check.found), style="dim")
        if self._console.is_terminal:  # wrap long text between words
            self._console.print(Padding(found, (0, 0, 0, 4)), soft_wrap=False)
        else:
            self._console.print(Text("    ") + found)
        if not check.is_right:
            self._failed.append(check)


def _named(key: SshPublicKey) -> str:
    return f"{key.fingerprint()} ({describe_key(key)})"


def free_port() -> int:
    """Choose a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def _this_command() -> str:
    """Give the command that this process was started by, as short as it works here."""
    program = os.path.realpath(os.path.dirname(sys.argv[0])) + "/" + os.path.basename(sys.argv[0])
    relative = os.path.relpath(program)
    return shlex.quote(program if relative.startswith("..") else relative)
