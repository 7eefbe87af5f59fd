"""Jobs and their steps, which show how far a deployment is."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from pkengine.engine.jobs import Jobs
from pkengine.engine.model import Job
from pkengine.engine.rest.call import MOST_JOBS, Answer, Call, Route
from pkengine.engine.rest.elements import JOB, STEP, NumberedStep
from pkengine.engine.rest.follow import Link
from pkengine.errors import NotFound


class JobResource:
    """``/jobs`` and all below."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        job = "/jobs/<uuid:job_id>"
        yield Route(method="GET", path="/jobs", handler=self.list, element=JOB, is_many=True)
        yield Route(method="GET", path=job, handler=self.get, element=JOB)
        yield Route(
            method="GET", path=f"{job}/steps", handler=self.steps, element=STEP, is_many=True
        )
        yield Route(
            method="GET", path=f"{job}/steps/<uuid:step_id>", handler=self.step, element=STEP
        )

    def links(self) -> Iterable[Link]:
        """Give what can be followed from a job."""
        yield Link("steps", STEP, _steps_of, is_many=True)

    async def list(self, call: Call) -> Answer:
        """Give jobs, the newest first."""
        return Answer(
            element=JOB, many=await self._jobs.list(limit=call.limit(100, most=MOST_JOBS))
        )

    async def get(self, call: Call, job_id: uuid.UUID) -> Answer:
        """Give one job."""
        return Answer(element=JOB, one=await self._jobs.get(job_id))

    async def steps(self, call: Call, job_id: uuid.UUID) -> Answer:
        """Give the steps of a job, in their order."""
        return Answer(element=STEP, many=_numbered(await self._jobs.get(job_id)))

    async def step(self, call: Call, job_id: uuid.UUID, step_id: uuid.UUID) -> Answer:
        """Give one step of a job."""
        for step in _numbered(await self._jobs.get(job_id)):
            if step.id == step_id:
                return Answer(element=STEP, one=step)
        raise NotFound(f"There is no step {step_id} in job {job_id}.")


def _numbered(job: Job) -> list[NumberedStep]:
    return [NumberedStep(job, number, step) for number, step in enumerate(job.steps)]


async def _steps_of(call: Call, jobs: Sequence[Job]) -> Sequence[list[NumberedStep]]:
    return [_numbered(job) for job in jobs]
