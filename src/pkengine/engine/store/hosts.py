"""Queries about hosts and the keys of their agents."""

from __future__ import annotations

import datetime
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Row, case, delete, func, insert, literal, select, update

from pkengine.channel.verbs import Capabilities, HardwareInfo
from pkengine.engine.model import Host, HostKeySource, HostSsh, HostStatus
from pkengine.engine.search import Search
from pkengine.engine.store.schema import clusters, host_pins, hosts, key_changes
from pkengine.engine.store.search import Fields, Guids, Numbers, Texts, apply
from pkengine.keys import Pin, SshFingerprint, SshPublicKey

S = TypeVar("S", bound=msgspec.Struct)

#: What a search may name.
SEARCHED: Fields = {
    "name": Texts(hosts.c.name),
    "address": Texts(hosts.c.address),
    "status": Texts(hosts.c.status),
    "comment": Texts(hosts.c.comment),
    "description": Texts(hosts.c.description),
    "id": Guids(hosts.c.id),
    "cluster": Texts(
        select(clusters.c.name).where(clusters.c.id == hosts.c.cluster_id).scalar_subquery()
    ),
    "type": Texts(literal("rhel")),
    "version": Texts(hosts.c.agent_version),
    "hwuuid": Texts(hosts.c.capabilities["uuid"].as_string()),
    "memory": Numbers(hosts.c.capabilities["memSize"].as_integer()),
    "cpu_cores": Numbers(hosts.c.capabilities["cpuCores"].as_integer()),
}


def insert_host(connection: Connection, host: Host, created: datetime.datetime) -> None:
    """Add a host and its pins.

    Raises:
        sqlalchemy.exc.IntegrityError: its name, its address or a pin is another host's.
    """
    connection.execute(insert(hosts).values(id=host.id, created=created, **_values(host)))
    replace_pins(connection, host.id, host.pins, created)


def update_host(connection: Connection, host: Host) -> None:
    """Write a host as it is to be; its pins are apart, in `replace_pins`.

    Raises:
        sqlalchemy.exc.IntegrityError: its name or its address is another host's.
    """
    connection.execute(update(hosts).where(hosts.c.id == host.id).values(**_values(host)))


def replace_pins(
    connection: Connection, host_id: uuid.UUID, pins: Iterable[Pin], added: datetime.datetime
) -> None:
    """Trust these keys of a host, and no others.

    Raises:
        sqlalchemy.exc.IntegrityError: a pin is another host's.
    """
    connection.execute(delete(host_pins).where(host_pins.c.host_id == host_id))
    rows = [{"pin": str(pin), "host_id": host_id, "added": added} for pin in pins]
    if rows:
        connection.execute(insert(host_pins), rows)


def delete_host(connection: Connection, host_id: uuid.UUID) -> None:
    """Remove a host together with its pins and what waits for a decision about its keys."""
    connection.execute(delete(key_changes).where(key_changes.c.host_id == host_id))
    connection.execute(delete(host_pins).where(host_pins.c.host_id == host_id))
    connection.execute(delete(hosts).where(hosts.c.id == host_id))


def all_hosts(connection: Connection) -> list[Host]:
    """Give every host, by name."""
    pins: dict[uuid.UUID, list[Pin]] = defaultdict(list)
    for host_id, pin in connection.execute(
        select(host_pins.c.host_id, host_pins.c.pin).order_by(host_pins.c.pin)
    ):
        pins[host_id].append(Pin.parse(pin))
    rows = connection.execute(select(hosts).order_by(hosts.c.name))
    return [_host(row, pins.get(row.id, ())) for row in rows]


def find_ids(connection: Connection, search: Search, limit: int) -> list[uuid.UUID]:
    """Give the ids of the hosts that a search finds, in its order, else by name.

    Raises:
        InvalidSearch: a value does not fit its field.
    """
    statement = apply(
        select(hosts.c.id), search, SEARCHED, connection, otherwise=hosts.c.name, limit=limit
    )
    return list(connection.execute(statement).scalars())


def hosts_by_ids(connection: Connection, ids: Sequence[uuid.UUID]) -> list[Host]:
    """Give these hosts, in this order; those that are gone are left out."""
    pins: dict[uuid.UUID, list[Pin]] = defaultdict(list)
    for host_id, pin in connection.execute(
        select(host_pins.c.host_id, host_pins.c.pin)
        .where(host_pins.c.host_id.in_(ids))
        .order_by(host_pins.c.pin)
    ):
        pins[host_id].append(Pin.parse(pin))
    rows = connection.execute(select(hosts).where(hosts.c.id.in_(ids)))
    found = {row.id: _host(row, pins.get(row.id, ())) for row in rows}
    return [found[host_id] for host_id in ids if host_id in found]


def count_hosts(connection: Connection) -> tuple[int, int]:
    """Tell how many hosts are `up`, and how many there are."""
    is_up = case((hosts.c.status == HostStatus.UP.value, 1), else_=0)
    row = connection.execute(select(func.coalesce(func.sum(is_up), 0), func.count(hosts.c.id)))
    active, total = row.one()
    return int(active), int(total)


def count_pending(connection: Connection) -> int:
    """Tell how many hosts wait for approval."""
    is_pending = hosts.c.status == HostStatus.PENDING_APPROVAL.value
    return connection.execute(select(func.count(hosts.c.id)).where(is_pending)).scalar_one()


def host_by_id(
    connection: Connection, host_id: uuid.UUID, *, for_update: bool = False
) -> Host | None:
    """Give a host, or None.

    Args:
        connection: the transaction.
        host_id: which one.
        for_update: keep others from changing it until the transaction ends.
    """
    statement = select(hosts).where(hosts.c.id == host_id)
    if for_update:
        statement = statement.with_for_update()
    row = connection.execute(statement).first()
    if row is None:
        return None
    pins = connection.execute(
        select(host_pins.c.pin).where(host_pins.c.host_id == host_id).order_by(host_pins.c.pin)
    ).scalars()
    return _host(row, map(Pin.parse, pins))


def host_id_of(
    connection: Connection, *, name: str | None = None, address: str | None = None
) -> uuid.UUID | None:
    """Tell which host has that name, or that address."""
    condition = hosts.c.name == name if name is not None else hosts.c.address == address
    return connection.execute(select(hosts.c.id).where(condition)).scalar()


def host_name_of_pin(connection: Connection, pin: Pin) -> tuple[uuid.UUID, str] | None:
    """Tell which host has that key."""
    statement = select(hosts.c.id, hosts.c.name).join(host_pins)
    row = connection.execute(statement.where(host_pins.c.pin == str(pin))).first()
    return (row.id, row.name) if row else None


def _values(host: Host) -> Mapping[str, object]:
    ssh = host.ssh
    return {
        "name": host.name,
        "address": host.address,
        "cluster_id": host.cluster_id,
        "status": host.status.value,
        "status_detail": host.status_detail,
        "port": host.port,
        "comment": host.comment,
        "description": host.description,
        "ssh_port": ssh.port,
        "ssh_user": ssh.user,
        "ssh_fingerprint": str(ssh.fingerprint) if ssh.fingerprint else None,
        "ssh_public_key": str(ssh.public_key) if ssh.public_key else None,
        "ssh_key_source": ssh.key_source.value if ssh.key_source else None,
        "ssh_proved_keys": [str(key) for key in ssh.proved_keys],
        "mechanism": host.mechanism,
        "capabilities": msgspec.to_builtins(host.capabilities),
        "hardware": msgspec.to_builtins(host.hardware),
        "agent_version": host.agent_version,
        "reinstallation_required": host.reinstallation_required,
        "update_available": host.update_available,
    }


def _host(row: Row[Any], pins: Iterable[Pin]) -> Host:
    fingerprint, public_key, source = row.ssh_fingerprint, row.ssh_public_key, row.ssh_key_source
    return Host(
        id=row.id,
        name=row.name,
        address=row.address,
        cluster_id=row.cluster_id,
        status=HostStatus(row.status),
        port=row.port,
        comment=row.comment,
        description=row.description,
        status_detail=row.status_detail,
        ssh=HostSsh(
            port=row.ssh_port,
            user=row.ssh_user,
            fingerprint=SshFingerprint.parse(fingerprint) if fingerprint else None,
            public_key=SshPublicKey.parse(public_key) if public_key else None,
            key_source=HostKeySource(source) if source else None,
            proved_keys=tuple(map(SshPublicKey.parse, row.ssh_proved_keys)),
        ),
        pins=tuple(pins),
        mechanism=row.mechanism,
        capabilities=_reported(row.capabilities, Capabilities),
        hardware=_reported(row.hardware, HardwareInfo),
        agent_version=row.agent_version,
        reinstallation_required=row.reinstallation_required,
        update_available=row.update_available,
    )


def _reported(value: object, struct: type[S]) -> S | None:
    """Read what an agent reported; None where an older engine stored another form of it."""
    if value is None:
        return None
    try:
        return msgspec.convert(value, struct)
    except msgspec.ValidationError:
        return None  # the agent reports again on its next connection
