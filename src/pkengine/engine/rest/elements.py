"""The elements of the API: oVirt 4's names for what the engine knows.

Elements that oVirt's model has and this engine does not are listed as ignored: clients send
them, so they are accepted, and nothing is made of them.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from pkengine import __version__
from pkengine.engine.model import (
    Host,
    HostKeySource,
    HostStatus,
    Job,
    Severity,
    SshAuthenticationMethod,
    Step,
    StepStatus,
)
from pkengine.engine.rest.schema import (
    BOOLEAN,
    DECIMAL,
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
    Integer,
    ListOf,
    ignored,
)
from pkengine.engine.users import User

_MEBIBYTE = 1024 * 1024


def _always(value: Any) -> Callable[[Any], Any]:
    return lambda source: value


def _itself(source: Any) -> Any:
    return source


def _text_of(name: str) -> Callable[[Any], str | None]:
    """Give an attribute as text, and None where it is None or empty."""
    get = attrgetter(name)

    def text(source: Any) -> str | None:
        value = get(source)
        return str(value) if value else None

    return text


def _only(name: str, field: Field) -> Element:
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
    id=_always(DATA_CENTER_ID),
    href=_always(f"/datacenters/{DATA_CENTER_ID}"),
    fields=(
        Field("name", LINE, _always("Default")),
        Field("description", TEXT, _always("")),
        Field("local", BOOLEAN, _always(False)),
        Field("status", LINE, _always("up")),
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
                    Field("major", INTEGER, _always(CLUSTER_VERSION[0])),
                    Field("minor", INTEGER, _always(CLUSTER_VERSION[1])),
                ),
            ),
            _itself,
        ),
        Field("data_center", DATA_CENTER_REFERENCE, _itself),
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

SSH = Element(
    "ssh",
    fields=(
        Field("port", PORT, attrgetter("port"), is_read=True),
        Field("fingerprint", LINE, _text_of("fingerprint"), is_read=True),
        Field("public_key", TEXT, _text_of("public_key"), is_read=True),
        Field("user", SSH_USER, _itself, is_read=True),
        Field("authentication_method", Enumerated(SshAuthenticationMethod), is_read=True),
        Field("key_source", Enumerated(HostKeySource), attrgetter("key_source")),
        *ignored("name", "comment", "description"),
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

# Hosts.

TRUST = Element(
    "trust",
    fields=(
        Field("mechanism", LINE, attrgetter("mechanism")),
        Field("pins", ListOf("pin", LINE), attrgetter("pins")),
    ),
)

_CPU = Element(
    "cpu",
    fields=(
        Field("architecture", LINE, attrgetter("architecture")),
        Field("name", LINE, attrgetter("cpu_model")),
        Field("speed", DECIMAL, lambda found: found.cpu_speed or None),
        Field(
            "topology",
            Element(
                "topology",
                fields=(
                    Field("sockets", INTEGER, attrgetter("cpu_sockets")),
                    Field(
                        "cores",
                        INTEGER,
                        lambda found: max(found.cpu_cores // max(found.cpu_sockets, 1), 1),
                    ),
                    Field(
                        "threads",
                        INTEGER,
                        lambda found: max(found.cpu_threads // max(found.cpu_cores, 1), 1),
                    ),
                ),
            ),
            _itself,
        ),
    ),
)

_HARDWARE = Element(
    "hardware_information",
    fields=(
        Field("manufacturer", TEXT, _text_of("system_manufacturer")),
        Field("product_name", TEXT, _text_of("system_product_name")),
        Field("version", TEXT, _text_of("system_version")),
        Field("serial_number", TEXT, _text_of("system_serial_number")),
        Field("uuid", TEXT, _text_of("system_uuid")),
        Field("family", TEXT, _text_of("system_family")),
    ),
)

_OPERATING_SYSTEM = Element(
    "os",
    fields=(
        # Clients split this text, so it is there even when it is empty.
        Field("custom_kernel_cmdline", TEXT, _always("")),
        Field(
            "reported_kernel_cmdline",
            TEXT,
            lambda host: host.capabilities and (host.capabilities.kernel_args or None),
        ),
        Field(
            "type",
            LINE,
            lambda host: host.capabilities and host.capabilities.operating_system.name,
        ),
        Field(
            "version",
            Element(
                "version",
                fields=(Field("full_version", LINE, attrgetter("version")),),
            ),
            lambda host: host.capabilities and host.capabilities.operating_system,
        ),
    ),
)

_POWER_MANAGEMENT = Element(
    "power_management",
    fields=(
        Field("enabled", BOOLEAN, _always(False)),
        Field("automatic_pm_enabled", BOOLEAN, _always(False)),
        Field("kdump_detection", BOOLEAN, _always(False)),
    ),
)

_SPM = Element(
    "spm",
    fields=(
        Field("priority", INTEGER, _always(5)),
        Field("status", LINE, _always("none")),
    ),
)

_SUMMARY = Element(
    "summary",
    fields=tuple(Field(name, INTEGER, _always(0)) for name in ("active", "migrating", "total")),
)

_ENABLED = Field("enabled", BOOLEAN, _always(False))

HOST_ACTIONS = ("activate", "deactivate", "install")

#: Sub-collections that clients follow and that are empty here: the last part of the path,
#: the element around and the element of one.
EMPTY_COLLECTIONS = {
    "affinitylabels": ("affinity_labels", "affinity_label"),
    "cpuunits": ("host_cpu_units", "host_cpu_unit"),
    "devices": ("host_devices", "host_device"),
    "externalnetworkproviderconfigurations": (
        "external_network_provider_configurations",
        "external_network_provider_configuration",
    ),
    "fenceagents": ("agents", "agent"),
    "hooks": ("hooks", "hook"),
    "katelloerrata": ("katello_errata", "katello_erratum"),
    "networkattachments": ("network_attachments", "network_attachment"),
    "nics": ("host_nics", "host_nic"),
    "numanodes": ("host_numa_nodes", "host_numa_node"),
    "permissions": ("permissions", "permission"),
    "storage": ("host_storages", "host_storage"),
    "storageconnectionextensions": (
        "storage_connection_extensions",
        "storage_connection_extension",
    ),
    "tags": ("tags", "tag"),
    "unmanagednetworks": ("unmanaged_networks", "unmanaged_network"),
}

HOST = Element(
    "host",
    "hosts",
    id=attrgetter("id"),
    href=lambda host: f"/hosts/{host.id}",
    actions=HOST_ACTIONS,
    collections=("statistics", "jobs", *EMPTY_COLLECTIONS),
    fields=(
        Field("name", LINE, attrgetter("name"), is_read=True),
        Field("comment", TEXT, attrgetter("comment"), is_read=True),
        Field("description", TEXT, attrgetter("description"), is_read=True),
        Field("address", LINE, attrgetter("address"), is_read=True),
        Field("port", PORT, attrgetter("port"), is_read=True),
        Field("cluster", CLUSTER_REFERENCE, _itself, is_read=True),
        Field("status", Enumerated(HostStatus), attrgetter("status")),
        Field("status_detail", TEXT, _text_of("status_detail")),
        Field("external_status", LINE, _always("ok")),
        Field("root_password", SECRET, is_read=True),
        Field("ssh", SSH, attrgetter("ssh"), is_read=True),
        Field("trust", TRUST, _itself),
        Field("reinstallation_required", BOOLEAN, attrgetter("reinstallation_required")),
        Field("update_available", BOOLEAN, _always(False)),
        Field("protocol", LINE, _always("stomp")),
        Field("type", LINE, _always("rhel")),
        Field("agent_version", LINE, _text_of("agent_version")),
        Field("os", _OPERATING_SYSTEM, _itself),
        Field("cpu", _CPU, attrgetter("capabilities")),
        Field(
            "memory",
            INTEGER,
            lambda host: host.capabilities.mem_size * _MEBIBYTE if host.capabilities else 0,
        ),
        Field(
            "max_scheduling_memory",
            INTEGER,
            lambda host: host.capabilities.mem_size * _MEBIBYTE if host.capabilities else 0,
        ),
        Field("hardware_information", _HARDWARE, attrgetter("hardware")),
        Field(
            "kdump_status",
            LINE,
            lambda host: host.capabilities.kdump_status if host.capabilities else "unknown",
        ),
        Field(
            "se_linux",
            _only("se_linux", Field("mode", LINE, attrgetter("selinux"))),
            attrgetter("capabilities"),
        ),
        Field("summary", _SUMMARY, _itself),
        Field("power_management", _POWER_MANAGEMENT, _itself),
        Field("spm", _SPM, _itself),
        Field("ksm", _only("ksm", _ENABLED), _itself),
        Field("transparent_hugepages", _only("transparent_hugepages", _ENABLED), _itself),
        Field("device_passthrough", _only("device_passthrough", _ENABLED), _itself),
        Field("auto_numa_status", LINE, _always("unknown")),
        Field("numa_supported", BOOLEAN, _always(False)),
        Field("network_operation_in_progress", BOOLEAN, _always(False)),
        Field("ovn_configured", BOOLEAN, _always(False)),
        Field("vgpu_placement", LINE, _always("consolidated")),
        *ignored(
            "affinity_labels",
            "agents",
            "certificate",
            "cpu_units",
            "devices",
            "display",
            "external_host_provider",
            "external_network_provider_configurations",
            "hooks",
            "host_numa_nodes",
            "hosted_engine",
            "iscsi",
            "katello_errata",
            "libvirt_version",
            "network_attachments",
            "nics",
            "numa_nodes",
            "override_iptables",
            "permissions",
            "statistics",
            "storage_connection_extensions",
            "storages",
            "tags",
            "unmanaged_networks",
            "version",
        ),
    ),
)

HOST_REFERENCE = Element(
    "host",
    id=attrgetter("host_id"),
    href=lambda source: f"/hosts/{source.host_id}",
    # Ansible looks for events about a host by this name.
    fields=(Field("name", LINE, lambda source: getattr(source, "host_name", None) or None),),
)


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number about a host, with its unit (oVirt's StatisticUnit)."""

    host: Host
    name: str
    description: str
    unit: str
    value: float

    @property
    def id(self) -> uuid.UUID:
        """The same for the same number of the same host, always."""
        return uuid.uuid5(self.host.id, self.name)


STATISTIC = Element(
    "statistic",
    "statistics",
    id=attrgetter("id"),
    href=lambda statistic: f"/hosts/{statistic.host.id}/statistics/{statistic.id}",
    fields=(
        Field("name", LINE, attrgetter("name")),
        Field("description", TEXT, attrgetter("description")),
        Field("kind", LINE, _always("gauge")),
        Field("type", LINE, lambda s: "integer" if float(s.value).is_integer() else "decimal"),
        Field("unit", LINE, attrgetter("unit")),
        Field(
            "values",
            ListOf("value", Element("value", fields=(Field("datum", DECIMAL, _itself),))),
            lambda statistic: (statistic.value,),
        ),
        Field(
            "host",
            Element(
                "host",
                id=lambda s: s.host.id,
                href=lambda s: f"/hosts/{s.host.id}",
            ),
            _itself,
        ),
    ),
)

# Jobs.

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
        Field("external", BOOLEAN, _always(False)),
        Field("auto_cleared", BOOLEAN, _always(False)),
        Field("correlation_id", LINE, _text_of("correlation_id")),
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
        Field("type", LINE, _always("executing")),
        Field("status", Enumerated(StepStatus), attrgetter("step.status")),
        Field("progress", INTEGER, attrgetter("step.progress")),
        Field("start_time", MOMENT, attrgetter("step.started")),
        Field("end_time", MOMENT, attrgetter("step.ended")),
        Field("external", BOOLEAN, _always(False)),
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
        Field("correlation_id", LINE, _text_of("correlation_id")),
        Field("origin", LINE, _always("oVirt")),
        Field("custom_id", INTEGER, _always(-1)),
        Field("flood_rate", INTEGER, _always(30)),
        Field("host", HOST_REFERENCE, lambda event: event if event.host_id else None),
        Field("cluster", CLUSTER_REFERENCE, lambda event: event if event.cluster_id else None),
        Field(
            "user",
            _only("user", Field("user_name", LINE, attrgetter("user"))),
            lambda event: event if event.user else None,
        ),
    ),
)

# Actions.


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an action answers."""

    status: str = "complete"
    job: Job | None = None
    fault: Any = None


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
        Field("status", LINE, attrgetter("status")),
        Field("job", JOB_REFERENCE, attrgetter("job")),
        Field("fault", FAULT, attrgetter("fault")),
        *ignored(
            "cluster",
            "comment",
            "correlation_id",
            "deploy_hosted_engine",
            "description",
            "fence_type",
            "filter",
            "follow",
            "host",
            "image",
            "maintenance_after_restart",
            "name",
            "power_management",
            "stop_gluster_service",
            "undeploy_hosted_engine",
        ),
    ),
)

# The root of the API.


@dataclass(frozen=True, slots=True)
class ApiRoot:
    """What the root tells."""

    time: datetime.datetime
    instance_id: uuid.UUID
    user: User
    hosts_total: int
    hosts_active: int


_USER_REFERENCE = Element(
    "user",
    id=attrgetter("id"),
    href=lambda user: f"/users/{user.id}",
    fields=(Field("user_name", LINE, attrgetter("name")),),
)

USER = Element(
    "user",
    "users",
    id=attrgetter("id"),
    href=lambda user: f"/users/{user.id}",
    fields=(
        Field("user_name", LINE, attrgetter("name")),
        Field("name", LINE, lambda user: user.name.partition("@")[0]),
        Field("principal", LINE, lambda user: user.name.partition("@")[0]),
        Field("namespace", LINE, _always("*")),
        Field("role", LINE, lambda user: user.role.value),
    ),
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
    href=_always(""),
    collections=("clusters", "datacenters", "events", "hosts", "jobs", "sshkeys"),
    fields=(
        Field(
            "product_info",
            Element(
                "product_info",
                fields=(
                    Field("name", LINE, _always("pkengine")),
                    Field("vendor", LINE, _always("pkengine")),
                    Field("instance_id", GUID, attrgetter("instance_id")),
                    Field("version", VERSION, _always((4, 5, 0, 0, f"4.5.0-{__version__}"))),
                ),
            ),
            _itself,
        ),
        Field(
            "special_objects",
            Element("special_objects"),
            _itself,
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
                    Field("storage_domains", _SUMMARY_ITEM, _always((0, 0))),
                    Field("users", _SUMMARY_ITEM, _always((1, 1))),
                    Field("vms", _SUMMARY_ITEM, _always((0, 0))),
                ),
            ),
            _itself,
        ),
        Field("time", MOMENT, attrgetter("time")),
        Field("authenticated_user", _USER_REFERENCE, attrgetter("user")),
        Field("effective_user", _USER_REFERENCE, attrgetter("user")),
    ),
)
