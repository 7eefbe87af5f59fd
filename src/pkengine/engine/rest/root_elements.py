"""The element of the API's root."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass
from operator import attrgetter

from pkengine import __version__
from pkengine.engine.rest.elements import VERSION, always, itself
from pkengine.engine.rest.schema import (
    GUID,
    INTEGER,
    LINE,
    MOMENT,
    Element,
    Field,
)
from pkengine.engine.users import User


@dataclass(frozen=True, slots=True)
class ApiRoot:
    """What the root tells."""

    time: datetime.datetime
    instance_id: uuid.UUID
    user: User
    hosts_total: int
    hosts_active: int
    users_total: int
    users_active: int


_USER_REFERENCE = Element(
    "user",
    id=attrgetter("id"),
    href=lambda user: f"/users/{user.id}",
    fields=(Field("user_name", LINE, attrgetter("name")),),
)

_SUMMARY_ITEM = Element(
    "item",
    fields=(
        Field("active", INTEGER, lambda counts: counts[0]),
        Field("total", INTEGER, lambda counts: counts[1]),
    ),
)

API = Element(
    "api",
    href=always(""),
    collections=(
        "audit",
        "clusters",
        "datacenters",
        "events",
        "hosts",
        "jobs",
        "keychanges",
        "knownhosts",
        "roles",
        "sshkeys",
        "users",
    ),
    fields=(
        Field(
            "product_info",
            Element(
                "product_info",
                fields=(
                    Field("name", LINE, always("pkengine")),
                    Field("vendor", LINE, always("pkengine")),
                    Field("instance_id", GUID, attrgetter("instance_id")),
                    Field("version", VERSION, always((4, 5, 0, 0, f"4.5.0-{__version__}"))),
                ),
            ),
            itself,
        ),
        Field(
            "special_objects",
            Element("special_objects"),
            itself,
        ),
        Field(
            "summary",
            Element(
                "summary",
                fields=(
                    Field(
                        "hosts",
                        _SUMMARY_ITEM,
                        lambda api: (api.hosts_active, api.hosts_total),
                    ),
                    Field("storage_domains", _SUMMARY_ITEM, always((0, 0))),
                    Field(
                        "users",
                        _SUMMARY_ITEM,
                        lambda api: (api.users_active, api.users_total),
                    ),
                    Field("vms", _SUMMARY_ITEM, always((0, 0))),
                ),
            ),
            itself,
        ),
        Field("time", MOMENT, attrgetter("time")),
        Field("authenticated_user", _USER_REFERENCE, attrgetter("user")),
        Field("effective_user", _USER_REFERENCE, attrgetter("user")),
    ),
)
