"""What is old is removed, and what clients rely on stays."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.usage import UsageError
from twisted.trial.unittest import TestCase

from pkengine.engine import retention
from pkengine.engine.events import EventCode, Events
from pkengine.engine.jobs import Jobs
from pkengine.engine.model import Severity, StepStatus
from pkengine.engine.options import Options
from pkengine.engine.retention import INTERVAL_S, Keep, Retention
from pkengine.engine.store import schema
from tests.engine.store.counting import every_row, open_store

DAY_S = 24 * 3600.0


class RetentionTests(TestCase):
    async def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.store = await open_store(self)
        self.events = Events(self.store, self.clock)
        self.jobs = Jobs(self.store, self.clock)

    async def add(self, code: EventCode, text: str) -> int:
        return (await self.events.add(code, Severity.NORMAL, text)).id

    async def texts(self) -> list[str]:
        found = await self.events.list(limit=None, newest_first=False)
        return [event.description for event in found]

    async def end_job(self, *, is_ended: bool = True) -> None:
        job = self.jobs.prepare("Something")
        await self.store.write(job.begin)
        job.step("one", "The first step", StepStatus.STARTED)
        if is_ended:
            await job.finish()
        else:
            self.clock.advance(1)

    def retention(self, **keep: int) -> Retention:
        return Retention(self.store, self.clock, Keep(**keep))

    async def test_events_go_when_they_are_old_and_decisions_later(self) -> None:
        await self.add(EventCode.HOST_CONNECTING, "seen")
        await self.add(EventCode.HOST_ADDED, "decided")
        self.clock.advance(10 * DAY_S)
        await self.add(EventCode.HOST_CONNECTING, "seen lately")
        keeper = self.retention(events_days=9, audit_days=20)
        await keeper.remove_old()
        self.assertEqual(await self.texts(), ["decided", "seen lately"])
        self.clock.advance(11 * DAY_S)
        await self.add(EventCode.HOST_CONNECTING, "seen now")
        await keeper.remove_old()
        self.assertEqual(await self.texts(), ["seen now"])

    async def test_the_newest_event_stays_however_old_it_is_and_numbers_go_on(self) -> None:
        await self.add(EventCode.HOST_CONNECTING, "first")
        last = await self.add(EventCode.HOST_CONNECTING, "last")
        self.clock.advance(1000 * DAY_S)
        await self.retention(events_days=1, audit_days=1).remove_old()
        self.assertEqual(await self.texts(), ["last"])
        self.assertEqual(await self.add(EventCode.HOST_CONNECTING, "next"), last + 1)
        found = await self.events.list(after=last)
        self.assertEqual([event.description for event in found], ["next"])

    async def test_zero_days_keep_everything(self) -> None:
        await self.add(EventCode.HOST_CONNECTING, "seen")
        await self.end_job()
        self.clock.advance(1000 * DAY_S)
        await self.add(EventCode.HOST_CONNECTING, "last")
        await self.retention(events_days=0, audit_days=0, jobs_days=0).remove_old()
        self.assertEqual(await self.texts(), ["seen", "last"])
        self.assertEqual(len(await self.jobs.list()), 1)

    async def test_ended_jobs_go_with_their_steps_and_running_ones_stay(self) -> None:
        await self.end_job()
        await self.end_job(is_ended=False)
        self.clock.advance(31 * DAY_S)
        await self.end_job()
        await self.retention(jobs_days=30).remove_old()
        self.assertEqual(
            sorted(job.status.value for job in await self.jobs.list()), ["finished", "started"]
        )
        self.assertEqual(len(await self.store.read(every_row(schema.steps))), 2)

    async def test_much_is_removed_in_small_parts(self) -> None:
        self.patch(retention, "AT_ONCE", 3)
        for number in range(10):
            await self.add(EventCode.HOST_CONNECTING, str(number))
        self.clock.advance(1000 * DAY_S)
        writes: list[Any] = []
        write = self.store.write

        async def count(query: Any, *args: Any) -> Any:
            writes.append(await write(query, *args))
            return writes[-1]

        self.patch(self.store, "write", count)
        await self.retention(events_days=1, audit_days=0, jobs_days=0).remove_old()
        self.assertEqual((writes, await self.texts()), ([3, 3, 3, 0], ["9"]))

    async def test_it_is_done_every_hour_until_the_end(self) -> None:
        keeper = self.retention(events_days=1)
        keeper.start()
        await self.add(EventCode.HOST_CONNECTING, "old")
        await self.add(EventCode.HOST_CONNECTING, "last")
        self.clock.advance(2 * DAY_S)
        self.assertEqual(await self.texts(), ["last"])
        await keeper.stop()
        await self.add(EventCode.HOST_CONNECTING, "more")
        self.clock.advance(2 * DAY_S)
        self.assertEqual(await self.texts(), ["last", "more"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertGreater(DAY_S, INTERVAL_S)
        self.addCleanup(lambda: Deferred.fromCoroutine(keeper.stop()))


class OptionsTests(TestCase):
    def test_days_are_numbers(self) -> None:
        options = Options()
        options.parseOptions(["--keep-events", "7", "--keep-jobs", "0"])
        self.assertEqual(
            [options[f"keep-{what}"] for what in ("events", "audit", "jobs")], [7, 730, 0]
        )
        for wrong in ("-1", "x", "1.5", "9999999"):
            with self.assertRaisesRegex(UsageError, "number of days"):
                Options().parseOptions(["--keep-audit", wrong])
