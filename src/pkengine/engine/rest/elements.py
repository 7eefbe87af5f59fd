"""The elements of the API: oVirt 4's names for what the engine knows.

Elements that oVirt's model has and this engine does not are listed as ignored: clients send
them, so they are accepted, and nothing is made of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from pkengine.engine.model import (
    HostConnection,
    HostKeySource,
    Job,
    Severity,
    SshAuthenticationMethod,
    Step,
    StepStatus,
)
from pkengine.engine.rest.schema import (
    BOOLEAN,
    GUID,
    INTEGER,
    LINE,
    MOMENT,
    PORT,
    SECRET,
    TEXT,
    Element,
    Enumerated,
    Field,
    ListOf,
    ignored,
)


def always(value: Any) -> Callable[[Any], Any]:
    """Give the same, whatever the source is."""
    return lambda source: value


def itself(source: Any) -> Any:
    """Give the source of the element around the field."""
    return source


def text_of(name: str) -> Callable[[Any], str | None]:
    """Give an attribute as text, and None where it is None or empty."""
    get = attrgetter(name)

    def text(source: Any) -> str | None:
        value = get(source)
        return str(value) if value else None

    return text


def only(name: str, field: Field) -> Element:
    """Declare an element with one child, as oVirt's model has many."""
    return Element(name, fields=(field,))


# What is common to several elements.

VERSION = Element(
    "version",
    fields=(
        Field("major", INTEGER, lambda version: version[0]),
        Field("minor", INTEGER, lambda version: version[1]),
        Field("build", INTEGER, lambda version: version[2]),
        Field("revision", INTEGER, lambda version: version[3]),
        Field("full_version", TEXT, lambda version: version[4]),
    ),
)

FAULT = Element(
    "fault",
    fields=(
        Field("reason", TEXT, attrgetter("reason")),
        Field("detail", TEXT, attrgetter("detail")),
    ),
)

# Clusters.

CLUSTER_VERSION = (4, 5)

#: There is one data centre, because clients follow clusters to theirs.
DATA_CENTER_ID = uuid.UUID(int=1)

DATA_CENTER = Element(
    "data_center",
    "data_centers",
    id=always(DATA_CENTER_ID),
    href=always(f"/datacenters/{DATA_CENTER_ID}"),
    fields=(
        Field("name", LINE, always("Default")),
        Field("description", TEXT, always("")),
        Field("local", BOOLEAN, always(False)),
        Field("status", LINE, always("up")),
    ),
)

DATA_CENTER_REFERENCE = Element(
    "data_center", id=DATA_CENTER.id, href=DATA_CENTER.href, is_reference=True
)

CLUSTER = Element(
    "cluster",
    "clusters",
    id=attrgetter("id"),
    href=lambda cluster: f"/clusters/{cluster.id}",
    fields=(
        Field("name", LINE, attrgetter("name")),
        Field("description", TEXT, attrgetter("description")),
        Field("comment", TEXT, attrgetter("comment")),
        Field(
            "version",
            Element(
                "version",
                fields=(
                    Field("major", INTEGER, always(CLUSTER_VERSION[0])),
                    Field("minor", INTEGER, always(CLUSTER_VERSION[1])),
                ),
            ),
            itself,
        ),
        Field("data_center", DATA_CENTER_REFERENCE, itself),
    ),
)

CLUSTER_REFERENCE = Element(
    "cluster",
    id=attrgetter("cluster_id"),
    href=lambda source: f"/clusters/{source.cluster_id}",
    is_reference=True,
    fields=(
        Field("name", LINE, is_read=True),
        *ignored(*(field.name for field in CLUSTER.fields if field.name != "name")),
    ),
)

# SSH.

SSH_USER = Element(
    "user",
    fields=(
        Field("user_name", LINE, attrgetter("user"), is_read=True),
        Field("password", SECRET, is_read=True),
        *ignored("name", "comment", "description", "principal", "namespace", "domain"),
    ),
)

SSH_KEY = Element(
    "ssh_key",
    "ssh_keys",
    fields=(
        Field("type", LINE, attrgetter("key_type")),
        Field("fingerprint", LINE, lambda key: str(key.fingerprint())),
        Field("md5_fingerprint", LINE, lambda key: str(key.fingerprint("MD5"))),
        Field("public_key", TEXT, str),
    ),
)

JUMP_HOST = Element(
    "jump_host",
    fields=(
        Field("address", LINE, attrgetter("address"), is_read=True),
        Field("port", PORT, attrgetter("port"), is_read=True),
        Field("user", SSH_USER, itself, is_read=True),
        Field("fingerprint", LINE, is_read=True),
        Field("public_key", TEXT, is_read=True),
    ),
)

SSH = Element(
    "ssh",
    fields=(
        Field("port", PORT, attrgetter("port"), is_read=True),
        Field("fingerprint", LINE, text_of("fingerprint"), is_read=True),
        Field("public_key", TEXT, text_of("public_key"), is_read=True),
        Field("user", SSH_USER, itself, is_read=True),
        Field("authentication_method", Enumerated(SshAuthenticationMethod), is_read=True),
        Field("key_source", Enumerated(HostKeySource), attrgetter("key_source")),
        Field(
            "proved_keys",
            ListOf("ssh_key", SSH_KEY),
            lambda ssh: ssh.proved_keys or None,
        ),
        Field(
            "jump_hosts",
            ListOf("jump_host", JUMP_HOST),
            lambda ssh: ssh.jumps or None,
            is_read=True,
        ),
        Field("key_agent", GUID, is_read=True),
        *ignored("name", "comment", "description"),
    ),
)

# How hosts connect.

#: How the engine and a host's agent come together; an action has nothing to say of it.
WAY_FIELDS = (
    Field(
        "connection",
        Enumerated(HostConnection),
        lambda source: getattr(source, "connection", None),
        is_read=True,
    ),
    Field("mechanism", LINE, lambda source: getattr(source, "mechanism", None), is_read=True),
)

# Jobs, and what refers to hosts.

HOST_REFERENCE = Element(
    "host",
    id=attrgetter("host_id"),
    href=lambda source: f"/hosts/{source.host_id}",
    # Ansible looks for events about a host by this name.
    fields=(Field("name", LINE, lambda source: getattr(source, "host_name", None) or None),),
)

JOB = Element(
    "job",
    "jobs",
    id=attrgetter("id"),
    href=lambda job: f"/jobs/{job.id}",
    collections=("steps",),
    fields=(
        Field("description", TEXT, attrgetter("description")),
        Field("status", Enumerated(StepStatus), attrgetter("status")),
        Field("start_time", MOMENT, attrgetter("started")),
        Field("end_time", MOMENT, attrgetter("ended")),
        Field("last_updated", MOMENT, lambda job: job.ended or job.started),
        Field("external", BOOLEAN, always(False)),
        Field("auto_cleared", BOOLEAN, always(False)),
        Field("correlation_id", LINE, text_of("correlation_id")),
        Field("host", HOST_REFERENCE, lambda job: job if job.host_id else None),
    ),
)

JOB_REFERENCE = Element("job", id=attrgetter("id"), href=JOB.href)


@dataclass(frozen=True, slots=True)
class NumberedStep:
    """A step with its place in its job."""

    job: Job
    number: int
    step: Step

    @property
    def id(self) -> uuid.UUID:
        """The same for the same step of the same job, always."""
        return uuid.uuid5(self.job.id, self.step.name)


STEP = Element(
    "step",
    "steps",
    id=attrgetter("id"),
    href=lambda numbered: f"/jobs/{numbered.job.id}/steps/{numbered.id}",
    fields=(
        Field("name", LINE, attrgetter("step.name")),
        Field("description", TEXT, attrgetter("step.description")),
        Field("number", INTEGER, attrgetter("number")),
        Field("type", LINE, always("executing")),
        Field("status", Enumerated(StepStatus), attrgetter("step.status")),
        Field("progress", INTEGER, attrgetter("step.progress")),
        Field("start_time", MOMENT, attrgetter("step.started")),
        Field("end_time", MOMENT, attrgetter("step.ended")),
        Field("external", BOOLEAN, always(False)),
        Field("job", JOB_REFERENCE, attrgetter("job")),
    ),
)

# Events.

EVENT = Element(
    "event",
    "events",
    id=attrgetter("id"),
    href=lambda event: f"/events/{event.id}",
    fields=(
        Field("index", INTEGER, attrgetter("id")),
        Field("code", INTEGER, attrgetter("code")),
        Field("severity", Enumerated(Severity), attrgetter("severity")),
        Field("time", MOMENT, attrgetter("time")),
        Field("description", TEXT, attrgetter("description")),
        Field("correlation_id", LINE, text_of("correlation_id")),
        Field("origin", LINE, always("oVirt")),
        Field("custom_id", INTEGER, always(-1)),
        Field("flood_rate", INTEGER, always(30)),
        Field("host", HOST_REFERENCE, lambda event: event if event.host_id else None),
        Field("cluster", CLUSTER_REFERENCE, lambda event: event if event.cluster_id else None),
        Field(
            "user",
            only("user", Field("user_name", LINE, attrgetter("user"))),
            lambda event: event if event.user else None,
        ),
    ),
)
