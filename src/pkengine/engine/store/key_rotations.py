"""Queries about the rotation of the engine's SSH key."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, or_, select

from pkengine.engine.model import HostKeyRotation, HostStatus, KeyRotationStatus
from pkengine.engine.store.schema import hosts, key_rotations
from pkengine.keys import SshFingerprint


def rotations(connection: Connection, fingerprint: SshFingerprint) -> list[HostKeyRotation]:
    """Tell of each host that was ever entered how far it is, by name.

    One that joined by a code has no SSH key here: the engine's was never brought there.

    Args:
        connection: to the database.
        fingerprint: that of the key which the hosts are to get.
    """
    of_key = and_(
        key_rotations.c.host_id == hosts.c.id, key_rotations.c.fingerprint == str(fingerprint)
    )
    statement = (
        select(
            hosts.c.id,
            hosts.c.name,
            key_rotations.c.status,
            key_rotations.c.detail,
            key_rotations.c.tried,
        )
        .outerjoin(key_rotations, of_key)
        .where(hosts.c.status != HostStatus.PENDING_APPROVAL.value)
        .where(or_(hosts.c.ssh_public_key.is_not(None), hosts.c.ssh_fingerprint.is_not(None)))
        .order_by(hosts.c.name)
    )
    return [_rotation(row) for row in connection.execute(statement)]


def replace_rotation(
    connection: Connection, fingerprint: SshFingerprint, rotation: HostKeyRotation
) -> None:
    """Write how far a host is, in place of what was known before."""
    connection.execute(
        delete(key_rotations).where(
            key_rotations.c.host_id == rotation.host_id,
            key_rotations.c.fingerprint == str(fingerprint),
        )
    )
    connection.execute(
        insert(key_rotations).values(
            fingerprint=str(fingerprint),
            host_id=rotation.host_id,
            status=rotation.status.value,
            detail=rotation.detail,
            tried=rotation.tried,
        )
    )


def forget_rotation(connection: Connection, fingerprint: SshFingerprint) -> None:
    """Forget how far the hosts are: it is over."""
    connection.execute(
        delete(key_rotations).where(key_rotations.c.fingerprint == str(fingerprint))
    )


def _rotation(row: Any) -> HostKeyRotation:
    host_id: uuid.UUID = row.id
    if row.status is None:
        return HostKeyRotation(host_id=host_id, host_name=row.name)
    return HostKeyRotation(
        host_id=host_id,
        host_name=row.name,
        status=KeyRotationStatus(row.status),
        detail=row.detail,
        tried=row.tried,
    )
