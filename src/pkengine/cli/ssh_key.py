"""``pkengine ssh-key``: the engine's own SSH key, and its rotation on all hosts."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.exit_status import CommandFailed
from pkengine.cli.host_options import wait_options
from pkengine.cli.terminal import show, show_columns, show_json

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity, RestClient


@click.group("ssh-key", invoke_without_command=True)
@json_option
@click.pass_context
def ssh_key(context: click.Context, as_json: bool) -> None:
    """Print the engine's SSH public key, as authorized_keys has it, or rotate it.

    A host whose user has this line in ~/.ssh/authorized_keys can be added without a password.
    While the key is rotated, this is the new one.
    """
    if context.invoked_subcommand is not None:
        return

    async def work(client: RestClient) -> None:
        line = await client.get_text(
            "/ovirt-engine/services/pki-resource",
            resource="engine-certificate",
            format="OPENSSH-PUBKEY",
        )
        if as_json:
            show_json({"public_key": line.strip()})
        else:
            show(line.strip())

    context.obj.run(work)


@ssh_key.command()
@click.option(
    "--type", "kind", type=click.Choice(["ed25519", "rsa"]), help="Of the new key. [ed25519]"
)
@click.option(
    "--discard-old",
    is_flag=True,
    help="End the rotation: give the old key up, though some hosts may have that one only.",
)
@wait_options
@json_option
@click.pass_obj
def rotate(
    engine: EngineOptions,
    kind: str | None,
    discard_old: bool,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Replace the engine's SSH key on all hosts, or go on with that.

    On each host the new key is put beside the old one and tried; only then the old one is
    removed.  Hosts that cannot be reached stay on a list, and both keys are valid until that
    is empty: run the command again, or let the engine try when such a host is up again.
    """
    if discard_old and kind is not None:
        raise click.UsageError("--discard-old ends a rotation: --type is for a new key.")

    async def work(client: RestClient) -> None:
        if discard_old:
            await client.post("/sshkey/discardold", {})
            await _show_state(client, as_json)
            return
        answer = await client.post("/sshkey/rotate", {"type": kind} if kind else {})
        if not wait:
            await _show_state(client, as_json)
            return
        from rich.console import Console

        from pkengine.cli.jobs import follow_job, progress_display

        with progress_display(Console(stderr=True)) as progress:
            job = await follow_job(client, answer["job"]["id"], progress, timeout_s=timeout_s)
        state = await _show_state(client, as_json)
        if job.get("status") != "finished":
            rotation = state.get("rotation") or {}
            raise CommandFailed(
                f"The new key was not brought to {_left(rotation)}; both keys stay valid. "
                "'pkengine ssh-key status' tells why; run the same command again when that is "
                "mended."
            )

    engine.run(work)


@ssh_key.command()
@json_option
@click.pass_obj
def status(engine: EngineOptions, as_json: bool) -> None:
    """Show which SSH key the engine has, and on which hosts its rotation is not done."""

    async def work(client: RestClient) -> None:
        from pkengine.cli.rest_client import items

        state = await _show_state(client, as_json, is_json_shown=False)
        hosts = items(await client.get("/sshkey/hosts"), "host_key_rotation")
        if as_json:
            show_json({**state, "hosts": hosts})
        elif hosts:
            show_columns(
                ("NAME", "STATUS", "TRIED", "WHY"),
                (
                    (
                        host["host"].get("name"),
                        host.get("status"),
                        _moment(host["tried"]) if host.get("tried") else "",
                        host.get("detail") or "",
                    )
                    for host in hosts
                ),
            )

    engine.run(work)


async def _show_state(client: RestClient, as_json: bool, *, is_json_shown: bool = True) -> Entity:
    """Print which keys there are; give what the engine says about them."""
    state = await client.get("/sshkey")
    if as_json:
        if is_json_shown:
            show_json(state)
        return state
    show(f"The SSH key of the engine is {_described(state['ssh_key'])}.")
    rotation = state.get("rotation")
    if rotation is not None:
        show(f"Its successor is {_described(rotation['successor'])}; both are valid.")
        show(f"It was not brought yet to {_left(rotation)}.")
    return state


def _left(rotation: Entity) -> str:
    return f"{rotation.get('hosts_left', 'some')} of {rotation.get('hosts_total', 'the')} hosts"


def _described(key: Entity) -> str:
    return f"{key.get('type')} {key.get('fingerprint')}"


def _moment(milliseconds: object) -> str:
    moment = datetime.datetime.fromtimestamp(int(str(milliseconds)) / 1000).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}"
