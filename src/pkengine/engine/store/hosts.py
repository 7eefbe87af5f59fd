"""Queries about hosts and the keys of their agents."""

from __future__ import annotations

import datetime
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from pkengine.auth.peer import PeerKey, parse_peer_key
from pkengine.channel.verbs import Capabilities, HardwareInfo
from pkengine.engine.model import (
    Host,
    HostConnection,
    HostKey,
    HostKeySource,
    HostSsh,
    HostStatus,
    JumpHost,
    KeySource,
    NextWay,
)
from pkengine.engine.search import Search
from pkengine.engine.store.schema import clusters, host_keys, hosts, key_changes
from pkengine.engine.store.search import Fields, Guids, Numbers, Texts, apply
from pkengine.keys import SshFingerprint, SshPublicKey

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
    "connection": Texts(hosts.c.connection),
    "mechanism": Texts(hosts.c.mechanism),
    "type": Texts(literal("rhel")),
    "version": Texts(hosts.c.agent_version),
    "hwuuid": Texts(hosts.c.capabilities["uuid"].as_string()),
    "memory": Numbers(hosts.c.capabilities["memSize"].as_integer()),
    "cpu_cores": Numbers(hosts.c.capabilities["cpuCores"].as_integer()),
}


def insert_host(connection: Connection, host: Host, created: datetime.datetime) -> None:
    """Add a host and its keys.

    Raises:
        sqlalchemy.exc.IntegrityError: its name, its address or a key is another host's.
    """
    connection.execute(insert(hosts).values(id=host.id, created=created, **_values(host)))
    replace_keys(connection, host.id, host.keys)


def update_host(connection: Connection, host: Host) -> None:
    """Write a host as it is to be; its keys are apart, in `replace_keys`.

    Raises:
        sqlalchemy.exc.IntegrityError: its name or its address is another host's.
    """
    connection.execute(update(hosts).where(hosts.c.id == host.id).values(**_values(host)))


def replace_keys(connection: Connection, host_id: uuid.UUID, keys: Iterable[HostKey]) -> None:
    """Trust these keys of a host, and no others.

    Raises:
        sqlalchemy.exc.IntegrityError: a key is another host's.
    """
    connection.execute(delete(host_keys).where(host_keys.c.host_id == host_id))
    rows = [
        {
            "key": str(key.key),
            "mechanism": key.mechanism,
            "host_id": host_id,
            "source": key.source.value,
            "added": key.added,
            "sealed": key.sealed,
        }
        for key in keys
    ]
    if rows:
        connection.execute(insert(host_keys), rows)


def has_sealed(connection: Connection) -> bool:
    """Tell whether a host has a key with a sealed secret."""
    sealed = select(host_keys.c.key).where(host_keys.c.sealed.is_not(None)).limit(1)
    return connection.execute(sealed).first() is not None


def delete_host(connection: Connection, host_id: uuid.UUID) -> None:
    """Remove a host together with its keys and what waits for a decision about its keys."""
    connection.execute(delete(key_changes).where(key_changes.c.host_id == host_id))
    connection.execute(delete(host_keys).where(host_keys.c.host_id == host_id))
    connection.execute(delete(hosts).where(hosts.c.id == host_id))


def all_hosts(connection: Connection) -> list[Host]:
    """Give every host, by name."""
    keys = _keys(connection)
    rows = connection.execute(select(hosts).order_by(hosts.c.name))
    return [_host(row, keys.get(row.id, ())) for row in rows]


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
    keys = _keys(connection, host_keys.c.host_id.in_(ids))
    rows = connection.execute(select(hosts).where(hosts.c.id.in_(ids)))
    found = {row.id: _host(row, keys.get(row.id, ())) for row in rows}
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
    return _host(row, _keys(connection, host_keys.c.host_id == host_id).get(host_id, ()))


def host_id_of(
    connection: Connection, *, name: str | None = None, address: str | None = None
) -> uuid.UUID | None:
    """Tell which host has that name, or that address."""
    condition = hosts.c.name == name if name is not None else hosts.c.address == address
    return connection.execute(select(hosts.c.id).where(condition)).scalar()


def host_of_key(connection: Connection, key: PeerKey) -> tuple[uuid.UUID, str] | None:
    """Tell which host has that key, by its id and its name."""
    statement = select(hosts.c.id, hosts.c.name).join(host_keys)
    row = connection.execute(statement.where(host_keys.c.key == str(key))).first()
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
        "ssh_jumps": [[jump.address, jump.port, jump.user] for jump in ssh.jumps],
        "connection": host.connection.value,
        "mechanism": host.mechanism,
        "next_connection": host.next_way.connection.value if host.next_way else None,
        "next_mechanism": host.next_way.mechanism if host.next_way else None,
        "next_key": str(host.next_way.key) if host.next_way else None,
        "capabilities": msgspec.to_builtins(host.capabilities),
        "hardware": msgspec.to_builtins(host.hardware),
        "agent_version": host.agent_version,
        "reinstallation_required": host.reinstallation_required,
        "update_available": host.update_available,
        "require_direct": host.require_direct,
        "tls_path": host.tls_path,
    }


def _keys(
    connection: Connection, *conditions: ColumnElement[bool]
) -> Mapping[uuid.UUID, list[HostKey]]:
    """Give the keys of hosts, those of each in the order in which they came."""
    statement = select(host_keys).where(*conditions)
    found: dict[uuid.UUID, list[HostKey]] = defaultdict(list)
    for row in connection.execute(
        statement.order_by(host_keys.c.added, host_keys.c.key, host_keys.c.mechanism)
    ):
        found[row.host_id].append(
            HostKey(
                key=parse_peer_key(row.key),
                mechanism=row.mechanism,
                source=KeySource(row.source),
                added=row.added,
                sealed=row.sealed,
            )
        )
    return found


def _host(row: Row[Any], keys: Iterable[HostKey]) -> Host:
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
            jumps=tuple(JumpHost(*jump) for jump in row.ssh_jumps),
        ),
        connection=HostConnection(row.connection),
        mechanism=row.mechanism,
        keys=tuple(keys),
        next_way=_next_way(row),
        capabilities=_reported(row.capabilities, Capabilities),
        hardware=_reported(row.hardware, HardwareInfo),
        agent_version=row.agent_version,
        reinstallation_required=row.reinstallation_required,
        update_available=row.update_available,
        require_direct=row.require_direct,
        tls_path=row.tls_path,
    )


def _next_way(row: Row[Any]) -> NextWay | None:
    if row.next_connection is None:
        return None
    return NextWay(
        connection=HostConnection(row.next_connection),
        mechanism=row.next_mechanism,
        key=parse_peer_key(row.next_key),
    )


def _reported(value: object, struct: type[S]) -> S | None:
    """Read what an agent reported; None where an older engine stored another form of it."""
    if value is None:
        return None
    try:
        return msgspec.convert(value, struct)
    except msgspec.ValidationError:
        return None  # the agent reports again on its next connection
