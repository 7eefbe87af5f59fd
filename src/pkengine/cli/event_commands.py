"""``pkengine events``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkengine.cli.engine_options import EngineOptions, json_option
from pkengine.cli.terminal import local_time, show, show_json

if TYPE_CHECKING:
    from pkengine.cli.rest_client import Entity, RestClient

_POLL_INTERVAL_S = 1.0
_PAGE = 100


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--max",
    "count",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many of the newest events to begin with.",
)
@json_option
@click.pass_obj
def events(engine: EngineOptions, follow: bool, count: int, as_json: bool) -> None:
    """Print the newest events.

    The newest comes last.  JSON comes as one line an event.
    """

    async def work(client: RestClient) -> None:
        from twisted.internet.interfaces import IReactorTime
        from twisted.internet.task import deferLater

        from pkengine.cli.hosts import event_index
        from pkengine.cli.rest_client import items

        batch = items(await client.get("/events", max=count), "event")
        newest = 0
        while True:
            for event in sorted(batch, key=event_index):
                _print(event, as_json)
                newest = max(newest, event_index(event))
            if not follow:
                return
            await deferLater(IReactorTime(client.reactor), _POLL_INTERVAL_S)
            batch = await _since(client, newest)

    engine.run(work)


async def _since(client: RestClient, newest: int) -> list[Entity]:
    """Give all events after one; a burst may be longer than a page."""
    from pkengine.cli.rest_client import items

    size = _PAGE
    while True:
        batch = items(await client.get("/events", **{"from": newest, "max": size}), "event")
        if len(batch) < size:
            return batch
        size *= 2


def _print(event: Entity, as_json: bool) -> None:
    if as_json:
        show_json(event, indent=None)
        return
    severity = str(event.get("severity", ""))
    show(f"{local_time(event['time'])}  {severity:<7}  {event.get('description', '')}")
