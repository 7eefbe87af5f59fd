"""The command ``pkagent``: sets up the agent of this host, and talks to it when it runs.

Modules that take time to import are imported by the commands that need them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkengine import __version__
from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.terminal import show, show_columns, show_json, tell
from pkengine.errors import AgentAccessDenied, AgentNotRunning, PkengineError, TrustFileError

if TYPE_CHECKING:
    import datetime

    from pkengine.agent.control_client import ControlClient
    from pkengine.agent.state import StateFolder
    from pkengine.auth.peer import TrustedPeer
    from pkengine.channel.verbs import AcceptedKey

_EPILOG = """\
Exit status: 0 done, 1 failed, 2 usage, 3 the agent does not run, 4 not allowed,
130 interrupted.
"""

Command = Callable[..., Any]


def state_option(command: Command) -> Command:
    """Add ``--state``, and hand the state folder to the command."""

    def as_folder(_: click.Context, __: click.Parameter, given: Path | None) -> StateFolder:
        from pkengine.agent.state import StateFolder, default_directory

        return StateFolder(given or default_directory())

    return click.option(
        "--state",
        metavar="DIR",
        type=click.Path(readable=False, path_type=Path),
        callback=as_folder,
        help="The agent's state folder. [env: PKAGENT_STATE; default: /var/lib/pkagent]",
    )(command)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for scripts, in place of text."
)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pkagent")
def cli() -> None:
    """Set up and look after the pkengine agent of this host."""


def _engine_key(line: str) -> TrustedPeer:
    from pkengine.auth.trust import parse_trust_line

    try:
        peer = parse_trust_line(line)
    except TrustFileError as error:
        raise click.BadParameter(str(error)) from error
    if peer is None:
        raise click.BadParameter("The line is empty: expected 'sha256//… name=NAME'.")
    return peer


@cli.command()
@state_option
@click.option(
    "--engine",
    "engines",
    metavar="'PIN name=NAME'",
    multiple=True,
    callback=lambda _, __, lines: [_engine_key(line) for line in lines],
    help="A line of authorized_engines: a key that the agent shall accept. All keys of one "
    "engine are given together; others under the same name are removed. May be repeated.",
)
@click.option(
    "--dial",
    is_flag=True,
    help="Read from standard input, as one JSON object, the engine that this agent shall dial. "
    "Without it the engines that are given are not dialled.",
)
@json_option
def init(state: StateFolder, engines: list[TrustedPeer], dial: bool, as_json: bool) -> None:
    """Make this host's key, and accept the keys of engines.

    What is there already stays: run it as often as you like.
    """
    from pkengine.agent.initialization import initialize, read_dial

    done = initialize(state, engines, read_dial(sys.stdin.buffer.read()) if dial else None)
    if as_json:
        _show_struct(done, indent=None)
        return
    show(f"Agent key  {done.pin}")
    show(f"Host UUID  {done.uuid}")
    show(f"State      {done.state}")
    show(f"Accepts    {', '.join(done.engines) or 'no engine yet'}")
    if done.removed:
        show(f"Removed    {', '.join(done.removed)}")


@cli.command(short_help="Join an engine by a code.")
@click.argument("code", required=False)
@click.argument("url", required=False)
@click.option("--anew", is_flag=True, help="Join also an engine that this host knows already.")
@state_option
@json_option
def join(code: str | None, url: str | None, anew: bool, state: StateFolder, as_json: bool) -> None:
    """Make this host known to the engine at URL by a code.

    An administrator makes the code with 'pkengine host invite' and reads it out. It is asked
    for where it is left out, which keeps it out of the shell's history and the list of
    processes; where there is no terminal, it is read from standard input. The code proves
    the engine, too: whoever else answers at URL learns nothing.

    \b
    pkagent join https://engine.example:8443
    pkagent join 7-guitar-melon https://engine.example:8443
    """  # noqa: D301 - click wants the character
    from pkengine.cli.pkagent_join import join

    join(state, code, url, anew, as_json)


@cli.command()
@state_option
@json_option
def pin(state: StateFolder, as_json: bool) -> None:
    """Print the pin of this agent's key, for an engine that is told it by hand."""
    own = str(state.key_pair().pin)
    if as_json:
        show_json({"pin": own})
    else:
        show(own)


@cli.command()
@state_option
@json_option
def status(state: StateFolder, as_json: bool) -> None:
    """Show how the running agent is doing."""
    from pkengine.agent.control_verbs import GET_STATUS, Status

    with _connect(state) as agent:
        found = agent.call(GET_STATUS, result_type=Status)
    if as_json:
        _show_struct(found)
        return
    show(f"Running     since {_local(found.started)}, process {found.pid}")
    show(f"Version     {found.version}{found.bundle and ' of bundle ' + found.bundle}")
    show(f"Host UUID   {found.uuid}")
    show(f"Agent key   {found.pin}")
    show(f"State       {found.state}")
    demand = ", which is on demand" if found.listens_on_demand else ""
    show(f"Listening   {', '.join(map(str, found.listening)) or 'nowhere'}{demand}")
    show(f"Keys        accepted: {len(found.engines)}; see: pkagent keys list")
    for line in found.dialled:
        why = f": {line.last_failure}" if line.last_failure else ""
        show(
            f"Dials       {line.name} at {line.url} by {line.mechanism}, {line.state} "
            f"since {_local(line.since)}{why}"
        )
    for one in found.connections:
        show(f"Connected   {one.name} from {one.address} since {_local(one.since)}")
    if not found.connections:
        show("Connected   no engine")


@cli.group()
def keys() -> None:
    """List, add and remove the keys of engines that the running agent accepts."""


@keys.command("list")
@state_option
@json_option
def list_keys(state: StateFolder, as_json: bool) -> None:
    """List the keys that are accepted now."""
    from pkengine.channel.verbs import KEYS_LIST, AcceptedKey

    with _connect(state) as agent:
        found = agent.call(KEYS_LIST, result_type=list[AcceptedKey])
    if as_json:
        _show_struct(found)
    elif found:
        show_columns(("NAME", "PIN", "MECHANISM", "EXPIRES", "COMMENT"), map(_row, found))
    else:
        show("No key is accepted.")


@keys.command("add")
@click.argument(
    "line", metavar="'PIN name=NAME [expires=TIME] [# COMMENT]'", nargs=-1, required=True
)
@state_option
@json_option
def add_key(line: tuple[str, ...], state: StateFolder, as_json: bool) -> None:
    """Accept a key from now on; the line is as in authorized_engines."""
    from pkengine.channel.verbs import KEYS_ADD, AcceptedKey, AddKey

    peer = _engine_key(" ".join(line))
    request = AddKey(
        pin=str(peer.key),
        name=peer.name,
        mechanisms=tuple(sorted(peer.mechanisms)),
        expires=peer.expires,
        comment=peer.comment,
    )
    with _connect(state) as agent:
        added = agent.call(KEYS_ADD, request, result_type=AcceptedKey)
    if as_json:
        _show_struct(added)
    else:
        show(f"Accepted {added.pin} of {added.name}.")


@keys.command("remove")
@click.argument("pin", metavar="PIN")
@state_option
@json_option
def remove_key(pin: str, state: StateFolder, as_json: bool) -> None:
    """Accept a key no longer; its connections close at once."""
    from pkengine.channel.verbs import KEYS_REMOVE, AcceptedKey, RemoveKey

    with _connect(state) as agent:
        removed = agent.call(KEYS_REMOVE, RemoveKey(pin=pin), result_type=AcceptedKey)
    if as_json:
        _show_struct(removed)
    else:
        show(f"Removed {removed.pin} of {removed.name}.")


def _connect(state: StateFolder) -> ControlClient:
    from pkengine.agent.control_client import ControlClient

    return ControlClient(state.control_socket)


def _row(key: AcceptedKey) -> tuple[str, str, str, str, str]:
    expires = _local(key.expires) if key.expires else "never"
    return key.name, key.pin, ",".join(key.mechanisms), expires, key.comment


def _local(time: datetime.datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _show_struct(found: object, *, indent: int | None = 2) -> None:
    import msgspec

    show_json(msgspec.to_builtins(found), indent=indent)


def main() -> None:
    """Run the command; the console script's entry point."""
    try:
        cli.main(prog_name="pkagent", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (CommandFailed, PkengineError) as error:
        tell(f"pkagent: {error}")
        sys.exit(_exit_status(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(ExitStatus.INTERRUPTED)


def _exit_status(error: PkengineError) -> ExitStatus:
    if isinstance(error, CommandFailed):
        return error.status
    if isinstance(error, AgentNotRunning):
        return ExitStatus.UNREACHABLE
    if isinstance(error, AgentAccessDenied) or isinstance(error.__cause__, PermissionError):
        return ExitStatus.NOT_AUTHORIZED
    return ExitStatus.FAILED
