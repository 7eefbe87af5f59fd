"""The event log."""

from __future__ import annotations

from collections.abc import Iterable

from pkengine.engine.events import Events
from pkengine.engine.rest.call import MOST, Answer, Call, Route
from pkengine.engine.rest.elements import EVENT
from pkengine.engine.rest.search import parse

#: Without ``max`` so many are given, as on oVirt.
DEFAULT_LIMIT = 100

_FIELDS = {
    "id": lambda event: event.id,
    "type": lambda event: event.code,
    "severity": lambda event: event.severity.value,
    "message": lambda event: event.description,
    "description": lambda event: event.description,
    "time": lambda event: event.time.isoformat(),
    "host": lambda event: event.host_name,
    "host.name": lambda event: event.host_name,
    "host.id": lambda event: event.host_id,
    "hosts.name": lambda event: event.host_name,
    "user": lambda event: event.user,
    "usrname": lambda event: event.user,
    "correlation_id": lambda event: event.correlation_id,
}


class EventResource:
    """``/events``."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        yield Route(method="GET", path="/events", handler=self.list)
        yield Route(method="GET", path="/events/<int:event_id>", handler=self.get)

    async def list(self, call: Call) -> Answer:
        """Give events, the newest first; ``from`` is exclusive."""
        search = parse(
            call.query.get("search", ""),
            _FIELDS,
            case_sensitive=call.boolean("case_sensitive", False),
        )
        after = call.integer("from", None)
        limit = call.limit(DEFAULT_LIMIT)
        wanted = limit if search.is_everything else MOST
        events = await self._events.list(after=after, limit=wanted)
        return Answer(element=EVENT, many=search.apply(events, limit))

    async def get(self, call: Call, event_id: int) -> Answer:
        """Give one event."""
        return Answer(element=EVENT, one=await self._events.get(event_id))
