"""Queries about what was taken away: a log that every engine on the database follows.

Its numbers are in the order in which the changes were committed, so who has read up to one has
seen all before it.
"""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, delete, func, insert, select, text

from pkengine.engine.store.schema import access_changes

#: Who is further behind than this forgets everything, so no more is kept.
KEPT = 1000


def note_access_change(
    connection: Connection, *, user_id: uuid.UUID | None = None, token_hash: str | None = None
) -> None:
    """Write that a token has ended, or what a user may do is another.

    This is the last thing that a transaction does to users and tokens: on PostgreSQL the
    others then wait for its end.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE access_changes IN EXCLUSIVE MODE"))
    statement = insert(access_changes).values(user_id=user_id, token_hash=token_hash)
    number = connection.execute(statement.returning(access_changes.c.number)).scalar_one()
    connection.execute(delete(access_changes).where(access_changes.c.number <= number - KEPT))


def newest_access_change(connection: Connection) -> int:
    """Give the number of the newest change, or 0."""
    newest = select(func.coalesce(func.max(access_changes.c.number), 0))
    return int(connection.execute(newest).scalar_one())


def access_changes_after(
    connection: Connection, number: int
) -> list[tuple[int, uuid.UUID | None, str | None]]:
    """Give number, user and token hash of the changes after that one, in their order."""
    rows = connection.execute(
        select(access_changes.c.number, access_changes.c.user_id, access_changes.c.token_hash)
        .where(access_changes.c.number > number)
        .order_by(access_changes.c.number)
    )
    return [(row.number, row.user_id, row.token_hash) for row in rows]
