"""Queries about the event log."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, Row, insert, select

from pkengine.engine.model import Event, Severity
from pkengine.engine.store.schema import events


def insert_event(connection: Connection, event: Event) -> Event:
    """Append an event; give it with the id that it got, its own being ignored."""
    values = {
        "code": event.code,
        "severity": event.severity.value,
        "time": event.time,
        "description": event.description,
        "host_id": event.host_id,
        "host_name": event.host_name,
        "cluster_id": event.cluster_id,
        "user_name": event.user,
        "correlation_id": event.correlation_id,
    }
    statement = insert(events).values(values).returning(events)
    return _event(connection.execute(statement).one())


def select_events(
    connection: Connection,
    *,
    after: int | None = None,
    limit: int | None = 100,
    newest_first: bool = True,
    host_id: uuid.UUID | None = None,
) -> list[Event]:
    """Give events with an id greater than `after`.

    Args:
        connection: the transaction.
        after: exclusive.
        limit: how many at most; None for all.
        newest_first: also which end the limit cuts off.
        host_id: of this host only.
    """
    order = events.c.id.desc() if newest_first else events.c.id.asc()
    statement = select(events).order_by(order).limit(limit)
    if after is not None:
        statement = statement.where(events.c.id > after)
    if host_id is not None:
        statement = statement.where(events.c.host_id == host_id)
    return [_event(row) for row in connection.execute(statement)]


def event_by_id(connection: Connection, event_id: int) -> Event | None:
    """Give an event, or None."""
    row = connection.execute(select(events).where(events.c.id == event_id)).first()
    return _event(row) if row else None


def _event(row: Row[tuple[object, ...]]) -> Event:
    values = dict(row._mapping)
    values["severity"] = Severity(values["severity"])
    values["user"] = values.pop("user_name")
    return Event(**values)
