"""Queries about users and their tokens."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from pkengine.engine.store.access_changes import note_access_change
from pkengine.engine.store.schema import tokens, users
from pkengine.engine.users import Role, TokenRecord, User, UserRecord


def user_by_name(connection: Connection, name: str) -> UserRecord | None:
    """Give a user, or None."""
    row = connection.execute(select(users).where(users.c.name == name)).first()
    return _user_record(row) if row else None


def user_by_id(
    connection: Connection, user_id: uuid.UUID, *, for_update: bool = False
) -> UserRecord | None:
    """Give a user, or None; `for_update` keeps others from changing it meanwhile."""
    statement = select(users).where(users.c.id == user_id)
    if for_update:
        statement = statement.with_for_update()
    row = connection.execute(statement).first()
    return _user_record(row) if row else None


def all_users(connection: Connection) -> list[UserRecord]:
    """Give every user, by name."""
    return [_user_record(row) for row in connection.execute(select(users).order_by(users.c.name))]


def other_administrators(connection: Connection, user_id: uuid.UUID) -> int:
    """Count the administrators who may log in, without that one."""
    statement = (
        select(users.c.id)
        .where(
            users.c.id != user_id,
            users.c.role == Role.ADMINISTRATOR.value,
            users.c.disabled.is_(False),
        )
        .with_for_update()
    )
    return len(connection.execute(statement).all())


def update_user(connection: Connection, record: UserRecord) -> None:
    """Write a user as it is to be; the name stays.  This is a change of access."""
    connection.execute(
        update(users)
        .where(users.c.id == record.user.id)
        .values(
            role=record.user.role.value,
            password_hash=record.password_hash,
            disabled=record.disabled,
        )
    )
    note_access_change(connection, user_id=record.user.id)


def delete_user(connection: Connection, user_id: uuid.UUID) -> None:
    """Forget a user and its tokens.  This is a change of access."""
    connection.execute(delete(tokens).where(tokens.c.user_id == user_id))
    connection.execute(delete(users).where(users.c.id == user_id))
    note_access_change(connection, user_id=user_id)


def insert_user(connection: Connection, record: UserRecord) -> None:
    """Add a user.

    Raises:
        sqlalchemy.exc.IntegrityError: the name is taken.
    """
    connection.execute(
        insert(users).values(
            id=record.user.id,
            name=record.user.name,
            role=record.user.role.value,
            password_hash=record.password_hash,
            disabled=record.disabled,
            created=record.created,
        )
    )


def set_password_hash(connection: Connection, user_id: uuid.UUID, password_hash: str) -> None:
    """Replace a user's password hash."""
    connection.execute(
        update(users).where(users.c.id == user_id).values(password_hash=password_hash)
    )


def insert_token(connection: Connection, record: TokenRecord) -> None:
    """Add a token."""
    connection.execute(
        insert(tokens).values(
            id=record.id,
            token_hash=record.token_hash,
            user_id=record.user.id,
            created=record.created,
            last_used=record.last_used,
            expires=record.expires,
            name=record.name,
            role=record.user.role.value if record.name is not None else None,
        )
    )


def insert_session(connection: Connection, record: TokenRecord) -> TokenRecord | None:
    """Add the token of a person, and give it as it stands for its user now.

    It is None, and there is no token, where that user may not log in any more.
    """
    statement = select(users.c.id).where(users.c.id == record.user.id, users.c.disabled.is_(False))
    if connection.execute(statement.with_for_update()).first() is None:
        return None
    insert_token(connection, record)
    return tokens_by_hashes(connection, [record.token_hash])[record.token_hash]


def tokens_by_hashes(connection: Connection, hashes: Collection[str]) -> dict[str, TokenRecord]:
    """Give those of these tokens that there are and whose users are not disabled, by hash.

    Some may have expired.
    """
    rows = connection.execute(_USABLE.where(tokens.c.token_hash.in_(hashes)))
    return {row.token_hash: _token_record(row) for row in rows}


def living_tokens(connection: Connection, now: datetime.datetime, limit: int) -> list[TokenRecord]:
    """Give the tokens that have not expired and whose users are not disabled.

    Where there are more than `limit`, those that were used last; the latest comes last.
    """
    statement = _USABLE.where(tokens.c.expires > now).order_by(tokens.c.last_used.desc())
    return [_token_record(row) for row in connection.execute(statement.limit(limit))][::-1]


def personal_tokens(connection: Connection, user_id: uuid.UUID) -> list[TokenRecord]:
    """Give the personal tokens of a user, the newest first."""
    rows = connection.execute(
        _TOKENS.where(tokens.c.user_id == user_id, tokens.c.name.is_not(None)).order_by(
            tokens.c.created.desc(), tokens.c.id
        )
    )
    return [_token_record(row) for row in rows]


def delete_sessions(connection: Connection, user_id: uuid.UUID) -> None:
    """End the sessions of a user; its personal tokens stay."""
    connection.execute(delete(tokens).where(tokens.c.user_id == user_id, tokens.c.name.is_(None)))


def touch_tokens(connection: Connection, records: Sequence[TokenRecord]) -> None:
    """Note when tokens were used, and how long they live now; what is later already, stays."""
    statement = (
        update(tokens)
        .where(tokens.c.token_hash == bindparam("of_hash"))
        .where(tokens.c.last_used < bindparam("used"))
        .values(last_used=bindparam("used"), expires=bindparam("until"))
    )
    connection.execute(
        statement,
        [
            {"of_hash": record.token_hash, "used": record.last_used, "until": record.expires}
            for record in records
        ],
    )


def delete_token(connection: Connection, token_hash: str) -> None:
    """Forget a token, if it is there.  This is a change of access."""
    if connection.execute(delete(tokens).where(tokens.c.token_hash == token_hash)).rowcount:
        note_access_change(connection, token_hash=token_hash)


def delete_expired_tokens(connection: Connection, now: datetime.datetime, limit: int) -> int:
    """Forget tokens that expired, no more than `limit`; tell how many."""
    expired = select(tokens.c.id).where(tokens.c.expires <= now).limit(limit)
    return connection.execute(delete(tokens).where(tokens.c.id.in_(expired))).rowcount


_TOKENS = select(
    tokens,
    users.c.name.label("user_name"),
    users.c.role.label("user_role"),
).join(users)
_USABLE = _TOKENS.where(users.c.disabled.is_(False))


def _user_record(row: Any) -> UserRecord:
    return UserRecord(
        user=User(id=row.id, name=row.name, role=Role(row.role)),
        password_hash=row.password_hash,
        disabled=row.disabled,
        created=row.created,
    )


def _token_record(row: Any) -> TokenRecord:
    role = Role(row.user_role)
    if row.role is not None and role.includes(Role(row.role)):
        role = Role(row.role)
    return TokenRecord(
        id=row.id,
        token_hash=row.token_hash,
        user=User(id=row.user_id, name=row.user_name, role=role),
        created=row.created,
        last_used=row.last_used,
        expires=row.expires,
        name=row.name,
    )
