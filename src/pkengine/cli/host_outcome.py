"""How a command about a host ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkengine.cli.terminal import show, show_json, tell

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity, RestClient

_IN_WORDS = {"maintenance": "in maintenance"}


async def finish(
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

        from pkengine.cli.hosts import key_refusal, wait_for_host
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
        if refusal := await key_refusal(client, entity, since_event):
            tell(refusal)
    else:
        entity = await client.get(f"/hosts/{entity['id']}")
    if as_json:
        show_json(entity)
    else:
        status = str(entity["status"])
        show(f"Host {entity['name']} is {_IN_WORDS.get(status, status)}.")
