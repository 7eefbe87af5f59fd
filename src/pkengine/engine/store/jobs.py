"""Queries about jobs and their steps."""

from __future__ import annotations

import datetime
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from pkengine.engine.model import Job, Step, StepStatus
from pkengine.engine.store.schema import jobs, steps


def insert_job(connection: Connection, job: Job) -> None:
    """Add a job with the steps that it has."""
    connection.execute(
        insert(jobs).values(
            id=job.id,
            description=job.description,
            status=job.status.value,
            started=job.started,
            ended=job.ended,
            host_id=job.host_id,
            correlation_id=job.correlation_id,
        )
    )
    _insert_steps(connection, job, range(len(job.steps)))


def update_job(connection: Connection, job: Job, places: Collection[int]) -> None:
    """Write a job as it is now, and of its steps those at these places."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job.id)
        .values(status=job.status.value, ended=job.ended, description=job.description)
    )
    if places:
        connection.execute(
            delete(steps).where(steps.c.job_id == job.id, steps.c.position == bindparam("place")),
            [{"place": place} for place in places],
        )
    _insert_steps(connection, job, places)


def abort_unfinished(connection: Connection, ended: datetime.datetime) -> None:
    """End the jobs that an engine left behind when it was interrupted."""
    values = {"status": StepStatus.ABORTED.value, "ended": ended}
    for table in (steps, jobs):
        connection.execute(
            update(table).where(table.c.status == StepStatus.STARTED.value).values(values)
        )


def delete_ended_jobs(connection: Connection, before: datetime.datetime, limit: int) -> int:
    """Remove jobs that ended before a moment, no more than `limit`; tell how many."""
    ids = (
        connection.execute(
            select(jobs.c.id)
            .where(jobs.c.started < before, jobs.c.ended < before)
            .order_by(jobs.c.started)
            .limit(limit)
        )
        .scalars()
        .all()
    )
    if ids:
        connection.execute(delete(steps).where(steps.c.job_id.in_(ids)))
        connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    return len(ids)


def job_by_id(connection: Connection, job_id: uuid.UUID) -> Job | None:
    """Give a job with its steps, or None."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        return None
    found = connection.execute(
        select(steps).where(steps.c.job_id == job_id).order_by(steps.c.position)
    )
    return _job(row, tuple(_step(step) for step in found))


def latest_jobs(
    connection: Connection, *, limit: int = 100, host_id: uuid.UUID | None = None
) -> list[Job]:
    """Give jobs with their steps, the newest first."""
    statement = select(jobs).order_by(jobs.c.started.desc(), jobs.c.id).limit(limit)
    if host_id is not None:
        statement = statement.where(jobs.c.host_id == host_id)
    rows = connection.execute(statement).all()
    found: dict[uuid.UUID, list[Step]] = defaultdict(list)
    for step in connection.execute(
        select(steps).where(steps.c.job_id.in_([row.id for row in rows])).order_by("position")
    ):
        found[step.job_id].append(_step(step))
    return [_job(row, tuple(found.get(row.id, ()))) for row in rows]


def _insert_steps(connection: Connection, job: Job, places: Iterable[int]) -> None:
    rows = [
        {
            "job_id": job.id,
            "position": position,
            "name": step.name,
            "description": step.description,
            "status": step.status.value,
            "progress": step.progress,
            "started": step.started,
            "ended": step.ended,
        }
        for position, step in ((place, job.steps[place]) for place in places)
    ]
    if rows:
        connection.execute(insert(steps), rows)


def _job(row: Row[Any], found: tuple[Step, ...]) -> Job:
    return Job(
        id=row.id,
        description=row.description,
        status=StepStatus(row.status),
        started=row.started,
        ended=row.ended,
        host_id=row.host_id,
        correlation_id=row.correlation_id,
        steps=found,
    )


def _step(row: Row[Any]) -> Step:
    return Step(
        name=row.name,
        description=row.description,
        status=StepStatus(row.status),
        progress=row.progress,
        started=row.started,
        ended=row.ended,
    )
