"""Queries about users and their tokens."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

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
    """Write a user as it is to be; the name stays."""
    connection.execute(
        update(users)
        .where(users.c.id == record.user.id)
        .values(
            role=record.user.role.value,
            password_hash=record.password_hash,
            disabled=record.disabled,
        )
    )


def delete_user(connection: Connection, user_id: uuid.UUID) -> None:
    """Forget a user and its tokens."""
    connection.execute(delete(tokens).where(tokens.c.user_id == user_id))
    connection.execute(delete(users).where(users.c.id == user_id))


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


def token_by_hash(connection: Connection, token_hash: str) -> TokenRecord | None:
    """Give a token whose user is not disabled, or None; it may have expired."""
    row = connection.execute(
        _TOKENS.where(tokens.c.token_hash == token_hash, users.c.disabled.is_(False))
    ).first()
    return _token_record(row) if row else None


def personal_tokens(connection: Connection, user_id: uuid.UUID) -> list[TokenRecord]:
    """Give the personal tokens of a user, the newest first."""
    rows = connection.execute(
        _TOKENS.where(tokens.c.user_id == user_id, tokens.c.name.is_not(None)).order_by(
            tokens.c.created.desc(), tokens.c.id
        )
    )
    return [_token_record(row) for row in rows]


def delete_personal_token(connection: Connection, token_id: uuid.UUID) -> None:
    """Forget a personal token."""
    connection.execute(delete(tokens).where(tokens.c.id == token_id, tokens.c.name.is_not(None)))


def delete_sessions(connection: Connection, user_id: uuid.UUID) -> None:
    """End the sessions of a user; its personal tokens stay."""
    connection.execute(delete(tokens).where(tokens.c.user_id == user_id, tokens.c.name.is_(None)))


def touch_token(
    connection: Connection,
    token_hash: str,
    last_used: datetime.datetime,
    expires: datetime.datetime,
) -> None:
    """Note that a token was used, and how long it lives now."""
    connection.execute(
        update(tokens)
        .where(tokens.c.token_hash == token_hash)
        .values(last_used=last_used, expires=expires)
    )


def delete_token(connection: Connection, token_hash: str) -> None:
    """Forget a token, if it is there."""
    connection.execute(delete(tokens).where(tokens.c.token_hash == token_hash))


def delete_expired_tokens(connection: Connection, now: datetime.datetime) -> None:
    """Forget the tokens that expired."""
    connection.execute(delete(tokens).where(tokens.c.expires <= now))


_TOKENS = select(
    tokens,
    users.c.name.label("user_name"),
    users.c.role.label("user_role"),
).join(users)


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
