"""``pkengine host …``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.host_facts import host_facts
from pkengine.cli.host_options import (
    PORT,
    check_at_most_one,
    check_one_way_in,
    ssh_options,
    ssh_password,
    wait_options,
)
from pkengine.cli.terminal import (
    ask,
    is_interactive,
    show,
    show_columns,
    show_json,
    tell,
)
from pkengine.errors import InvalidKeyText
from pkengine.keys import SshFingerprint, SshPublicKey

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity, RestClient

_UP = ("up",)
_MAINTENANCE = ("maintenance",)
_IN_WORDS = {"maintenance": "in maintenance"}


@click.group()
def host() -> None:
    """Add, list and control hosts; NAME may be a name or an id."""


@host.command()
@click.argument("name")
@click.argument("address")
@ssh_options
@click.option("--trust-on-first-use", is_flag=True, help="Accept whatever key the host has.")
@click.option("--port", type=PORT, help="Where the agent will listen. [default: 54321]")
@click.option("--cluster", metavar="NAME", help="[default: Default]")
@click.option("--comment")
@click.option(
    "--activate/--no-activate",
    default=True,
    show_default=True,
    help="Let it be up at the end, or in maintenance.",
)
@wait_options
@json_option
@click.pass_obj
def add(
    engine: EngineOptions,
    name: str,
    address: str,
    ssh_port: int | None,
    ssh_user: str | None,
    fingerprint: SshFingerprint | None,
    ssh_public_key: SshPublicKey | None,
    password_file: str | None,
    is_asking: bool,
    use_engine_key: bool,
    trust_on_first_use: bool,
    port: int | None,
    cluster: str | None,
    comment: str | None,
    activate: bool,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Add a host: judge its SSH key, log in, deploy the agent, exchange keys.

    At a terminal, a host key that was not given is shown and asked about.
    """
    key_options = (fingerprint, ssh_public_key, trust_on_first_use or None)
    check_at_most_one(key_options, "--fingerprint, --ssh-public-key and --trust-on-first-use")
    check_one_way_in(password_file, is_asking, use_engine_key)
    is_key_open = not any(key_options)
    if is_key_open and not is_interactive():
        raise click.UsageError(
            "Say which key the host must have, with --fingerprint or --ssh-public-key; "
            "'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' prints it on the host. "
            "--trust-on-first-use accepts any."
        )
    if not (password_file or is_asking or use_engine_key):
        if not is_interactive():
            raise click.UsageError(
                "Say how to log in: --password-file, --ask-password or --use-engine-key."
            )
        is_asking = True

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import SshAccess, add_host, newest_event

        given = fingerprint
        if is_key_open:
            given = await _confirm_host_key(client, address, ssh_port or 22)
        access = SshAccess(
            port=ssh_port,
            user=ssh_user,
            fingerprint=given,
            public_key=ssh_public_key,
            password=ssh_password(password_file, is_asking, address),
        )
        since = await newest_event(client)
        added = await add_host(
            client,
            name,
            address,
            access,
            agent_port=port,
            cluster=cluster,
            comment=comment,
            activate=activate,
        )
        await _finish(
            client,
            added,
            _UP if activate else _MAINTENANCE,
            since,
            wait=wait,
            timeout_s=timeout_s,
            as_json=as_json,
        )

    engine.run(work)


@host.command()
@click.argument("name")
@ssh_options
@click.option("--activate/--no-activate", default=True, show_default=True)
@wait_options
@json_option
@click.pass_obj
def install(
    engine: EngineOptions,
    name: str,
    ssh_port: int | None,
    ssh_user: str | None,
    fingerprint: SshFingerprint | None,
    ssh_public_key: SshPublicKey | None,
    password_file: str | None,
    is_asking: bool,
    use_engine_key: bool,
    activate: bool,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Deploy the agent again.

    The engine logs in with its own SSH key unless told otherwise.  A host whose SSH key
    changed is accepted again by giving the new one.
    """
    check_at_most_one((fingerprint, ssh_public_key), "--fingerprint and --ssh-public-key")
    check_one_way_in(password_file, is_asking, use_engine_key)

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import SshAccess, act, find_host, newest_event

        found = await find_host(client, name)
        access = SshAccess(
            port=ssh_port,
            user=ssh_user,
            fingerprint=fingerprint,
            public_key=ssh_public_key,
            password=ssh_password(password_file, is_asking, found["address"]),
        )
        since = await newest_event(client)
        await act(client, found, "install", ssh=access.entity(), activate=activate, reboot=False)
        await _finish(
            client,
            found,
            _UP if activate else _MAINTENANCE,
            since,
            wait=wait,
            timeout_s=timeout_s,
            as_json=as_json,
        )

    engine.run(work)


@host.command()
@click.argument("name")
@wait_options
@json_option
@click.pass_obj
def activate(
    engine: EngineOptions, name: str, wait: bool, timeout_s: float, as_json: bool
) -> None:
    """Take a host out of maintenance."""
    _act_and_finish(engine, name, "activate", {}, _UP, wait, timeout_s, as_json)


@host.command()
@click.argument("name")
@click.option("--reason", help="Why, for the event log.")
@wait_options
@json_option
@click.pass_obj
def deactivate(
    engine: EngineOptions,
    name: str,
    reason: str | None,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Put a host into maintenance."""
    details = {} if reason is None else {"reason": reason}
    _act_and_finish(engine, name, "deactivate", details, _MAINTENANCE, wait, timeout_s, as_json)


@host.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Do not ask its agent to drop the engine's key.")
@json_option
@click.pass_obj
def remove(engine: EngineOptions, name: str, force: bool, as_json: bool) -> None:
    """Forget a host; its key is trusted no longer.

    The host has to be in maintenance.
    """

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import find_host

        found = await find_host(client, name)
        await client.delete(f"/hosts/{found['id']}", **({"force": "true"} if force else {}))
        if as_json:
            show_json(found)
        else:
            show(f"Host {found['name']} is removed.")

    engine.run(work)


@host.command("list")
@click.option("--search", metavar="EXPRESSION", help="Such as 'status=up' or 'name=web*'.")
@json_option
@click.pass_obj
def list_(engine: EngineOptions, search: str | None, as_json: bool) -> None:
    """List the hosts."""

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import list_hosts

        found = await list_hosts(client, search)
        if as_json:
            show_json(found)
            return
        show_columns(
            ("NAME", "ADDRESS", "STATUS", "ID"),
            (
                (each.get("name"), each.get("address"), each.get("status"), each.get("id"))
                for each in found
            ),
        )

    engine.run(work)


@host.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show_(engine: EngineOptions, name: str, as_json: bool) -> None:
    """Show all about one host."""

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import find_host

        found = await find_host(client, name)
        if as_json:
            show_json(found)
            return
        facts = host_facts(found)
        width = max(len(label) for label, _ in facts)
        for label, value in facts:
            show(f"{label:<{width}}  {value}")

    engine.run(work)


@host.command()
@click.argument("address")
@click.option("--port", type=PORT, default=22, show_default=True, help="Of the SSH server.")
@json_option
@click.pass_obj
def fingerprint(engine: EngineOptions, address: str, port: int, as_json: bool) -> None:
    """Show the SSH host keys at an address.

    They are shown as the engine sees them, and nothing is trusted by that.  Compare with
    what 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' prints on the host.
    """

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import describe_key, fetch_host_keys

        keys = await fetch_host_keys(client, address, port)
        if as_json:
            show_json(
                [
                    {
                        "type": key.key_type,
                        "fingerprint": str(key.fingerprint()),
                        "public_key": str(key),
                    }
                    for key in keys
                ]
            )
            return
        for key in keys:
            show(f"{key.fingerprint()} {address} ({describe_key(key)})")

    engine.run(work)


async def _confirm_host_key(client: RestClient, address: str, port: int) -> SshFingerprint:
    """Show a person the host's keys; give the fingerprint of the one that they accept."""
    from pkengine.cli.hosts import describe_key, fetch_host_keys

    keys = await fetch_host_keys(client, address, port)
    if not keys:
        raise CommandFailed(f"The SSH server at {address}:{port} shows no host key.")
    tell(f"The authenticity of host '{address}' (port {port}) can't be established.")
    for key in keys:
        tell(f"{describe_key(key)} key fingerprint is {key.fingerprint()}.")
    while True:
        answer = ask("Add this host (yes/no/[fingerprint])").strip()
        if answer.lower() == "no":
            raise CommandFailed("The host was not added.", ExitStatus.REFUSED)
        if answer.lower() == "yes":
            return keys[0].fingerprint()
        try:
            pasted = SshFingerprint.parse(answer)
        except InvalidKeyText:
            tell("Please type 'yes', 'no' or the fingerprint.")
            continue
        if any(pasted.matches(key) for key in keys):
            return pasted
        raise CommandFailed(
            f"None of the host's keys has the fingerprint {pasted}: it was not added.",
            ExitStatus.REFUSED,
        )


def _act_and_finish(
    engine: EngineOptions,
    name: str,
    action: str,
    details: Entity,
    goals: tuple[str, ...],
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import act, find_host, newest_event

        found = await find_host(client, name)
        since = await newest_event(client)
        await act(client, found, action, **details)
        await _finish(client, found, goals, since, wait=wait, timeout_s=timeout_s, as_json=as_json)

    engine.run(work)


async def _finish(
    client: RestClient,
    entity: Entity,
    goals: tuple[str, ...],
    since_event: int,
    *,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Wait for the goal where asked to, and print how the host is then."""
    if wait:
        from rich.console import Console

        from pkengine.cli.hosts import wait_for_host
        from pkengine.cli.jobs import progress_display

        with progress_display(Console(stderr=True)) as progress:
            entity = await wait_for_host(
                client,
                entity,
                goals,
                since_event=since_event,
                progress=progress,
                timeout_s=timeout_s,
            )
    else:
        entity = await client.get(f"/hosts/{entity['id']}")
    if as_json:
        show_json(entity)
    else:
        status = str(entity["status"])
        show(f"Host {entity['name']} is {_IN_WORDS.get(status, status)}.")
