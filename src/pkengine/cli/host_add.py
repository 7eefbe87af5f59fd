"""``pkengine host add``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.host_options import (
    PORT,
    check_at_most_one,
    check_one_way_in,
    ssh_options,
    ssh_password,
    wait_options,
)
from pkengine.cli.host_outcome import finish
from pkengine.cli.terminal import ask, is_interactive, tell
from pkengine.errors import InvalidKeyText
from pkengine.keys import Secret, SshFingerprint, SshPublicKey

if TYPE_CHECKING:
    from pkengine.cli.rest_client import RestClient


@click.command()
@click.argument("name", required=False)
@click.argument("address", required=False)
@ssh_options
@click.option("--trust-on-first-use", is_flag=True, help="Accept whatever key the host has.")
@click.option(
    "--from",
    "file",
    metavar="FILE",
    help="Add the hosts of a .csv or .yaml file, after one review of all their keys.",
)
@click.option(
    "--yes",
    "is_confirmed",
    is_flag=True,
    help="With --from: do not ask; add the hosts whose key is the one given in the file.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="With --from: how many hosts to deploy at the same time.",
)
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
    name: str | None,
    address: str | None,
    ssh_port: int | None,
    ssh_user: str | None,
    fingerprint: SshFingerprint | None,
    ssh_public_key: SshPublicKey | None,
    password_file: str | None,
    is_asking: bool,
    use_engine_key: bool,
    trust_on_first_use: bool,
    file: str | None,
    is_confirmed: bool,
    parallel: int,
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

    With --from FILE many are added: one table shows every key that was expected and found,
    and nothing is deployed before somebody agrees to it.  The options of the command hold
    for hosts of which the file does not say otherwise.
    """
    key_options = (fingerprint, ssh_public_key, trust_on_first_use or None)
    check_at_most_one(key_options, "--fingerprint, --ssh-public-key and --trust-on-first-use")
    check_one_way_in(password_file, is_asking, use_engine_key)
    is_key_open = not any(key_options)
    if file is not None:
        if name or fingerprint or ssh_public_key:
            raise click.UsageError(
                "With --from, the names, addresses and keys of the hosts are in the file."
            )
        if not (is_confirmed or is_interactive()):
            raise click.UsageError("Say --yes where nobody can be asked.")
    elif name is None or address is None:
        raise click.UsageError("Give the NAME and the ADDRESS of a host, or --from FILE.")
    elif is_confirmed:
        raise click.UsageError("--yes is for --from; say which key the host must have.")
    elif is_key_open and not is_interactive():
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

    async def add_one(client: RestClient, name: str, address: str) -> None:
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
        await finish(
            client,
            added,
            ("up",) if activate else ("maintenance",),
            since,
            wait=wait,
            timeout_s=timeout_s,
            as_json=as_json,
        )

    async def add_many(client: RestClient, file: str) -> None:
        from pkengine.cli.bulk_add import BulkOptions, add_hosts
        from pkengine.cli.host_file import read_hosts

        options = BulkOptions(
            ssh_port=ssh_port,
            ssh_user=ssh_user,
            port=port,
            cluster=cluster,
            comment=comment,
            activate=activate,
            is_confirmed=is_confirmed,
            trust_on_first_use=trust_on_first_use,
            parallel=parallel,
            wait=wait,
            timeout_s=timeout_s,
        )
        rows = read_hosts(file)
        given = ssh_password(password_file, False, "")

        def password() -> Secret | None:
            return ssh_password(None, is_asking, f"{len(rows)} hosts") if is_asking else given

        await add_hosts(client, rows, options, password, as_json=as_json)

    async def work(client: RestClient) -> None:
        if file is not None:
            await add_many(client, file)
        elif name is not None and address is not None:
            await add_one(client, name, address)

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
