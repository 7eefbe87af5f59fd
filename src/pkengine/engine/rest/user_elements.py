"""The elements of users, their roles and tokens, and of the audit log."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from operator import attrgetter

from pkengine.engine.rest.elements import HOST_REFERENCE, always, text_of
from pkengine.engine.rest.schema import (
    BOOLEAN,
    INTEGER,
    LINE,
    MOMENT,
    SECRET,
    TEXT,
    Element,
    Enumerated,
    Field,
    Integer,
)
from pkengine.engine.tokens import IssuedToken
from pkengine.engine.user_administration import LONGEST_TOKEN_DAYS
from pkengine.engine.users import Role, TokenRecord, User

_ROLES = uuid.UUID("6f2b1d4e-6c0a-4b57-9d0e-7a4f2f6b8a10")


def role_id(role: Role) -> uuid.UUID:
    """Give the id of a role, which is the same on every engine."""
    return uuid.uuid5(_ROLES, role.value)


_DESCRIPTIONS = {
    Role.VIEWER: "Reads.",
    Role.OPERATOR: "Also activates, deactivates, refreshes and restarts hosts.",
    Role.ADMINISTRATOR: "Also decides whom to trust: hosts, their keys, and users.",
}

ROLE = Element(
    "role",
    "roles",
    id=role_id,
    href=lambda role: f"/roles/{role_id(role)}",
    fields=(
        Field("name", LINE, attrgetter("value")),
        Field("description", TEXT, _DESCRIPTIONS.__getitem__),
        Field("administrative", BOOLEAN, lambda role: role is Role.ADMINISTRATOR),
        Field("mutable", BOOLEAN, always(False)),
    ),
)


@dataclass(frozen=True, slots=True)
class ShownUser:
    """A user, and what only administrators and the user itself are told."""

    user: User
    disabled: bool = False


USER = Element(
    "user",
    "users",
    id=attrgetter("user.id"),
    href=lambda shown: f"/users/{shown.user.id}",
    collections=("tokens",),
    fields=(
        Field("user_name", LINE, attrgetter("user.name"), is_read=True),
        Field("name", LINE, lambda shown: shown.user.name.partition("@")[0]),
        Field("principal", LINE, lambda shown: shown.user.name.partition("@")[0]),
        Field("namespace", LINE, always("*")),
        Field("role", Enumerated(Role), attrgetter("user.role"), is_read=True),
        Field("disabled", BOOLEAN, attrgetter("disabled"), is_read=True),
        Field("password", SECRET, is_read=True),
        Field("current_password", SECRET, is_read=True),
    ),
)


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A personal token; its text is there in the one answer that issues it."""

    record: TokenRecord
    issued: IssuedToken | None = None


TOKEN = Element(
    "token",
    "tokens",
    id=attrgetter("record.id"),
    href=lambda shown: f"/users/{shown.record.user.id}/tokens/{shown.record.id}",
    fields=(
        Field("name", LINE, attrgetter("record.name"), is_read=True),
        Field("role", Enumerated(Role), attrgetter("record.user.role"), is_read=True),
        Field("days", Integer(1, LONGEST_TOKEN_DAYS), is_read=True),
        Field("created", MOMENT, attrgetter("record.created")),
        Field("last_used", MOMENT, attrgetter("record.last_used")),
        Field("expires", MOMENT, attrgetter("record.expires")),
        Field(
            "access_token",
            TEXT,
            lambda shown: shown.issued.text.reveal_text() if shown.issued else None,
        ),
    ),
)

AUDIT_RECORD = Element(
    "audit_record",
    "audit_records",
    id=attrgetter("id"),
    href=lambda event: f"/audit/{event.id}",
    fields=(
        Field("time", MOMENT, attrgetter("time")),
        Field("code", INTEGER, attrgetter("code")),
        Field("user_name", LINE, text_of("user")),
        Field("address", LINE, text_of("address")),
        Field("description", TEXT, attrgetter("description")),
        Field("correlation_id", LINE, text_of("correlation_id")),
        Field("host", HOST_REFERENCE, lambda event: event if event.host_id else None),
    ),
)
