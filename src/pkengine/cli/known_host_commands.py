"""``pkengine known-hosts …`` and ``pkengine host-ca …``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.host_options import read_public_key
from pkengine.cli.terminal import show, show_columns, show_json, tell
from pkengine.keys import SshPublicKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkengine.cli.rest_client import Entity, RestClient

_AUTHORITY = "@cert-authority"
_REVOKED = "@revoked"
_KINDS = {_AUTHORITY: "authority", _REVOKED: "revoked"}


@click.group("known-hosts")
def known_hosts() -> None:
    """SSH keys that the engine knows beside those of its hosts."""


@known_hosts.command("import")
@click.argument("file")
@json_option
@click.pass_obj
def import_(engine: EngineOptions, file: str, as_json: bool) -> None:
    """Let the engine know the keys of a known_hosts FILE; - is standard input.

    A host that is added and is named there must show one of its keys, and nobody is asked.
    Hashed names, @revoked and @cert-authority are understood.  Where one line is malformed,
    nothing is taken.
    """
    from pkengine.errors import KnownHostsError
    from pkengine.ssh.known_hosts import KnownHosts

    name = "standard input" if file == "-" else file
    try:
        content = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
        KnownHosts.parse(content, file=name)
    except OSError as error:
        raise CommandFailed(f"Cannot read {file}: {error.strerror}.", ExitStatus.USAGE) from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{name} is not UTF-8.", ExitStatus.USAGE) from error
    except KnownHostsError as error:
        raise CommandFailed(str(error), ExitStatus.USAGE) from error

    async def work(client: RestClient) -> None:
        from pkengine.cli.rest_client import items

        body = {"name": name[:255], "content": content}
        taken = items(await client.post("/knownhosts/import", body), "imported_host")
        if as_json:
            show_json(taken)
            return
        show_columns(
            ("NAMES", "KIND", "KEY", "FINGERPRINT", "TAKEN", "HOSTS"),
            (
                (
                    *_columns(each),
                    "new" if each.get("is_new") == "true" else "known already",
                    ", ".join((each.get("hosts") or {}).get("name") or ()),
                )
                for each in taken
            ),
        )

    engine.run(work)


@known_hosts.command()
@json_option
@click.pass_obj
def export(engine: EngineOptions, as_json: bool) -> None:
    """Print the keys of all hosts, and all that is known beside them, as known_hosts has them."""

    async def work(client: RestClient) -> None:
        found = await client.get("/knownhosts/export")
        if as_json:
            show_json(found)
            return
        for line in found["content"].splitlines():
            show(line)

    engine.run(work)


@known_hosts.command("list")
@json_option
@click.pass_obj
def list_(engine: EngineOptions, as_json: bool) -> None:
    """List the known keys, with where each came from."""
    _list(engine, lambda each: True, as_json)


@known_hosts.command()
@click.argument("key")
@json_option
@click.pass_obj
def remove(engine: EngineOptions, key: str, as_json: bool) -> None:
    """Forget a KEY: its id or its fingerprint, as 'list' prints them."""
    _remove(engine, key, lambda each: True, as_json)


@known_hosts.command()
@click.argument("key", callback=read_public_key)
@click.option(
    "--for", "names", default="*", show_default=True, metavar="NAMES", help="Of which hosts."
)
@json_option
@click.pass_obj
def revoke(engine: EngineOptions, key: SshPublicKey, names: str, as_json: bool) -> None:
    """Never accept a KEY again, of a host or of an authority: a line, or a .pub file."""
    _add(engine, {"marker": _REVOKED, "names": names, "public_key": str(key)}, as_json)


@click.group("host-ca")
def host_ca() -> None:
    """Authorities that sign the SSH certificates of hosts."""


@host_ca.command("add")
@click.argument("names")
@click.argument("key", callback=read_public_key)
@click.option("--comment")
@json_option
@click.pass_obj
def add_authority(
    engine: EngineOptions, names: str, key: SshPublicKey, comment: str | None, as_json: bool
) -> None:
    """Accept hosts that have a certificate by an authority.

    NAMES are patterns such as '*.example.org', with commas; KEY is the authority's public key,
    a line or a .pub file.
    """
    body = {"marker": _AUTHORITY, "names": names, "public_key": str(key)}
    if comment:
        body["comment"] = comment
    _add(engine, body, as_json)


@host_ca.command("list")
@json_option
@click.pass_obj
def list_authorities(engine: EngineOptions, as_json: bool) -> None:
    """List the authorities."""
    _list(engine, _is_authority, as_json)


@host_ca.command("remove")
@click.argument("key")
@json_option
@click.pass_obj
def remove_authority(engine: EngineOptions, key: str, as_json: bool) -> None:
    """Accept an authority no longer: its id or its fingerprint, as 'list' prints them.

    Hosts whose key it has vouched for keep that key.
    """
    _remove(engine, key, _is_authority, as_json)


def _is_authority(known: Entity) -> bool:
    return known.get("marker") == _AUTHORITY


def _columns(known: Entity) -> tuple[object, ...]:
    kind = _KINDS.get(known.get("marker") or "", "host")
    return known.get("names"), kind, known.get("type"), known.get("fingerprint")


def _add(engine: EngineOptions, body: Entity, as_json: bool) -> None:
    async def work(client: RestClient) -> None:
        known = await client.post("/knownhosts", body)
        if as_json:
            show_json(known)
        else:
            names, kind, _, fingerprint = _columns(known)
            show(f"{fingerprint} is known as {kind} for {names}.")

    engine.run(work)


def _list(engine: EngineOptions, is_meant: Callable[[Entity], bool], as_json: bool) -> None:
    async def work(client: RestClient) -> None:
        known = [each for each in await _all(client) if is_meant(each)]
        if as_json:
            show_json(known)
            return
        show_columns(
            ("ID", "NAMES", "KIND", "KEY", "FINGERPRINT", "FROM", "BY"),
            (
                (
                    each["id"],
                    *_columns(each),
                    str(each.get("key_source")).replace("_", " "),
                    each.get("user_name") or "the engine",
                )
                for each in known
            ),
        )

    engine.run(work)


def _remove(
    engine: EngineOptions, key: str, is_meant: Callable[[Entity], bool], as_json: bool
) -> None:
    async def work(client: RestClient) -> None:
        known = [
            each
            for each in await _all(client)
            if is_meant(each) and key in (each["id"], each.get("fingerprint"))
        ]
        if not known:
            raise CommandFailed(f"No such key is known: {key}.", ExitStatus.NOT_FOUND)
        for each in known:
            await client.delete(f"/knownhosts/{each['id']}")
            if not as_json:
                tell(f"{each.get('fingerprint')} is no longer known for {each.get('names')}.")
        if as_json:
            show_json(known)

    engine.run(work)


async def _all(client: RestClient) -> list[Entity]:
    from pkengine.cli.rest_client import items

    return items(await client.get("/knownhosts"), "known_host")
