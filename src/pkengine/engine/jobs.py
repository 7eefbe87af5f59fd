"""Jobs: long operations that a request began, step by step."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pkengine.engine.clock import utc_now
from pkengine.engine.model import Job, Origin, Step, StepStatus
from pkengine.engine.publisher import Publisher
from pkengine.engine.store import Store
from pkengine.engine.store import jobs as queries
from pkengine.errors import NotFound

#: Progress is written, and told to subscribers, at most this often.
PROGRESS_INTERVAL_S = 0.25


class Jobs:
    """Reads jobs, and begins new ones.

    Args:
        store: where they are kept.
        clock: what time it is.
    """

    def __init__(self, store: Store, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._publisher: Publisher[Job] = Publisher()

    async def list(self, *, limit: int = 100, host_id: uuid.UUID | None = None) -> list[Job]:
        """Give jobs with their steps, the newest first."""
        return await self._store.read(queries.latest_jobs, limit=limit, host_id=host_id)

    async def get(self, job_id: uuid.UUID) -> Job:
        """Give a job with its steps.

        Raises:
            NotFound: there is no such job.
        """
        job = await self._store.read(queries.job_by_id, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id}.")
        return job

    async def ended(self, job_id: uuid.UUID, timeout_s: float) -> Job:
        """Wait until a job has ended, or for so long; give it as it is then.

        Raises:
            NotFound: there is no such job.
        """
        end: Deferred[None] = Deferred()

        def moved_on(job: Job) -> None:
            if job.id == job_id and job.ended is not None and not end.called:
                end.callback(None)

        unsubscribe = self.subscribe(moved_on)
        try:
            # Asked for after subscribing, so that no end is missed.
            if (await self.get(job_id)).ended is None:
                with contextlib.suppress(TimeoutError):
                    await end.addTimeout(timeout_s, self._clock)
        finally:
            unsubscribe()
        return await self.get(job_id)

    def subscribe(self, callback: Callable[[Job], object]) -> Callable[[], None]:
        """Ask to be called with a job whenever it has moved on; gives what ends it."""
        return self._publisher.subscribe(callback)

    async def abort_unfinished(self) -> None:
        """End the jobs that an interrupted engine left behind."""
        await self._store.write(queries.abort_unfinished, utc_now(self._clock))

    def prepare(
        self, description: str, *, host_id: uuid.UUID | None = None, origin: Origin | None = None
    ) -> RunningJob:
        """Make a job that begins with `RunningJob.begin`."""
        job = Job(
            id=uuid.uuid4(),
            description=description,
            status=StepStatus.STARTED,
            started=utc_now(self._clock),
            host_id=host_id,
            correlation_id=origin.correlation_id if origin else "",
        )
        return RunningJob(job, self._store, self._clock, self._publisher)


class RunningJob:
    """A job that is under way; its owner reports steps and ends it once."""

    _log = Logger()

    def __init__(
        self, job: Job, store: Store, clock: IReactorTime, publisher: Publisher[Job]
    ) -> None:
        self.job = job
        self._store = store
        self._clock = clock
        self._publisher = publisher
        self._places = {step.name: place for place, step in enumerate(job.steps)}
        self._unsaved: set[int] = set()
        self._timer: IDelayedCall | None = None
        self._turn = DeferredLock()  # writes reach the database in the order of the reports

    def begin(self, connection: Connection) -> None:
        """Put the job on disk, in the transaction of what it belongs to."""
        queries.insert_job(connection, self.job)

    def step(
        self, name: str, description: str, status: StepStatus, progress: int | None = None
    ) -> None:
        """Say how far a step is; the first word of a name begins that step.

        This returns at once: it is written soon, and together with what comes meanwhile.
        """
        now = utc_now(self._clock)
        steps = list(self.job.steps)
        place = self._places.setdefault(name, len(steps))
        step = Step(
            name=name,
            description=description,
            status=status,
            progress=progress,
            started=steps[place].started if place < len(steps) else now,
            ended=None if status is StepStatus.STARTED else now,
        )
        steps[place : place + 1] = [step]
        self.job = replace(self.job, steps=tuple(steps))
        self._unsaved.add(place)
        self._save_soon()

    async def finish(self, status: StepStatus = StepStatus.FINISHED) -> None:
        """End the job, and each step that is under way, with this status."""
        now = utc_now(self._clock)
        open_places = [n for n, step in enumerate(self.job.steps) if step.ended is None]
        steps = list(self.job.steps)
        for place in open_places:
            steps[place] = replace(steps[place], status=status, ended=now)
        self._unsaved.update(open_places)
        self.job = replace(self.job, status=status, ended=now, steps=tuple(steps))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._save()

    def _save_soon(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(PROGRESS_INTERVAL_S, self._save_now)

    def _save_now(self) -> None:
        self._timer = None
        Deferred.fromCoroutine(self._save()).addErrback(
            lambda failure: self._log.failure(
                "The progress of job {job} was not written", failure, job=self.job.id
            )
        )

    async def _save(self) -> None:
        await self._turn.acquire()
        try:
            job, places = self.job, sorted(self._unsaved)
            self._unsaved.clear()
            try:
                await self._store.write(queries.update_job, job, places)
            except BaseException:
                self._unsaved.update(places)
                raise
        finally:
            self._turn.release()
        self._publisher.publish(job)
