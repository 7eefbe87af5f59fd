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
    if row is None:
        return None
    return UserRecord(
        user=_user(row),
        password_hash=row.password_hash,
        disabled=row.disabled,
        created=row.created,
    )


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
            id=uuid.uuid4(),
            token_hash=record.token_hash,
            user_id=record.user.id,
            created=record.created,
            last_used=record.last_used,
            expires=record.expires,
        )
    )


def token_by_hash(connection: Connection, token_hash: str) -> TokenRecord | None:
    """Give a token whose user is not disabled, or None; it may have expired."""
    row = connection.execute(
        select(
            tokens.c.created,
            tokens.c.last_used,
            tokens.c.expires,
            users.c.id,
            users.c.name,
            users.c.role,
        )
        .join(users)
        .where(tokens.c.token_hash == token_hash, users.c.disabled.is_(False))
    ).first()
    if row is None:
        return None
    return TokenRecord(
        token_hash=token_hash,
        user=_user(row),
        created=row.created,
        last_used=row.last_used,
        expires=row.expires,
    )


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


def _user(row: Any) -> User:
    return User(id=row.id, name=row.name, role=Role(row.role))
