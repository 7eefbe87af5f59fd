"""``pkengine host add``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
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
from pkengine.cli.terminal import is_interactive
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
@agent_way_options
@click.option(
    "--require-direct",
    is_flag=True,
    help="Refuse the agent where it comes through a proxy that ends TLS.",
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
    use_ssh_agent: bool,
    jump: str | None,
    jump_fingerprints: tuple[SshFingerprint, ...],
    jump_password_file: str | None,
    trust_on_first_use: bool,
    file: str | None,
    is_confirmed: bool,
    parallel: int,
    connection: str | None,
    mechanism: str | None,
    require_direct: bool,
    port: int | None,
    cluster: str | None,
    comment: str | None,
    activate: bool,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Add a host: judge its SSH key, log in, deploy the agent, exchange keys.

    At a terminal, a host key that was neither given nor known to the engine is shown and asked
    about; so is that of a jump host.

    With --from FILE many are added: one table shows every key that was expected and found,
    and nothing is deployed before somebody agrees to it.  The options of the command hold
    for hosts of which the file does not say otherwise.
    """
    key_options = (fingerprint, ssh_public_key, trust_on_first_use or None)
    check_at_most_one(key_options, "--fingerprint, --ssh-public-key and --trust-on-first-use")
    check_one_way_in(password_file, is_asking, use_engine_key, use_ssh_agent)
    is_key_open = not any(key_options)
    if file is not None:
        if name or fingerprint or ssh_public_key:
            raise click.UsageError(
                "With --from, the names, addresses and keys of the hosts are in the file."
            )
        if use_ssh_agent:
            raise click.UsageError("--ssh-agent is for one host: let the engine's key into many.")
        if not (is_confirmed or is_interactive()):
            raise click.UsageError("Say --yes where nobody can be asked.")
    elif name is None or address is None:
        raise click.UsageError("Give the NAME and the ADDRESS of a host, or --from FILE.")
    elif is_confirmed:
        raise click.UsageError("--yes is for --from; say which key the host must have.")
    if not (password_file or is_asking or use_engine_key or use_ssh_agent):
        if not is_interactive():
            raise click.UsageError(
                "Say how to log in: --password-file, --ask-password, --use-engine-key or "
                "--ssh-agent."
            )
        is_asking = True

    way = jump_way(jump, jump_fingerprints, jump_password_file)

    async def add_one(client: RestClient, name: str, address: str) -> None:
        from pkengine.cli.host_key_question import confirm_host_key, confirm_way
        from pkengine.cli.hosts import SshAccess, add_host, newest_event

        given = fingerprint
        confirmed = way
        if way and not trust_on_first_use:
            confirmed = await confirm_way(client, way)
        if is_key_open:
            given = await confirm_host_key(client, address, ssh_port or 22, confirmed or ())
        password = ssh_password(password_file, is_asking, address)
        since = await newest_event(client)
        key = given or (ssh_public_key.fingerprint() if ssh_public_key else None)
        user = ssh_user or "root"
        async with signing(client, use_ssh_agent, user, key, confirmed) as key_agent:
            access = SshAccess(
                port=ssh_port,
                user=ssh_user,
                fingerprint=given,
                public_key=ssh_public_key,
                password=password,
                way=confirmed,
                key_agent=key_agent,
            )
            added = await add_host(
                client,
                name,
                address,
                access,
                agent_way=agent_way_entity(connection, mechanism, require_direct=require_direct),
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
            connection=connection,
            mechanism=mechanism,
            require_direct=require_direct,
            port=port,
            cluster=cluster,
            comment=comment,
            activate=activate,
            is_confirmed=is_confirmed,
            trust_on_first_use=trust_on_first_use,
            parallel=parallel,
            wait=wait,
            timeout_s=timeout_s,
            way=way,
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
