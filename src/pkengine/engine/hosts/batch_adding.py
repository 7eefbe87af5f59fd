"""The hosts of a list are added, a few at a time, each as if it were added alone."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from pkengine.engine.hosts.batch_request import BatchStart
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import Jobs, RunningJob
from pkengine.engine.model import (
    BatchRow,
    BatchStage,
    Job,
    Origin,
    RowJudgement,
    RowOutcome,
    SshLogin,
    StepStatus,
)
from pkengine.engine.pool import in_pool
from pkengine.engine.store import Store
from pkengine.engine.store import host_batches as queries
from pkengine.errors import PkengineError

#: How long an installation is waited for before the next host's turn comes.
_LONGEST_INSTALLATION_S = 1800.0


class BatchAdding:
    """Adds what was confirmed.

    Args:
        hosts: where they go.
        store: the lists on disk.
        jobs: tell when an installation has ended.
    """

    _log = Logger()

    def __init__(self, hosts: Hosts, store: Store, jobs: Jobs) -> None:
        self._hosts = hosts
        self._store = store
        self._jobs = jobs

    async def run(
        self,
        batch_id: uuid.UUID,
        rows: Sequence[BatchRow],
        start: BatchStart,
        job: RunningJob,
        origin: Origin,
    ) -> StepStatus:
        """Add these hosts, as many at a time as `start` says, under a job."""
        failures = 0

        async def add(row: BatchRow) -> None:
            nonlocal failures
            step = (str(row.number), f"Host {row.wanted.name}")
            job.step(*step, StepStatus.STARTED)
            added = await self._add_one(batch_id, row, start, origin)
            is_failed = added.outcome is RowOutcome.FAILED
            failures += is_failed
            await self._store.write(queries.update_row, batch_id, added)
            job.step(*step, StepStatus.FAILED if is_failed else StepStatus.FINISHED)

        await in_pool(start.parallel, add, rows)
        await self._store.write(queries.set_stage, batch_id, BatchStage.ENDED)
        return StepStatus.FAILED if failures else StepStatus.FINISHED

    async def _add_one(
        self, batch_id: uuid.UUID, row: BatchRow, start: BatchStart, origin: Origin
    ) -> BatchRow:
        row = replace(row, outcome=RowOutcome.ADDING, detail="")
        await self._store.write(queries.update_row, batch_id, row)
        try:
            host_id, job = await self._begin_one(row, start, origin)
            row = replace(row, host_id=host_id)
            await self._store.write(queries.update_row, batch_id, row)
            job = await self._jobs.ended(job.id, _LONGEST_INSTALLATION_S)
            if job.status is StepStatus.FINISHED:
                return replace(row, outcome=RowOutcome.ADDED)
            host = await self._hosts.get(host_id)
            detail = host.status_detail or f"Its status is {host.status.value}."
        except PkengineError as error:
            detail = str(error)
        except CancelledError:
            raise
        except Exception as error:
            self._log.failure("Adding {host} failed", host=row.wanted.name)
            detail = f"The engine failed: {type(error).__name__}; see its log."
        return replace(row, outcome=RowOutcome.FAILED, detail=detail)

    async def _begin_one(
        self, row: BatchRow, start: BatchStart, origin: Origin
    ) -> tuple[uuid.UUID, Job]:
        login = _login(row, start.login)
        if row.host_id is not None:
            job = await self._hosts.admission.install(
                row.host_id, login, origin, way=row.wanted.way, activate=start.activate
            )
            return row.host_id, job
        new = replace(row.wanted, ssh=login, activate=start.activate)
        host, job = await self._hosts.admission.add(new, origin)
        return host.id, job


def _login(row: BatchRow, common: SshLogin) -> SshLogin:
    """Give how to log in to a host: by what its row says, and for the rest by the request."""
    own = row.wanted.ssh
    fingerprint, public_key = own.fingerprint, own.public_key
    if row.judgement is RowJudgement.FIRST_USE:
        # What was shown and confirmed is what is trusted, whoever answers now.
        fingerprint, public_key = row.found[0].fingerprint(), None
    return replace(
        common,
        port=own.port or common.port,
        user=own.user or common.user,
        fingerprint=fingerprint,
        public_key=public_key,
        jumps=own.jumps if own.jumps is not None else common.jumps,
    )
