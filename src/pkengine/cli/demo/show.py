"""The demo from its beginning to its end, as a user of the engine would do it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from twisted.internet.defer import CancelledError

from pkengine.cli.demo.adding import HOST_NAME, Adding
from pkengine.cli.demo.joining import Joining
from pkengine.cli.demo.screen import Screen
from pkengine.cli.demo.stage import Setting, Stage
from pkengine.cli.exit_status import CommandFailed
from pkengine.cli.rest_client import RestClient
from pkengine.cli.running import run


def show_all(folder: Path, setting: Setting, *, once: bool) -> NoReturn:
    """Show it all below a folder, and exit."""

    async def work(reactor: Any) -> None:
        demo = _Demo(reactor, folder, setting, Console(highlight=False, soft_wrap=True))
        try:
            await demo.show()
            if not once:
                await demo.stay()
        finally:
            await demo.stop()

    run(work)


class _Demo:
    def __init__(self, reactor: Any, folder: Path, setting: Setting, console: Console) -> None:
        self._reactor = reactor
        self._folder = folder
        self._screen = Screen(console)
        self._stage = Stage(reactor, folder, setting)
        act = Joining if setting.is_joining else Adding
        self._act: Adding | Joining = act(reactor, folder / "host", self._stage, self._screen)

    async def show(self) -> None:
        """Set up, play, and verify.

        Raises:
            CommandFailed: something was not as it should be.
            EngineError: a program that takes part does not start.
        """
        stage, screen = self._stage, self._screen
        screen.head(f"An engine and a host on this machine, below {self._folder}")
        await stage.start()
        login = stage.login()
        screen.fact("engine", login.api)
        screen.fact("its key", str(stage.engine_key().pin))
        if stage.proxy is not None:
            screen.fact("behind", f"{stage.setting.behind} at port {stage.proxy.port}")
            screen.fact("its key", str(stage.proxy.pin))
        await self._act.introduce()
        client = RestClient(self._reactor, login)
        try:
            await self._act.play(client)
        finally:
            await client.close()
        if screen.failed:
            raise CommandFailed(f"Not as it should be: {'; '.join(screen.failed)}.")

    async def stay(self) -> None:
        """Say how to look around, and wait until an interrupt.

        Raises:
            CommandFailed: the engine ended by itself.
        """
        engine, screen, login = self._stage.engine, self._screen, self._stage.login()
        password = login.password().reveal_text()
        command = f"{_this_command()} --state {shlex.quote(str(engine.state))}"
        screen.head("It runs on until Ctrl-C")
        screen.fact("URL", login.api)
        screen.fact("user", login.user)
        screen.fact("password", password)
        screen.head("Try in another terminal")
        for line in (
            f"{command} host list",
            f"{command} host show {HOST_NAME}",
            f"{command} events --follow",
            f"curl --cacert {shlex.quote(str(login.ca_file))} "
            f"-u {shlex.quote(f'{login.user}:{password}')} {login.api}/hosts",
        ):
            screen.command(line)
        try:
            await engine.ended
        except CancelledError:
            screen.console.print()
            return
        raise CommandFailed(f"The engine ended. Its log ends so:\n{engine.log_end()}")

    async def stop(self) -> None:
        """End all that runs; the keeper ends the rest."""
        await self._act.stop()
        await self._stage.stop()


def _this_command() -> str:
    """Give the command that this process was started by, as short as it works here."""
    program = os.path.realpath(os.path.dirname(sys.argv[0])) + "/" + os.path.basename(sys.argv[0])
    relative = os.path.relpath(program)
    return shlex.quote(program if relative.startswith("..") else relative)
