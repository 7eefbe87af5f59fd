"""``pkagent join``: make this host known to an engine by a code that somebody reads out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
from twisted.internet.task import deferLater

from pkengine.agent.control_client import ControlClient
from pkengine.agent.control_verbs import GET_STATUS, DialledStatus, Status
from pkengine.agent.joining import Joining
from pkengine.auth.join_code import JoinCode
from pkengine.channel.engine_url import parse_engine_url
from pkengine.channel.join_verbs import Joined
from pkengine.cli.exit_status import CommandFailed
from pkengine.cli.join_prompt import ask_code
from pkengine.cli.running import run
from pkengine.cli.terminal import is_interactive, show, show_json, tell
from pkengine.errors import AgentNotRunning, InvalidEngineUrl, InvalidJoinCode

if TYPE_CHECKING:
    from pkengine.agent.state import StateFolder

_UNIT = "pkagent.service"
_SYSTEMCTL_TIMEOUT_S = 60.0

#: How long the command watches the running agent connect.
_WATCH_S = 15.0
_LOOK_EACH_S = 0.2


def join(state: StateFolder, code: str | None, url: str | None, anew: bool, as_json: bool) -> None:
    """Join an engine, and see to it that the agent dials it; exits.

    Raises:
        click.UsageError: the URL is missing or malformed.
        CommandFailed: the code is none.
    """
    url, code = _engine_and_code(url, code)
    wanted = _read_code(code)

    async def work(reactor: Any) -> None:
        joined = await Joining(reactor, state, anew=anew).join(wanted, url)
        line = await _connected(reactor, state, joined.engine)
        if as_json:
            _show_json(joined, line)
        else:
            _show(state, joined, line)

    run(work, command="pkagent")


def _engine_and_code(url: str | None, code: str | None) -> tuple[str, str | None]:
    """Tell the two arguments apart; the code may be left out."""
    if url is None and code is not None and "://" in code:
        url, code = code, None
    if url is None:
        raise click.UsageError(
            "Which engine? Give its URL, such as: pkagent join https://engine.example:8443"
        )
    try:
        parse_engine_url(url)
    except InvalidEngineUrl as error:
        raise click.UsageError(str(error)) from error
    return url, code


def _read_code(given: str | None) -> JoinCode:
    """Read the code; nothing is tried with what is none."""
    if given is None and is_interactive():
        return ask_code()
    try:
        return JoinCode.parse(sys.stdin.readline() if given is None else given)
    except InvalidJoinCode as error:
        raise CommandFailed(str(error)) from error


async def _connected(reactor: Any, state: StateFolder, engine: str) -> DialledStatus | None:
    """Wait until the agent is connected with the engine, but not for long.

    Returns:
        How it stands, or None where no agent runs.
    """
    if not _is_running(state) and not _start_unit():
        return None
    line: DialledStatus | None = None
    for _ in range(int(_WATCH_S / _LOOK_EACH_S)):
        await deferLater(reactor, _LOOK_EACH_S)
        line = _line(state, engine)
        if line is not None and line.state == "connected":
            break
    return line


def _is_running(state: StateFolder) -> bool:
    try:
        ControlClient(state.control_socket).__exit__(None, None, None)
    except AgentNotRunning:
        return False
    return True


def _line(state: StateFolder, engine: str) -> DialledStatus | None:
    try:
        with ControlClient(state.control_socket) as agent:
            status: Status = agent.call(GET_STATUS, result_type=Status)
    except AgentNotRunning:
        return None
    return next((line for line in status.dialled if line.name == engine), None)


def _start_unit() -> bool:
    """Start the agent now and at each boot, where systemd knows it; tell whether that is so."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return False
    known = subprocess.run(
        [systemctl, "cat", _UNIT],
        capture_output=True,
        check=False,
        timeout=_SYSTEMCTL_TIMEOUT_S,
    )
    if known.returncode != 0:
        return False
    started = subprocess.run(
        [systemctl, "enable", "--now", _UNIT],
        capture_output=True,
        check=False,
        timeout=_SYSTEMCTL_TIMEOUT_S,
    )
    return started.returncode == 0


def _show_json(joined: Joined, line: DialledStatus | None) -> None:
    show_json(
        {
            "engine": joined.engine,
            "host_name": joined.host_name,
            "approved": joined.is_approved,
            "agent": line.state if line is not None else "not running",
        }
    )


def _show(state: StateFolder, joined: Joined, line: DialledStatus | None) -> None:
    show(f"This host has joined the engine {joined.engine} as Host {joined.host_name}.")
    if not joined.is_approved:
        show(
            "It waits until an administrator approves it: "
            f"pkengine host approve {joined.host_name}"
        )
    if line is None:
        tell(
            "The agent does not run, so start it, for example by: "
            f"twistd pkagent --state {state.directory}"
        )
    elif line.state == "connected":
        show("The agent runs, and is connected.")
    else:
        tell(
            f"The agent runs, and is not connected yet. {line.last_failure}".rstrip()
            + " See: pkagent status"
        )
