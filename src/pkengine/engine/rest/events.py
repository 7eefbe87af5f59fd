"""The event log."""

from __future__ import annotations

from collections.abc import Iterable

from pkengine.engine.events import EVENT_FIELDS, Events
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import EVENT

#: Without ``max`` so many are given, as on oVirt.
DEFAULT_LIMIT = 100


class EventResource:
    """``/events``."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        yield Route(
            method="GET",
            path="/events",
            handler=self.list,
            element=EVENT,
            is_many=True,
            searches=EVENT_FIELDS,
        )
        yield Route(method="GET", path="/events/<int:event_id>", handler=self.get, element=EVENT)

    async def list(self, call: Call) -> Answer:
        """Give events, the newest first; ``from`` is exclusive."""
        events = await self._events.find(
            call.search(EVENT_FIELDS),
            call.limit(DEFAULT_LIMIT),
            after=call.integer("from", None),
        )
        return Answer(element=EVENT, many=events)

    async def get(self, call: Call, event_id: int) -> Answer:
        """Give one event."""
        return Answer(element=EVENT, one=await self._events.get(event_id))
