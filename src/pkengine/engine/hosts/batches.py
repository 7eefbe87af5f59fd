"""Many hosts at once: review the SSH keys of all, then add those that were confirmed.

Theory of operation.  A list of hosts goes through the stages of `BatchStage`.  Its review does no
more with the hosts than to exchange keys; it is taken up when the engine starts again.  Adding
goes on a few hosts at a time, each as if it were added alone.  It needs a password, or the
engine's own key: as no password is stored, an engine that starts again cannot go on by itself, so
the list is `interrupted`, and whoever starts it anew gives the password again.  What is there is
not done twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.engine.clock import utc_now
from pkengine.engine.clusters import Clusters
from pkengine.engine.hosts import request
from pkengine.engine.hosts.batch_adding import BatchAdding
from pkengine.engine.hosts.batch_request import BatchStart, checked_rows, chosen
from pkengine.engine.hosts.batch_review import BatchReview
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import Jobs, RunningJob
from pkengine.engine.model import (
    BatchRow,
    BatchStage,
    HostBatch,
    Job,
    NewHost,
    Origin,
    RowOutcome,
    StepStatus,
)
from pkengine.engine.store import Store
from pkengine.engine.store import host_batches as queries
from pkengine.engine.tasks import Tasks
from pkengine.errors import Conflict, NotFound

_INTERRUPTED = "It was interrupted because the engine stopped; start the list again."

_Work: TypeAlias = Coroutine[Deferred[Any], Any, StepStatus]


class HostBatches:
    """Keeps lists of hosts, and adds what is in them.

    Args:
        hosts, clusters: where they go.
        store, jobs: what is on disk.
        clock: what time it is.
    """

    _log = Logger()

    def __init__(
        self, *, hosts: Hosts, clusters: Clusters, store: Store, jobs: Jobs, clock: IReactorTime
    ) -> None:
        self._hosts = hosts
        self._clusters = clusters
        self._store = store
        self._jobs = jobs
        self._clock = clock
        self._review = BatchReview(hosts, store, clock)
        self._adding = BatchAdding(hosts, store, jobs)
        self._tasks = Tasks()
        self._busy: set[uuid.UUID] = set()

    # Start and stop.

    async def start(self) -> None:
        """Take up what the engine left when it stopped."""
        stages = (BatchStage.REVIEWING, BatchStage.ADDING)
        for batch in await self._store.read(queries.batches, stages=stages):
            if batch.stage is BatchStage.REVIEWING:
                self._busy.add(batch.id)
                await self._begin_review(batch, Origin())
            else:
                await self._interrupted(batch)

    async def stop(self) -> None:
        """End what is under way."""
        await self._tasks.stop()

    async def _interrupted(self, batch: HostBatch) -> None:
        for row in await self._store.read(queries.rows_of, batch.id):
            if row.outcome is RowOutcome.ADDING:
                failed = replace(row, outcome=RowOutcome.FAILED, detail=_INTERRUPTED)
                await self._store.write(queries.update_row, batch.id, failed)
        await self._store.write(queries.set_stage, batch.id, BatchStage.INTERRUPTED)

    # Reading.

    async def get(self, batch_id: uuid.UUID) -> HostBatch:
        """Give a list without its rows.

        Raises:
            NotFound: there is no such list.
        """
        found = await self._store.read(queries.batches, batch_id=batch_id)
        if not found:
            raise NotFound(f"There is no list of hosts with the id {batch_id}.")
        return found[0]

    async def rows(self, batch_id: uuid.UUID) -> Sequence[BatchRow]:
        """Give the rows of a list, in their order.

        Raises:
            NotFound: there is no such list.
        """
        await self.get(batch_id)
        return await self._store.read(queries.rows_of, batch_id)

    # Changing.

    async def add(self, wanted: Sequence[NewHost], origin: Origin) -> HostBatch:
        """Take a list of hosts, and begin to look at their SSH keys.

        Raises:
            BadRequest: something in it is wrong; all that is wrong is told at once.
        """
        cluster = await self._clusters.default()
        rows = checked_rows(wanted, lambda new: self._hosts.admission.new_host(new, cluster.id))
        job = self._jobs.prepare(_reviewing(len(rows)), origin=origin)
        batch = HostBatch(
            id=uuid.uuid4(),
            stage=BatchStage.REVIEWING,
            created=utc_now(self._clock),
            user=origin.user,
            job_id=job.job.id,
        )
        self._busy.add(batch.id)
        await self._tasks.shield(self._insert(batch, rows, job, origin))
        return await self.get(batch.id)

    async def review(self, batch_id: uuid.UUID, origin: Origin) -> Job:
        """Look again at the hosts that were not added.

        Raises:
            NotFound: there is no such list.
            Conflict: something is at work on it.
        """
        batch = await self._claim(batch_id)
        return await self._tasks.shield(self._begin_review(batch, origin))

    async def begin(self, batch_id: uuid.UUID, start: BatchStart, origin: Origin) -> Job:
        """Begin to add the hosts that are confirmed by this.

        Raises:
            NotFound: there is no such list.
            Conflict: something is at work on it, or there is nothing to add.
            BadRequest: a name is not in the list, or its key is not one to be confirmed.
        """
        request.uses_key(start.login)  # refuses a password that is asked for and missing
        batch = await self._claim(batch_id)
        try:
            rows = chosen(await self.rows(batch_id), start)
            if not rows:
                raise Conflict(
                    "There is no host in the list that could be added: their keys are not the "
                    "expected ones, none was given for them, or they are there already. See the "
                    "judgement of each, and review the list again when that is mended."
                )
        except BaseException:
            self._busy.discard(batch.id)
            raise
        job = self._jobs.prepare(f"Adding {len(rows)} hosts", origin=origin)
        work = self._adding.run(batch.id, rows, start, job, origin)
        return await self._tasks.shield(self._begin(batch.id, BatchStage.ADDING, job, work))

    async def remove(self, batch_id: uuid.UUID) -> None:
        """Forget a list; the hosts that were added stay.

        Raises:
            NotFound: there is no such list.
            Conflict: something is at work on it.
        """
        batch = await self._claim(batch_id)
        try:
            await self._tasks.shield(self._store.write(queries.delete_batch, batch.id))
        finally:
            self._busy.discard(batch.id)

    async def _claim(self, batch_id: uuid.UUID) -> HostBatch:
        """Have a list alone, until it is taken from the busy ones."""
        batch = await self.get(batch_id)
        if batch_id in self._busy:
            raise Conflict("The engine is at work on this list of hosts: see its job.")
        self._busy.add(batch_id)
        return batch

    async def _insert(
        self, batch: HostBatch, rows: Sequence[BatchRow], job: RunningJob, origin: Origin
    ) -> None:
        try:
            await self._store.write(queries.insert_batch, batch, rows)
        except BaseException:
            self._busy.discard(batch.id)
            raise
        work = self._review.run(batch.id, job, origin)
        await self._begin(batch.id, BatchStage.REVIEWING, job, work)

    async def _begin(
        self, batch_id: uuid.UUID, stage: BatchStage, job: RunningJob, work: _Work
    ) -> Job:
        """Begin work on a list that was claimed."""

        def begin(connection: Connection) -> None:
            job.begin(connection)
            queries.set_stage(connection, batch_id, stage, job.job.id)

        try:
            await self._store.write(begin)
        except BaseException:
            work.close()
            self._busy.discard(batch_id)
            raise
        self._tasks.spawn(job.job.description, self._run(batch_id, job, work))
        return job.job

    async def _run(self, batch_id: uuid.UUID, job: RunningJob, work: _Work) -> None:
        try:
            status = await work
        except CancelledError:
            status = StepStatus.ABORTED
        except Exception:
            self._log.failure("A list of hosts failed: {job}", job=job.job.description)
            status = StepStatus.FAILED
        self._busy.discard(batch_id)
        await job.finish(status)

    async def _begin_review(self, batch: HostBatch, origin: Origin) -> Job:
        job = self._jobs.prepare(_reviewing(batch.size), origin=origin)
        work = self._review.run(batch.id, job, origin)
        return await self._begin(batch.id, BatchStage.REVIEWING, job, work)

    # Last, for in here its name hides the type's.

    async def list(self) -> list[HostBatch]:
        """Give the lists, the newest first."""
        return await self._store.read(queries.batches)


def _reviewing(size: int) -> str:
    return f"Reviewing {size} hosts"
