"""``pkengine host fingerprint`` and ``pkengine host key-change``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.host_options import (
    PORT,
    check_at_most_one,
    jump_options,
    jump_way,
    read_fingerprint,
)
from pkengine.cli.terminal import local_time, show, show_columns, show_json
from pkengine.keys import SshFingerprint

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity, RestClient


@click.command()
@click.argument("address")
@click.option("--port", type=PORT, default=22, show_default=True, help="Of the SSH server.")
@jump_options
@json_option
@click.pass_obj
def fingerprint(
    engine: EngineOptions,
    address: str,
    port: int,
    jump: str | None,
    jump_fingerprints: tuple[SshFingerprint, ...],
    jump_password_file: str | None,
    as_json: bool,
) -> None:
    """Show the SSH host keys at an address.

    They are shown as the engine sees them, with what it knows of each, and nothing is trusted by
    that.  Compare with
    what 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' prints on the host.
    """
    way = jump_way(jump, jump_fingerprints, jump_password_file)

    async def work(client: RestClient) -> None:
        from pkengine.cli.host_key_question import confirm_way
        from pkengine.cli.hosts import describe_key, fetch_host_keys

        confirmed = await confirm_way(client, way or ())
        keys = await fetch_host_keys(client, address, port, confirmed)
        if as_json:
            show_json(
                [
                    {
                        "type": found.key.key_type,
                        "fingerprint": str(found.key.fingerprint()),
                        "public_key": str(found.key),
                        "standing": found.standing,
                        "key_source": found.source or None,
                    }
                    for found in keys
                ]
            )
            return
        for found in keys:
            note = "" if found.standing == "unknown" else f" {found.standing}"
            by = f" by {found.source.replace('_', ' ')}" if found.source else ""
            show(f"{found.key.fingerprint()} {address} ({describe_key(found.key)}){note}{by}")

    engine.run(work)


@click.command("key-change")
@click.argument("name", required=False)
@click.option(
    "--approve",
    callback=read_fingerprint,
    metavar="SHA256:…",
    help="Store the found key that has this fingerprint, as the host's console shows it.",
)
@click.option("--reject", is_flag=True, help="Keep the stored key.")
@json_option
@click.pass_obj
def key_change(
    engine: EngineOptions,
    name: str | None,
    approve: SshFingerprint | None,
    reject: bool,
    as_json: bool,
) -> None:
    """Show or decide on the SSH host keys that are not the stored ones.

    Without NAME, list the hosts that wait for a decision.  A host whose key has changed is
    not logged in to until then.  Read the new fingerprint on the host's console, with
    'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub'.
    """
    check_at_most_one((approve, reject or None), "--approve and --reject")
    if name is None and (approve or reject):
        raise click.UsageError("Give the NAME of the host that is decided on.")

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import find_host
        from pkengine.cli.rest_client import items

        if name is None:
            changes = items(await client.get("/keychanges"), "key_change")
            _show_all(changes, as_json)
            return
        found = await find_host(client, name)
        path = f"/hosts/{found['id']}/keychange"
        change = await client.get(path)
        if approve:
            await client.post(f"{path}/approve", {"ssh": {"fingerprint": str(approve)}})
        elif reject:
            await client.post(f"{path}/reject", {})
        if as_json:
            show_json(change)
        elif approve:
            show(f"Host {found['name']} has the SSH host key {approve} from now on.")
        elif reject:
            show(f"Host {found['name']} keeps its stored SSH host key.")
        else:
            _show_one(change)

    engine.run(work)


def _show_all(changes: list[Entity], as_json: bool) -> None:
    if as_json:
        show_json(changes)
        return
    show_columns(
        ("NAME", "FOUND AT", "LAST SEEN", "TIMES"),
        (
            (
                change["host"].get("name"),
                change.get("seen_at"),
                local_time(change["last_seen"]),
                change.get("times_seen"),
            )
            for change in changes
        ),
    )


def _show_one(change: Entity) -> None:
    old = change["old_key"]
    facts = [
        ("Host", change["host"].get("name")),
        ("Found at", change.get("seen_at")),
        ("Stored", _described(old)),
        *(("Found", _described(key)) for key in change["new_keys"]["ssh_key"]),
        ("Refused", f"{change.get('operation')} by {change.get('user_name') or 'the engine'}"),
        ("First seen", local_time(change["first_seen"])),
        ("Last seen", local_time(change["last_seen"])),
        ("Times seen", change.get("times_seen")),
    ]
    width = max(len(label) for label, _ in facts)
    for label, value in facts:
        show(f"{label:<{width}}  {value}")


def _described(key: Entity) -> str:
    return f"{key.get('fingerprint')} {key.get('type') or ''}".rstrip()
