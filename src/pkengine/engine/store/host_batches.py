"""Queries about lists of hosts that are added together; no password is ever in one."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from pkengine.engine.model import (
    BatchRow,
    BatchStage,
    HostBatch,
    HostConnection,
    JumpHost,
    JumpLogin,
    NewHost,
    RowJudgement,
    RowOutcome,
    SshLogin,
    WayChoice,
)
from pkengine.engine.store.schema import batch_rows, host_batches
from pkengine.keys import SshFingerprint, SshPublicKey

#: So many lists are kept; the oldest that has ended makes room for a new one.
MOST_KEPT = 100


def insert_batch(connection: Connection, batch: HostBatch, rows: Sequence[BatchRow]) -> None:
    """Add a list, and forget lists that ended long ago."""
    kept = select(host_batches.c.id).order_by(host_batches.c.created.desc()).limit(MOST_KEPT - 1)
    connection.execute(
        delete(host_batches).where(
            host_batches.c.id.not_in(kept),
            host_batches.c.stage.in_((BatchStage.ENDED.value, BatchStage.REVIEWED.value)),
        )
    )
    connection.execute(
        insert(host_batches).values(
            id=batch.id,
            stage=batch.stage.value,
            created=batch.created,
            user_name=batch.user,
            job_id=batch.job_id,
        )
    )
    connection.execute(
        insert(batch_rows),
        [{"batch_id": batch.id, "number": row.number, **_values(row)} for row in rows],
    )


def set_stage(
    connection: Connection, batch_id: uuid.UUID, stage: BatchStage, job_id: uuid.UUID | None = None
) -> None:
    """Say how far a list is and, where that begins, which job is at work on it."""
    values: dict[str, Any] = {"stage": stage.value}
    if job_id is not None:
        values["job_id"] = job_id
    connection.execute(update(host_batches).where(host_batches.c.id == batch_id).values(values))


def update_row(connection: Connection, batch_id: uuid.UUID, row: BatchRow) -> None:
    """Write a row as it is now."""
    connection.execute(
        update(batch_rows)
        .where(batch_rows.c.batch_id == batch_id, batch_rows.c.number == row.number)
        .values(_values(row))
    )


def delete_batch(connection: Connection, batch_id: uuid.UUID) -> None:
    """Forget a list; the hosts that were added stay."""
    connection.execute(delete(host_batches).where(host_batches.c.id == batch_id))


def batches(
    connection: Connection,
    *,
    batch_id: uuid.UUID | None = None,
    stages: Collection[BatchStage] = (),
) -> list[HostBatch]:
    """Give lists, the newest first: all, one, or those at some stages."""
    statement = select(host_batches).order_by(host_batches.c.created.desc(), host_batches.c.id)
    counts = select(
        batch_rows.c.batch_id, batch_rows.c.judgement, batch_rows.c.outcome, func.count()
    ).group_by(batch_rows.c.batch_id, batch_rows.c.judgement, batch_rows.c.outcome)
    if batch_id is not None:
        statement = statement.where(host_batches.c.id == batch_id)
        counts = counts.where(batch_rows.c.batch_id == batch_id)
    if stages:
        statement = statement.where(host_batches.c.stage.in_([stage.value for stage in stages]))
    found = connection.execute(statement).all()
    judgements: dict[uuid.UUID, dict[RowJudgement, int]] = {row.id: {} for row in found}
    outcomes: dict[uuid.UUID, dict[RowOutcome, int]] = {row.id: {} for row in found}
    for owner, judgement, outcome, count in connection.execute(counts):
        if owner not in outcomes:
            continue
        of_outcome = RowOutcome(outcome)
        outcomes[owner][of_outcome] = outcomes[owner].get(of_outcome, 0) + count
        if judgement:
            judged = RowJudgement(judgement)
            judgements[owner][judged] = judgements[owner].get(judged, 0) + count
    return [
        HostBatch(
            id=row.id,
            stage=BatchStage(row.stage),
            created=row.created,
            user=row.user_name,
            job_id=row.job_id,
            size=sum(outcomes[row.id].values()),
            judgements=judgements[row.id],
            outcomes=outcomes[row.id],
        )
        for row in found
    ]


def rows_of(connection: Connection, batch_id: uuid.UUID) -> list[BatchRow]:
    """Give the rows of a list, in their order."""
    statement = (
        select(batch_rows).where(batch_rows.c.batch_id == batch_id).order_by(batch_rows.c.number)
    )
    return [_row(row) for row in connection.execute(statement)]


def _values(row: BatchRow) -> dict[str, Any]:
    return {
        "name": row.wanted.name,
        "address": row.wanted.address,
        "wanted": _wanted(row.wanted),
        "judgement": row.judgement.value if row.judgement else "",
        "found": {
            "expected": str(row.expected) if row.expected else None,
            "keys": [str(key) for key in row.found],
        },
        "outcome": row.outcome.value,
        "detail": row.detail,
        "host_id": row.host_id,
    }


def _row(row: Row[Any]) -> BatchRow:
    expected = row.found["expected"]
    return BatchRow(
        number=row.number,
        wanted=_new_host(row.name, row.address, row.wanted),
        judgement=RowJudgement(row.judgement) if row.judgement else None,
        expected=SshFingerprint.parse(expected) if expected else None,
        found=tuple(map(SshPublicKey.parse, row.found["keys"])),
        outcome=RowOutcome(row.outcome),
        detail=row.detail,
        host_id=row.host_id,
    )


def _wanted(new: NewHost) -> dict[str, Any]:
    return {
        "port": new.port,
        "comment": new.comment,
        "description": new.description,
        "cluster_id": str(new.cluster_id) if new.cluster_id else None,
        "require_direct": new.require_direct,
        "connection": new.way.connection.value if new.way.connection else None,
        "mechanism": new.way.mechanism,
        "ssh": {"port": new.ssh.port, "user": new.ssh.user, **_key(new.ssh)},
        "jumps": None
        if new.ssh.jumps is None
        else [
            {
                "address": jump.host.address,
                "port": jump.host.port,
                "user": jump.host.user,
                **_key(jump),
            }
            for jump in new.ssh.jumps
        ],
    }


def _new_host(name: str, address: str, wanted: dict[str, Any]) -> NewHost:
    ssh, jumps, connection = wanted["ssh"], wanted["jumps"], wanted["connection"]
    return NewHost(
        name=name,
        address=address,
        port=wanted["port"],
        comment=wanted["comment"],
        description=wanted["description"],
        cluster_id=uuid.UUID(wanted["cluster_id"]) if wanted["cluster_id"] else None,
        require_direct=wanted["require_direct"],
        way=WayChoice(
            connection=HostConnection(connection) if connection else None,
            mechanism=wanted["mechanism"],
        ),
        ssh=SshLogin(
            port=ssh["port"],
            user=ssh["user"],
            fingerprint=_fingerprint(ssh),
            public_key=_public_key(ssh),
            jumps=None
            if jumps is None
            else tuple(
                JumpLogin(
                    host=JumpHost(jump["address"], jump["port"], jump["user"]),
                    fingerprint=_fingerprint(jump),
                    public_key=_public_key(jump),
                )
                for jump in jumps
            ),
        ),
    )


def _key(login: SshLogin | JumpLogin) -> dict[str, str | None]:
    return {
        "fingerprint": str(login.fingerprint) if login.fingerprint else None,
        "public_key": str(login.public_key) if login.public_key else None,
    }


def _fingerprint(ssh: dict[str, Any]) -> SshFingerprint | None:
    return SshFingerprint.parse(ssh["fingerprint"]) if ssh["fingerprint"] else None


def _public_key(ssh: dict[str, Any]) -> SshPublicKey | None:
    return SshPublicKey.parse(ssh["public_key"]) if ssh["public_key"] else None
