"""Queries about SSH keys that are known beside those of the hosts."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select

from pkengine.engine.model import HostKeySource, KnownKey
from pkengine.engine.store.schema import known_keys
from pkengine.keys import SshPublicKey
from pkengine.ssh.known_hosts import KnownHost


def insert_known_keys(connection: Connection, keys: Iterable[KnownKey]) -> None:
    """Add lines behind those that are there."""
    last = connection.execute(select(func.max(known_keys.c.position))).scalar() or 0
    rows = [
        {
            "id": known.id,
            "position": position,
            "marker": known.line.marker,
            "names": ",".join(known.line.names),
            "public_key": str(known.line.key),
            "comment": known.line.comment,
            "source": known.source.value,
            "user_name": known.user,
            "added": known.added,
        }
        for position, known in enumerate(keys, last + 1)
    ]
    if rows:
        connection.execute(insert(known_keys), rows)


def delete_known_key(connection: Connection, key_id: uuid.UUID) -> None:
    """Forget a line."""
    connection.execute(delete(known_keys).where(known_keys.c.id == key_id))


def known_key_by_id(connection: Connection, key_id: uuid.UUID) -> KnownKey | None:
    """Give a line, or None."""
    row = connection.execute(select(known_keys).where(known_keys.c.id == key_id)).first()
    return _known_key(row) if row else None


def all_known_keys(connection: Connection) -> list[KnownKey]:
    """Give every line, in the order in which they came."""
    return [_known_key(row) for row in connection.execute(_IN_ORDER)]


def known_keys_about(connection: Connection, address: str) -> list[KnownKey]:
    """Give the lines that may be for an address; whether they are, their names tell.

    Lines of other addresses, of which there may be thousands, are not even read.
    """
    names = known_keys.c.names
    patterns = (names.contains(special, autoescape=True) for special in ("|", "*", "?"))
    may_be = or_(func.lower(names).contains(address.lower(), autoescape=True), *patterns)
    return [_known_key(row) for row in connection.execute(_IN_ORDER.where(may_be))]


_IN_ORDER = select(known_keys).order_by(known_keys.c.position)


def _known_key(row: Row[Any]) -> KnownKey:
    return KnownKey(
        id=row.id,
        line=KnownHost(
            tuple(row.names.split(",")),
            SshPublicKey.parse(row.public_key),
            row.marker,
            row.comment,
        ),
        source=HostKeySource(row.source),
        user=row.user_name,
        added=row.added,
    )
