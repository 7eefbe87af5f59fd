"""The element of an action: what it may be given, and what it answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from pkengine.engine.model import Job
from pkengine.engine.rest.elements import (
    CLUSTER_REFERENCE,
    FAULT,
    JOB_REFERENCE,
    SSH,
    WAY_FIELDS,
    only,
)
from pkengine.engine.rest.schema import (
    BOOLEAN,
    LINE,
    SECRET,
    TEXT,
    Element,
    Enumerated,
    Field,
    Integer,
    ignored,
)
from pkengine.ssh import SshKeyKind


class FenceType(enum.Enum):
    """What to do about a host that is in trouble (oVirt's FenceType, and one more)."""

    MANUAL = "manual"
    RESTART = "restart"
    START = "start"
    STOP = "stop"
    STATUS = "status"
    RESTART_AGENT = "restart_agent"


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an action answers.

    Attributes:
        power_status: ``on`` or ``unknown``, where fencing asked for it.
    """

    status: str = "complete"
    job: Job | None = None
    fault: Any = None
    power_status: str | None = None


ACTION = Element(
    "action",
    fields=(
        Field("activate", BOOLEAN, is_read=True),
        Field("reboot", BOOLEAN, is_read=True),
        Field("reason", TEXT, is_read=True),
        Field("root_password", SECRET, is_read=True),
        Field("ssh", SSH, is_read=True),
        Field("async", BOOLEAN, is_read=True),
        Field("force", BOOLEAN, is_read=True),
        Field("timeout", Integer(0, 10**6), is_read=True),
        *WAY_FIELDS,
        Field("cluster", CLUSTER_REFERENCE, is_read=True),
        Field(
            "host",
            Element(
                "host",
                fields=(
                    Field("ssh", SSH, is_read=True),
                    Field("root_password", SECRET, is_read=True),
                ),
                is_open=True,
            ),
            is_read=True,
        ),
        Field("fence_type", Enumerated(FenceType), is_read=True),
        Field("type", Enumerated(SshKeyKind), is_read=True),
        Field(
            "power_management",
            only("power_management", Field("status", LINE, attrgetter("power_status"))),
            lambda result: result if result.power_status else None,
        ),
        Field("status", LINE, attrgetter("status")),
        Field("job", JOB_REFERENCE, attrgetter("job")),
        Field("fault", FAULT, attrgetter("fault")),
        *ignored(
            "comment",
            "correlation_id",
            "deploy_hosted_engine",
            "description",
            "filter",
            "follow",
            "image",
            "maintenance_after_restart",
            "name",
            "stop_gluster_service",
            "undeploy_hosted_engine",
        ),
    ),
)
