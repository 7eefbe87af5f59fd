"""The elements of hosts: oVirt's Host, with what is added to it, and its statistics."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from operator import attrgetter

from pkengine.channel.verbs import NetworkInterface
from pkengine.engine.model import Host, HostConnection, HostStatus, KeySource
from pkengine.engine.rest.elements import (
    CLUSTER_REFERENCE,
    SSH,
    WAY_FIELDS,
    always,
    itself,
    only,
    text_of,
)
from pkengine.engine.rest.schema import (
    BOOLEAN,
    DECIMAL,
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
from pkengine.engine.rest.user_elements import ROLE
from pkengine.engine.users import User

_MEBIBYTE = 1024 * 1024

_HOST_KEY = Element(
    "key",
    fields=(
        Field("value", LINE, attrgetter("key")),
        Field("mechanism", LINE, attrgetter("mechanism")),
        Field("source", Enumerated(KeySource), attrgetter("source")),
        Field("added", MOMENT, attrgetter("added")),
    ),
)

_NEXT_WAY = Element(
    "next_way",
    fields=(
        Field("connection", Enumerated(HostConnection), attrgetter("connection")),
        Field("mechanism", LINE, attrgetter("mechanism")),
        Field("key", LINE, attrgetter("key")),
    ),
)

TRUST = Element(
    "trust",
    fields=(
        Field("tls_path", LINE, text_of("tls_path")),
        Field("keys", ListOf("key", _HOST_KEY), attrgetter("keys")),
        Field("next_way", _NEXT_WAY, attrgetter("next_way")),
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
            itself,
        ),
    ),
)

_HARDWARE = Element(
    "hardware_information",
    fields=(
        Field("manufacturer", TEXT, text_of("system_manufacturer")),
        Field("product_name", TEXT, text_of("system_product_name")),
        Field("version", TEXT, text_of("system_version")),
        Field("serial_number", TEXT, text_of("system_serial_number")),
        Field("uuid", TEXT, text_of("system_uuid")),
        Field("family", TEXT, text_of("system_family")),
    ),
)

_OPERATING_SYSTEM = Element(
    "os",
    fields=(
        # Clients split this text, so it is there even when it is empty.
        Field("custom_kernel_cmdline", TEXT, always("")),
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
        Field("enabled", BOOLEAN, always(False)),
        Field("automatic_pm_enabled", BOOLEAN, always(False)),
        Field("kdump_detection", BOOLEAN, always(False)),
    ),
)

_SPM = Element(
    "spm",
    fields=(
        Field("priority", INTEGER, always(5)),
        Field("status", LINE, always("none")),
    ),
)

_SUMMARY = Element(
    "summary",
    fields=tuple(Field(name, INTEGER, always(0)) for name in ("active", "migrating", "total")),
)

_ENABLED = Field("enabled", BOOLEAN, always(False))

HOST_ACTIONS = (
    "activate",
    "approve",
    "deactivate",
    "enrollcertificate",
    "fence",
    "install",
    "refresh",
    "rekey",
    "upgrade",
    "upgradecheck",
)

#: Sub-collections that clients follow and that are empty here, for there is nothing of the
#: kind on any host: the element of one, by the last part of the path.
EMPTY_COLLECTIONS = {
    "affinitylabels": Element("affinity_label", "affinity_labels"),
    "cpuunits": Element("host_cpu_unit", "host_cpu_units"),
    "devices": Element("host_device", "host_devices"),
    "externalnetworkproviderconfigurations": Element(
        "external_network_provider_configuration", "external_network_provider_configurations"
    ),
    "fenceagents": Element("agent", "agents"),
    "hooks": Element("hook", "hooks"),
    "katelloerrata": Element("katello_erratum", "katello_errata"),
    "networkattachments": Element("network_attachment", "network_attachments"),
    "numanodes": Element("host_numa_node", "host_numa_nodes"),
    "storage": Element("host_storage", "host_storages"),
    "storageconnectionextensions": Element(
        "storage_connection_extension", "storage_connection_extensions"
    ),
    "tags": Element("tag", "tags"),
    "unmanagednetworks": Element("unmanaged_network", "unmanaged_networks"),
}

#: By what name the model has a sub-collection, where that is not the last part of its path.
FIELD_OF_COLLECTION = {
    "affinitylabels": "affinity_labels",
    "cpuunits": "cpu_units",
    "externalnetworkproviderconfigurations": "external_network_provider_configurations",
    "fenceagents": "agents",
    "katelloerrata": "katello_errata",
    "networkattachments": "network_attachments",
    "numanodes": "numa_nodes",
    "storage": "storages",
    "storageconnectionextensions": "storage_connection_extensions",
    "unmanagednetworks": "unmanaged_networks",
}

HOST = Element(
    "host",
    "hosts",
    id=attrgetter("id"),
    href=lambda host: f"/hosts/{host.id}",
    actions=HOST_ACTIONS,
    collections=("statistics", "nics", "permissions", "jobs", *EMPTY_COLLECTIONS),
    fields=(
        Field("name", LINE, attrgetter("name"), is_read=True),
        Field("comment", TEXT, attrgetter("comment"), is_read=True),
        Field("description", TEXT, attrgetter("description"), is_read=True),
        Field("address", LINE, attrgetter("address"), is_read=True),
        Field("port", PORT, attrgetter("port"), is_read=True),
        *WAY_FIELDS,
        Field("require_direct", BOOLEAN, attrgetter("require_direct"), is_read=True),
        Field("cluster", CLUSTER_REFERENCE, itself, is_read=True),
        Field("status", Enumerated(HostStatus), attrgetter("status")),
        Field("status_detail", TEXT, text_of("status_detail")),
        Field("external_status", LINE, always("ok")),
        Field("root_password", SECRET, is_read=True),
        Field("ssh", SSH, attrgetter("ssh"), is_read=True),
        Field("trust", TRUST, itself),
        Field("reinstallation_required", BOOLEAN, attrgetter("reinstallation_required")),
        Field("update_available", BOOLEAN, attrgetter("update_available")),
        Field("protocol", LINE, always("stomp")),
        Field("type", LINE, always("rhel")),
        Field("agent_version", LINE, text_of("agent_version")),
        Field("os", _OPERATING_SYSTEM, itself),
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
            only("se_linux", Field("mode", LINE, attrgetter("selinux"))),
            attrgetter("capabilities"),
        ),
        Field("summary", _SUMMARY, itself),
        Field("power_management", _POWER_MANAGEMENT, itself),
        Field("spm", _SPM, itself),
        Field("ksm", only("ksm", _ENABLED), itself),
        Field("transparent_hugepages", only("transparent_hugepages", _ENABLED), itself),
        Field("device_passthrough", only("device_passthrough", _ENABLED), itself),
        Field("auto_numa_status", LINE, always("unknown")),
        Field("numa_supported", BOOLEAN, always(False)),
        Field("network_operation_in_progress", BOOLEAN, always(False)),
        Field("ovn_configured", BOOLEAN, always(False)),
        Field("vgpu_placement", LINE, always("consolidated")),
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


_HOST_OF_SOURCE = Field(
    "host",
    Element("host", id=lambda s: s.host.id, href=lambda s: f"/hosts/{s.host.id}"),
    itself,
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
        Field("kind", LINE, always("gauge")),
        Field("type", LINE, lambda s: "integer" if float(s.value).is_integer() else "decimal"),
        Field("unit", LINE, attrgetter("unit")),
        Field(
            "values",
            ListOf("value", Element("value", fields=(Field("datum", DECIMAL, itself),))),
            lambda statistic: (statistic.value,),
        ),
        _HOST_OF_SOURCE,
    ),
)


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface of a host, as its agent described it last."""

    host: Host
    name: str
    found: NetworkInterface

    @property
    def id(self) -> uuid.UUID:
        """The same for the same name on the same host, always."""
        return uuid.uuid5(self.host.id, f"nic {self.name}")

    def address(self, version: int) -> str | None:
        """Give its first address of that version of IP, without the prefix's length."""
        for text in self.found.addresses:
            address = text.partition("/")[0].partition("%")[0]
            if (":" in address) == (version == 6):
                return address
        return None


def _ip(name: str, version: int) -> Field:
    element = Element(
        name,
        fields=(
            Field("address", LINE, itself),
            Field("version", LINE, always(f"v{version}")),
        ),
    )
    return Field(name, element, lambda nic: nic.address(version))


NIC = Element(
    "host_nic",
    "host_nics",
    id=attrgetter("id"),
    href=lambda nic: f"/hosts/{nic.host.id}/nics/{nic.id}",
    fields=(
        Field("name", LINE, attrgetter("name")),
        Field(
            "mac",
            only("mac", Field("address", LINE, attrgetter("found.mac"))),
            lambda nic: nic if nic.found.mac else None,
        ),
        _ip("ip", 4),
        _ip("ipv6", 6),
        Field("status", LINE, lambda nic: "up" if nic.found.state == "up" else "down"),
        # oVirt gives bits a second.
        Field("speed", INTEGER, lambda nic: nic.found.speed * 1_000_000 or None),
        _HOST_OF_SOURCE,
    ),
)


@dataclass(frozen=True, slots=True)
class Permission:
    """That a user has its role on a host, as on every host."""

    host: Host
    user: User

    @property
    def id(self) -> uuid.UUID:
        """The same for the same user on the same host, always."""
        return uuid.uuid5(self.host.id, f"permission {self.user.id}")


PERMISSION = Element(
    "permission",
    "permissions",
    id=attrgetter("id"),
    href=lambda permission: f"/hosts/{permission.host.id}/permissions/{permission.id}",
    fields=(
        Field(
            "role",
            Element("role", id=ROLE.id, href=ROLE.href, fields=ROLE.fields[:1]),
            attrgetter("user.role"),
        ),
        Field(
            "user",
            Element(
                "user",
                id=attrgetter("id"),
                href=lambda user: f"/users/{user.id}",
                fields=(Field("user_name", LINE, attrgetter("name")),),
            ),
            attrgetter("user"),
        ),
        _HOST_OF_SOURCE,
    ),
)
