"""The options that say how to get into a host, and how long to wait for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pkengine.cli.login import read_password
from pkengine.cli.terminal import ask_password
from pkengine.errors import InvalidKeyText
from pkengine.keys import Secret, SshFingerprint, SshPublicKey

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity, RestClient
    from pkengine.cli.ways import Way

_Command = TypeVar("_Command", bound=Callable[..., Any])

PORT = click.IntRange(1, 65535)


def read_fingerprint(context: object, option: object, text: str | None) -> SshFingerprint | None:
    """Read the value of an option; click calls this.

    Raises:
        click.BadParameter: it is no fingerprint.
    """
    try:
        return None if text is None else SshFingerprint.parse(text)
    except InvalidKeyText as error:
        raise click.BadParameter(str(error)) from None


def read_fingerprints(
    context: object, option: object, texts: tuple[str, ...]
) -> tuple[SshFingerprint, ...]:
    """Read the values of an option that may be given more than once; click calls this.

    Raises:
        click.BadParameter: one is no fingerprint.
    """
    read = (read_fingerprint(context, option, text) for text in texts)
    return tuple(fingerprint for fingerprint in read if fingerprint is not None)


def read_public_key(context: object, option: object, text: str | None) -> SshPublicKey | None:
    """Take a key as a line, or as the name of a file that holds the line; click calls this.

    Raises:
        click.BadParameter: it is no public key.
    """
    if text is None:
        return None
    try:
        return SshPublicKey.parse(text if " " in text.strip() else Path(text).read_text("utf-8"))
    except OSError as error:
        raise click.BadParameter(f"Cannot read {text}: {error.strerror}.") from None
    except (InvalidKeyText, UnicodeDecodeError) as error:
        raise click.BadParameter(str(error)) from None


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


jump_options = _options(
    click.option(
        "--jump",
        metavar="[USER@]HOST[:PORT]",
        help="Reach the host through this one, or through several, with commas, as by 'ssh -J'; "
        "'none' goes directly. The engine logs in there with its own SSH key.",
    ),
    click.option(
        "--jump-fingerprint",
        "jump_fingerprints",
        callback=read_fingerprints,
        multiple=True,
        metavar="SHA256:…",
        help="The key of the jump host must have this fingerprint; once for each of several.",
    ),
    click.option(
        "--jump-password-file",
        metavar="FILE",
        help="Holds the password for the jump host in its first line; - is standard input.",
    ),
)
ssh_options = _options(
    click.option("--ssh-port", type=PORT, help="[default: 22, or as stored]"),
    click.option("--ssh-user", help="Who logs in; root, or may use sudo. [default: root]"),
    click.option(
        "--fingerprint",
        callback=read_fingerprint,
        metavar="SHA256:…",
        help="The host key must have this fingerprint, as 'ssh-keygen -l' prints it.",
    ),
    click.option(
        "--ssh-public-key",
        callback=read_public_key,
        metavar="KEY",
        help="The host key must be this one: a line of OpenSSH's form, or a .pub file.",
    ),
    click.option(
        "--password-file",
        metavar="FILE",
        help="Holds the SSH password in its first line; - is standard input.",
    ),
    click.option("--ask-password", "is_asking", is_flag=True, help="Ask for the SSH password."),
    click.option(
        "--use-engine-key",
        is_flag=True,
        help="Log in with the engine's own SSH key; see 'pkengine ssh-key'.",
    ),
    click.option(
        "--ssh-agent",
        "use_ssh_agent",
        is_flag=True,
        help="Log in with the keys of your ssh-agent, which signs here; the engine gets no key. A "
        "password that is given beside it is for sudo.",
    ),
    jump_options,
)
agent_way_options = _options(
    click.option(
        "--connection",
        type=click.Choice(["engine-dials", "agent-dials"]),
        help="Which end dials the other. [default: as stored, or as the engine was told]",
    ),
    click.option(
        "--mechanism",
        type=click.Choice(["pin", "sign", "hmac", "spake2plus"]),
        help="How agent and engine prove who they are; all but pin need agent-dials. "
        "[default: as stored, or as the engine was told]",
    ),
)
wait_options = _options(
    click.option(
        "--wait/--no-wait", default=True, show_default=True, help="Wait until it is done."
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=1),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait.",
    ),
)


def agent_way_entity(
    connection: str | None, mechanism: str | None, *, require_direct: bool = False
) -> Entity:
    """Give what a request says about connecting to the agent."""
    words = {"connection": connection, "mechanism": mechanism}
    entity: Entity = {name: word for name, word in words.items() if word is not None}
    if require_direct:
        entity["require_direct"] = True
    return entity


def check_one_way_in(
    path: str | None, is_asking: bool, use_engine_key: bool, use_ssh_agent: bool
) -> None:
    """Refuse more than one way to log in.

    Raises:
        click.UsageError: more than one was given.
    """
    keys = (use_engine_key or None, use_ssh_agent or None)
    check_at_most_one(keys, "--use-engine-key and --ssh-agent")
    ways = (path, is_asking or None, use_engine_key or None)
    check_at_most_one(ways, "--password-file, --ask-password and --use-engine-key")


def ssh_password(path: str | None, is_asking: bool, address: str) -> Secret | None:
    """Get the password in the way that was chosen; None stands for the engine's own key.

    Raises:
        CommandFailed: it cannot be read.
    """
    if path is not None:
        return read_password(path)
    return Secret(ask_password(f"SSH password for {address}")) if is_asking else None


@contextlib.asynccontextmanager
async def signing(
    client: RestClient,
    use_ssh_agent: bool,
    user: str,
    fingerprint: SshFingerprint | None,
    way: Way | None,
) -> AsyncIterator[str | None]:
    """Let the ssh-agent sign, if that is wanted; gives the id of the relay, or None.

    Args:
        client: asks the engine.
        use_ssh_agent: what the option says.
        user: who is logged in.
        fingerprint: of the host's key; None leaves it to the engine.
        way: the machines on the way, of which each may be logged in to by the ssh-agent.
    """
    if not use_ssh_agent:
        yield None
        return
    from pkengine.cli.agent_relay import Expected, key_agent_relay

    jumps = way or ()
    users = {user, *(jump.host.user for jump in jumps)}
    expected = Expected(users, (fingerprint, *(jump.fingerprint for jump in jumps)))
    async with key_agent_relay(client, expected) as relay:
        yield relay


def jump_way(
    text: str | None, fingerprints: tuple[SshFingerprint, ...], password_file: str | None
) -> Way | None:
    """Give the way that the options say; None leaves it as it is.

    Raises:
        click.UsageError, CommandFailed: as for `pkengine.cli.ways.read_way`.
    """
    if text is None and not fingerprints and password_file is None:
        return None
    from pkengine.cli.ways import read_way

    return read_way(text, fingerprints, password_file)


def check_at_most_one(values: tuple[object, ...], names: str) -> None:
    """Refuse options that exclude each other; one that was not given is None.

    Raises:
        click.UsageError: more than one was given.
    """
    if sum(value is not None for value in values) > 1:
        raise click.UsageError(f"Give only one of {names}.")
