"""Users and their tokens, as the store has them."""

from __future__ import annotations

import datetime
import enum
import uuid
from dataclasses import dataclass, field


class Role(enum.Enum):
    """What a user may do."""

    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who may log in; `name` is such as ``admin@internal``."""

    id: uuid.UUID
    name: str
    role: Role = Role.ADMINISTRATOR


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """A user with what proves that it is that user."""

    user: User
    password_hash: str = field(repr=False)
    disabled: bool = False
    created: datetime.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A token of a user; `token_hash` is SHA-256 in hexadecimal."""

    token_hash: str
    user: User
    created: datetime.datetime
    last_used: datetime.datetime
    expires: datetime.datetime
