"""``pkengine host approve``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.host_options import wait_options
from pkengine.cli.host_outcome import finish

if TYPE_CHECKING:
    from pkengine.cli.rest_client import RestClient


@click.command()
@click.argument("name")
@click.option("--activate/--no-activate", default=True, show_default=True)
@wait_options
@json_option
@click.pass_obj
def approve(
    engine: EngineOptions,
    name: str,
    activate: bool,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Accept a host that waits for approval.

    One that joined by a code has proved its key, and nothing else is needed.  One that
    registered itself is installed now: the engine logs in by its own SSH key, see 'pkengine
    ssh-key', where the host shows the fingerprint with which it registered.
    """

    async def work(client: RestClient) -> None:
        from pkengine.cli.hosts import act, find_host, newest_event

        found = await find_host(client, name)
        since = await newest_event(client)
        await act(client, found, "approve", activate=activate)
        goals = ("up",) if activate else ("maintenance",)
        await finish(client, found, goals, since, wait=wait, timeout_s=timeout_s, as_json=as_json)

    engine.run(work)
