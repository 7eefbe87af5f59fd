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

    def includes(self, other: Role) -> bool:
        """Tell whether who has this role may do all that the other one may."""
        return _RANK[self] >= _RANK[other]


_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMINISTRATOR: 2}


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
    """A token of a user.

    Attributes:
        token_hash: SHA-256 in hexadecimal.
        user: with the role that the token gives, which is at most the user's own.
        name: of a personal token, for automation; None for a person's session.
    """

    id: uuid.UUID = field(default_factory=uuid.uuid4)
    token_hash: str = field(repr=False)
    user: User
    created: datetime.datetime
    last_used: datetime.datetime
    expires: datetime.datetime
    name: str | None = None
