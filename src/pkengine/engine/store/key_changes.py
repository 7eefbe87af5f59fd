"""Queries about SSH host keys that wait for a decision."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from pkengine.engine.model import KeyChange
from pkengine.engine.store.schema import hosts, key_changes
from pkengine.keys import SshFingerprint, SshPublicKey


def replace_key_change(connection: Connection, change: KeyChange) -> None:
    """Write the one pending change of a host, in place of any before."""
    delete_key_change(connection, change.host_id)
    connection.execute(
        insert(key_changes).values(
            host_id=change.host_id,
            seen_at=change.seen_at,
            old_fingerprint=str(change.old_fingerprint),
            old_key=str(change.old_key) if change.old_key else None,
            new_keys=[str(key) for key in change.new_keys],
            operation=change.operation,
            user_name=change.user,
            first_seen=change.first_seen,
            last_seen=change.last_seen,
            times_seen=change.times_seen,
        )
    )


def delete_key_change(connection: Connection, host_id: uuid.UUID) -> bool:
    """Forget the pending change of a host; tell whether there was one."""
    result = connection.execute(delete(key_changes).where(key_changes.c.host_id == host_id))
    return bool(result.rowcount)


def key_change_of(connection: Connection, host_id: uuid.UUID) -> KeyChange | None:
    """Give the pending change of a host, or None."""
    row = connection.execute(_SELECT.where(key_changes.c.host_id == host_id)).first()
    return _key_change(row) if row else None


def all_key_changes(connection: Connection) -> list[KeyChange]:
    """Give every pending change, by the name of the host."""
    return [_key_change(row) for row in connection.execute(_SELECT.order_by(hosts.c.name))]


_SELECT = select(key_changes, hosts.c.name).join(hosts)


def _key_change(row: Row[Any]) -> KeyChange:
    return KeyChange(
        host_id=row.host_id,
        host_name=row.name,
        seen_at=row.seen_at,
        old_fingerprint=SshFingerprint.parse(row.old_fingerprint),
        old_key=SshPublicKey.parse(row.old_key) if row.old_key else None,
        new_keys=tuple(map(SshPublicKey.parse, row.new_keys)),
        operation=row.operation,
        user=row.user_name,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        times_seen=row.times_seen,
    )
