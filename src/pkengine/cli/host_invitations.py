"""``pkengine host invite``, ``invitations`` and ``uninvite``."""

from __future__ import annotations

import datetime
import re
import socket
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.terminal import show, show_columns, show_json

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity, RestClient

_DURATION = re.compile(r"([0-9]{1,6})([smh])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _seconds(_: object, __: object, text: str) -> int:
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration: expected one such as 15m or 2h.")
    return int(found[1]) * _UNIT_S[found[2]]


@click.command()
@click.option("--name", help="What the host will be called. [default: what it calls itself]")
@click.option(
    "--expires",
    "expires_s",
    default="15m",
    show_default=True,
    callback=_seconds,
    metavar="DURATION",
    help="How long the code can be used: 1m to 24h.",
)
@click.option("--approve", is_flag=True, help="The host needs no approval when it has joined.")
@click.option(
    "--qr/--no-qr",
    "is_drawn",
    default=None,
    help="Draw the command as a QR code. [default: on a terminal]",
)
@json_option
@click.pass_obj
def invite(
    engine: EngineOptions,
    name: str | None,
    expires_s: int,
    approve: bool,
    is_drawn: bool | None,
    as_json: bool,
) -> None:
    """Make a code by which one host may join; no SSH is needed.

    Read the code out to whoever sits at the host's console, where it is typed.  It is shown
    this once, is good for one host, and is burnt after a few wrong ones.
    """

    async def work(client: RestClient) -> None:
        body: Entity = {"expires_in": expires_s, "approve": approve}
        if name:
            body["host_name"] = name
        made = await client.post("/invitations", body)
        url = made.get("url") or url_for_hosts(client.login.origin)
        if as_json:
            show_json({**made, "url": url})
            return
        show(f"Code     {made['code']}")
        show(f"Expires  {_moment(made['expires'])}")
        show("On the host, as root, and give the code when asked for it:")
        show(f"  pkagent join {url}")
        if sys.stdout.isatty() if is_drawn is None else is_drawn:
            _draw(f"pkagent join {made['code']} {url}")

    engine.run(work)


@click.command()
@json_option
@click.pass_obj
def invitations(engine: EngineOptions, as_json: bool) -> None:
    """List the invitations that are open, or ended within the last hour."""

    async def work(client: RestClient) -> None:
        found = await _invitations(client)
        if as_json:
            show_json(found)
        elif found:
            show_columns(
                ("NUMBER", "STATE", "EXPIRES", "HOST", "APPROVED", "BY"), map(_row, found)
            )
        else:
            show("No host is invited.")

    engine.run(work)


@click.command()
@click.argument("number", type=int)
@json_option
@click.pass_obj
def uninvite(engine: EngineOptions, number: int, as_json: bool) -> None:
    """Revoke an invitation; NUMBER is what its code begins with."""

    async def work(client: RestClient) -> None:
        for found in await _invitations(client):
            if int(found["number"]) == number:
                break
        else:
            raise CommandFailed(f"There is no invitation {number}.", ExitStatus.NOT_FOUND)
        await client.delete(f"/invitations/{found['id']}")
        if as_json:
            show_json(found)
        else:
            show(f"Invitation {number} is revoked.")

    engine.run(work)


async def _invitations(client: RestClient) -> list[Entity]:
    from pkengine.cli.rest_client import items

    return items(await client.get("/invitations"), "invitation")


def _row(found: Entity) -> tuple[object, ...]:
    is_approved = "in advance" if found.get("approve") == "true" else ""
    return (
        found["number"],
        found["state"],
        _moment(found["expires"]),
        found.get("host_name", ""),
        is_approved,
        found.get("user_name", ""),
    )


def url_for_hosts(origin: str) -> str:
    """Give the URL by which a host finds the engine that this command has found at `origin`."""
    url = urlsplit(origin)
    if url.hostname not in _LOOPBACK:
        return origin
    port = f":{url.port}" if url.port else ""
    name = socket.getfqdn()
    if name.startswith("localhost"):  # what a machine calls itself that was given no name
        name = socket.gethostname()
    return f"{url.scheme}://{name}{port}"


def _moment(milliseconds: object) -> str:
    moment = datetime.datetime.fromtimestamp(int(str(milliseconds)) / 1000).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _draw(text: str) -> None:
    import segno

    segno.make(text, micro=False).terminal(compact=True)
