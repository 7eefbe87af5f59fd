"""``pkengine host …``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.host_add import add
from pkengine.cli.host_approve import approve
from pkengine.cli.host_facts import host_facts
from pkengine.cli.host_invitations import invitations, invite, uninvite
from pkengine.cli.host_key_commands import fingerprint, key_change
from pkengine.cli.host_options import (
    PORT,
    agent_way_entity,
    agent_way_options,
    check_at_most_one,
    check_one_way_in,
    jump_way,
    signing,
    ssh_options,
    ssh_password,
    wait_options,
)
from pkengine.cli.host_outcome import finish
from pkengine.cli.terminal import show, show_columns, show_json
from pkengine.keys import SshFingerprint, SshPublicKey

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity, RestClient

_UP = ("up",)
_MAINTENANCE = ("maintenance",)


@click.group()
def host() -> None:
    """Add, list and control hosts; NAME may be a name or an id."""


for command in (add, approve, fingerprint, invitations, invite, key_change, uninvite):
    host.add_command(command)


@host.command()
@click.argument("name")
@ssh_options
@agent_way_options
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
    use_ssh_agent: bool,
    jump: str | None,
    jump_fingerprints: tuple[SshFingerprint, ...],
    jump_password_file: str | None,
    connection: str | None,
    mechanism: str | None,
    activate: bool,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Deploy the agent again.

    The engine logs in with its own SSH key unless told otherwise.  A host whose SSH key
    changed is accepted again by giving the new one.  What the agent and the engine share is
    made anew.
    """
    check_at_most_one((fingerprint, ssh_public_key), "--fingerprint and --ssh-public-key")
    check_one_way_in(password_file, is_asking, use_engine_key, use_ssh_agent)
    way = jump_way(jump, jump_fingerprints, jump_password_file)

    async def work(client: RestClient) -> None:
        from pkengine.cli.host_key_question import confirm_way
        from pkengine.cli.hosts import SshAccess, act, find_host, newest_event
        from pkengine.cli.ways import stored_way

        found = await find_host(client, name)
        confirmed = await confirm_way(client, way) if way else way
        password = ssh_password(password_file, is_asking, found["address"])
        since = await newest_event(client)
        stored = found.get("ssh") or {}
        user = ssh_user or (stored.get("user") or {}).get("user_name") or "root"
        users_way = confirmed if confirmed is not None else stored_way(stored)
        key = fingerprint or (ssh_public_key.fingerprint() if ssh_public_key else None)
        async with signing(client, use_ssh_agent, user, key, users_way) as key_agent:
            access = SshAccess(
                port=ssh_port,
                user=ssh_user,
                fingerprint=fingerprint,
                public_key=ssh_public_key,
                password=password,
                way=confirmed,
                key_agent=key_agent,
            )
            await act(
                client,
                found,
                "install",
                ssh=access.entity(),
                activate=activate,
                reboot=False,
                **agent_way_entity(connection, mechanism),
            )
        await finish(
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
@agent_way_options
@json_option
@click.pass_obj
def rekey(
    engine: EngineOptions,
    name: str,
    connection: str | None,
    mechanism: str | None,
    as_json: bool,
) -> None:
    """Change how a host and the engine connect, while they are connected.

    No SSH is needed.  The old way ends only after the new one has worked.  With nothing
    said, a key that the two share is made anew.
    """

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import act, find_host

        found = await find_host(client, name)
        way = agent_way_entity(connection, mechanism)
        await act(client, found, "rekey", **way, **{"async": False})
        found = await client.get(f"/hosts/{found['id']}")
        if as_json:
            show_json(found)
        else:
            show(
                f"Host {found['name']} connects by '{found['connection']}' and "
                f"'{found['mechanism']}'."
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
@click.option(
    "--uninstall",
    is_flag=True,
    help="First remove the agent, and the engine's SSH key, from the host.",
)
@json_option
@click.pass_obj
def remove(engine: EngineOptions, name: str, force: bool, uninstall: bool, as_json: bool) -> None:
    """Forget a host, which has to be in maintenance; its key is trusted no longer.

    With --uninstall the engine logs in by its own SSH key; a host where that fails is kept.
    """
    if force and uninstall:
        raise click.UsageError("Give only one of --force and --uninstall: the second goes there.")

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import find_host

        found = await find_host(client, name)
        options = {"force": force, "uninstall": uninstall}
        given = {option: "true" for option, is_given in options.items() if is_given}
        await client.delete(f"/hosts/{found['id']}", **given)
        if as_json:
            show_json(found)
        else:
            show(f"Host {found['name']} is removed.")

    engine.run(work)


@host.command()
@click.argument("name")
@click.option("--name", "new_name", metavar="NAME", help="Call it so from now on.")
@click.option("--address", help="Where it is now.")
@click.option("--comment")
@click.option("--ssh-port", type=PORT)
@click.option("--ssh-user")
@click.option(
    "--jump",
    metavar="[USER@]HOST[:PORT]",
    help="Reach it through this host, or several, with commas; 'none' goes directly.",
)
@click.option(
    "--require-direct/--no-require-direct",
    default=None,
    help="Refuse its agent where a proxy ends TLS on the way, or do so no longer.",
)
@json_option
@click.pass_obj
def update(
    engine: EngineOptions,
    name: str,
    new_name: str | None,
    address: str | None,
    comment: str | None,
    ssh_port: int | None,
    ssh_user: str | None,
    jump: str | None,
    require_direct: bool | None,
    as_json: bool,
) -> None:
    """Change what the engine has stored about a host, without going there."""
    way = jump_way(jump, (), None)
    named = {
        "name": new_name,
        "address": address,
        "comment": comment,
        "require_direct": require_direct,
    }
    body: Entity = {key: value for key, value in named.items() if value is not None}
    ssh: Entity = {} if ssh_port is None else {"port": ssh_port}
    if ssh_user is not None:
        ssh["user"] = {"user_name": ssh_user}
    if not (body or ssh or way is not None):
        raise click.UsageError("Say what is to be changed.")

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import find_host
        from pkengine.cli.ways import way_entity

        found = await find_host(client, name)
        if way is not None:
            ssh["jump_hosts"] = way_entity(way)
        changed = await client.put(f"/hosts/{found['id']}", body | ({"ssh": ssh} if ssh else {}))
        if as_json:
            show_json(changed)
        else:
            show(f"Host {changed['name']} was changed.")

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
            ("NAME", "ADDRESS", "STATUS", "CONNECTION", "MECHANISM", "ID"),
            (
                [
                    each.get(name)
                    for name in ("name", "address", "status", "connection", "mechanism", "id")
                ]
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
        await finish(client, found, goals, since, wait=wait, timeout_s=timeout_s, as_json=as_json)

    engine.run(work)
