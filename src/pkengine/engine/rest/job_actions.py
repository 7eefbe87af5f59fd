"""How an action is answered that begins a job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pkengine.engine.jobs import Jobs
from pkengine.engine.model import Job, StepStatus
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import LONGEST_WAIT_S, Answer, Call
from pkengine.engine.rest.schema import Document
from pkengine.errors import Conflict

#: Says why a job failed, or nothing.
Why = Callable[[Job], Awaitable[str]]


class JobActions:
    """Answers actions.

    Args:
        jobs: what is under way.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def done(
        self, call: Call, document: Document, job: Job, why: Why | None = None
    ) -> Answer:
        """Answer an action: when it has begun, as oVirt does, or when it has ended.

        Who says ``async=false`` or expects ``201-created`` waits for the end.

        Raises:
            Conflict: the job was waited for, and failed.
        """
        is_async = document.get("async", call.boolean("async", True))
        if is_async and call.expects != "201-created":
            return Answer(element=ACTION, one=ActionResult(job=job))
        job = await self._jobs.ended(job.id, LONGEST_WAIT_S)
        if job.ended is None:
            return Answer(element=ACTION, one=ActionResult("in_progress", job), status=202)
        if job.status is not StepStatus.FINISHED:
            detail = await why(job) if why is not None else ""
            raise Conflict(f"{job.description}: {job.status.value}. {detail}".rstrip())
        return Answer(element=ACTION, one=ActionResult(job=job))
