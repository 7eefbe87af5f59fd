"""Queries about the event log."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, Row, delete, func, insert, not_, select

from pkengine.engine.model import Event, Severity
from pkengine.engine.search import Search
from pkengine.engine.store.schema import events
from pkengine.engine.store.search import Fields, Guids, Moments, Numbers, Texts, apply

#: What a search may name.
SEARCHED: Fields = {
    "id": Numbers(events.c.id),
    "type": Numbers(events.c.code),
    "code": Numbers(events.c.code),
    "severity": Texts(events.c.severity),
    "message": Texts(events.c.description),
    "description": Texts(events.c.description),
    "time": Moments(events.c.time),
    "host": Texts(events.c.host_name),
    "host.name": Texts(events.c.host_name),
    "hosts.name": Texts(events.c.host_name),
    "host.id": Guids(events.c.host_id),
    "user": Texts(events.c.user_name),
    "usrname": Texts(events.c.user_name),
    "correlation_id": Texts(events.c.correlation_id),
}


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
        "address": event.address[:100],
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


def find_ids(
    connection: Connection,
    search: Search,
    limit: int,
    *,
    after: int | None = None,
    codes: Collection[int] | None = None,
) -> list[int]:
    """Give the ids of the events that a search finds, in its order, else the newest first.

    Args:
        connection: the transaction.
        search: what is looked for.
        limit: how many at most.
        after: only those with a greater id.
        codes: only those of these kinds.

    Raises:
        InvalidSearch: a value does not fit its field.
    """
    statement = select(events.c.id)
    if after is not None:
        statement = statement.where(events.c.id > after)
    if codes is not None:
        statement = statement.where(events.c.code.in_(codes))
    newest = events.c.id.desc()
    return list(
        connection.execute(
            apply(statement, search, SEARCHED, connection, otherwise=newest, limit=limit)
        ).scalars()
    )


def events_by_ids(connection: Connection, ids: Sequence[int]) -> list[Event]:
    """Give these events, in this order."""
    rows = connection.execute(select(events).where(events.c.id.in_(ids)))
    found = {row.id: _event(row) for row in rows}
    return [found[event_id] for event_id in ids if event_id in found]


def event_by_id(connection: Connection, event_id: int) -> Event | None:
    """Give an event, or None."""
    row = connection.execute(select(events).where(events.c.id == event_id)).first()
    return _event(row) if row else None


def delete_old_events(
    connection: Connection,
    before: datetime.datetime,
    codes: Collection[int],
    *,
    are_of_codes: bool,
    limit: int,
) -> int:
    """Remove events from before a moment, the oldest first, but never the newest there is.

    Args:
        connection: the transaction.
        before: what is as late as this stays.
        codes: kinds of events.
        are_of_codes: remove those of these kinds; else those of all others.
        limit: how many at most.

    Returns:
        How many were removed.
    """
    is_of_codes = events.c.code.in_(codes)
    newest = select(func.max(events.c.id)).scalar_subquery()
    old = (
        select(events.c.id)
        .where(
            events.c.time < before,
            events.c.id != newest,
            is_of_codes if are_of_codes else not_(is_of_codes),
        )
        .order_by(events.c.time)
        .limit(limit)
    )
    ids = connection.execute(old).scalars().all()
    if ids:
        connection.execute(delete(events).where(events.c.id.in_(ids)))
    return len(ids)


def _event(row: Row[tuple[object, ...]]) -> Event:
    values = dict(row._mapping)
    values["severity"] = Severity(values["severity"])
    values["user"] = values.pop("user_name")
    return Event(**values)
