"""How long the engine keeps what has happened: events and jobs are removed when they are old.

The audit log is made of events, so those are kept for a time of their own.  The newest event
always stays: clients ask for it to learn where they are, and none may find the log empty.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection
from twisted.internet.interfaces import IReactorTime

from pkengine.engine.clock import utc_now
from pkengine.engine.events import TRUST_DECISIONS
from pkengine.engine.store import Store
from pkengine.engine.store import events as event_queries
from pkengine.engine.store import jobs as job_queries
from pkengine.engine.tasks import Tasks

#: So often old ones are looked for, and so many are removed in one transaction.
INTERVAL_S = 3600.0
AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """For how many days things are kept; 0 is for ever.

    Attributes:
        events_days: events that are no part of the audit log.
        audit_days: those that are.
        jobs_days: jobs that have ended, with their steps.
    """

    events_days: int = 90
    audit_days: int = 730
    jobs_days: int = 30


class Retention:
    """Removes what is older than it is to be kept.

    Args:
        store: where it is.
        clock: what time it is.
        keep: for how long.
    """

    def __init__(self, store: Store, clock: IReactorTime, keep: Keep | None = None) -> None:
        self._store = store
        self._clock = clock
        self._keep = keep or Keep()
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin to look every `INTERVAL_S`."""
        self._tasks.every("remove what is old", self._clock, INTERVAL_S, self.remove_old)

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.stop()

    async def remove_old(self) -> None:
        """Remove what is too old by now, in small transactions.

        Raises:
            StoreError: the database fails; what was removed before that stays removed.
        """
        keep = self._keep
        if keep.events_days:
            await self._remove_events(keep.events_days, are_decisions=False)
        if keep.audit_days:
            await self._remove_events(keep.audit_days, are_decisions=True)
        if keep.jobs_days:
            before = self._days_ago(keep.jobs_days)
            await self._in_parts(
                lambda connection: job_queries.delete_ended_jobs(connection, before, AT_ONCE)
            )

    async def _remove_events(self, days: int, *, are_decisions: bool) -> None:
        before = self._days_ago(days)

        def remove(connection: Connection) -> int:
            return event_queries.delete_old_events(
                connection, before, TRUST_DECISIONS, are_of_codes=are_decisions, limit=AT_ONCE
            )

        await self._in_parts(remove)

    async def _in_parts(self, remove: Callable[[Connection], int]) -> None:
        while await self._store.write(remove) == AT_ONCE:
            pass

    def _days_ago(self, days: int) -> datetime.datetime:
        return utc_now(self._clock) - datetime.timedelta(days=days)
