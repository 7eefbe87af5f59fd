"""Events, jobs and clusters: what is written, in which order, and who hears of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.clusters import Clusters
from pkengine.engine.events import EventCode, Events
from pkengine.engine.jobs import PROGRESS_INTERVAL_S, Jobs, RunningJob
from pkengine.engine.model import Event, Job, Origin, Severity, StepStatus
from pkengine.engine.store import Store
from pkengine.errors import NotFound
from tests.engine.store.inline import InlineReactor, InlineThreads


class RecordsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_767_225_600.0)
        url = f"sqlite:///{Path(self.mktemp())}"
        self.store = self.now(Store.open(InlineReactor(), url, threads=InlineThreads()))
        self.addCleanup(lambda: self.now(self.store.close()))

    def now(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def assertNotFound(self, work: Any) -> None:
        self.failureResultOf(Deferred.fromCoroutine(work), NotFound)


class EventsTests(RecordsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.events = Events(self.store, self.clock)

    def add(self, text: str) -> Event:
        return self.now(
            self.events.add(
                EventCode.ENGINE_STARTED,
                Severity.NORMAL,
                text,
                origin=Origin(user="admin@internal", correlation_id="c"),
            )
        )

    def texts(self, **filters: Any) -> list[str]:
        return [event.description for event in self.now(self.events.list(**filters))]

    def test_an_event_comes_back_as_it_was_written(self) -> None:
        event = self.add("Begun.")
        self.assertEqual(self.now(self.events.get(event.id)), event)
        self.assertEqual(
            (event.code, event.user, event.correlation_id), (1, "admin@internal", "c")
        )
        self.assertEqual(event.time.isoformat(), "2026-01-01T00:00:00+00:00")

    def test_an_unknown_event_is_not_found(self) -> None:
        self.assertNotFound(self.events.get(99))

    def test_a_reader_goes_on_where_it_stopped(self) -> None:
        ids = [self.add(str(number)).id for number in range(5)]
        self.assertEqual(self.texts(), ["4", "3", "2", "1", "0"])
        self.assertEqual(self.texts(limit=2), ["4", "3"])
        self.assertEqual(self.texts(after=ids[1], newest_first=False), ["2", "3", "4"])
        self.assertEqual(self.texts(after=ids[1], newest_first=False, limit=2), ["2", "3"])
        self.assertEqual(self.texts(after=ids[4]), [])
        self.assertEqual(self.texts(host_id=uuid.uuid4()), [])

    def test_subscribers_hear_of_each_event_in_order_until_they_leave(self) -> None:
        heard: list[str] = []
        leave = self.events.subscribe(lambda event: heard.append(event.description))
        self.add("a")
        self.add("b")
        leave()
        leave()
        self.add("c")
        self.assertEqual(heard, ["a", "b"])

    def test_a_subscriber_that_has_left_is_not_called_any_more(self) -> None:
        heard: list[Event] = []
        self.events.subscribe(lambda event: leave())
        leave = self.events.subscribe(heard.append)
        self.add("a")
        self.assertEqual(heard, [])

    def test_a_subscriber_that_fails_disturbs_no_other(self) -> None:
        heard: list[Event] = []
        self.events.subscribe(lambda event: 1 / 0)
        self.events.subscribe(heard.append)
        event = self.add("a")
        self.assertEqual(heard, [event])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class JobsTests(RecordsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.jobs = Jobs(self.store, self.clock)
        self.heard: list[Job] = []
        self.jobs.subscribe(self.heard.append)

    def begin(self, description: str = "Adding") -> RunningJob:
        job = self.jobs.prepare(description, origin=Origin(correlation_id="c"))
        self.now(self.store.write(job.begin))
        return job

    def stored(self, job: RunningJob) -> Job:
        return self.now(self.jobs.get(job.job.id))

    def test_steps_are_written_with_their_times(self) -> None:
        job = self.begin()
        job.step("upload", "Send", StepStatus.STARTED, 0)
        self.clock.advance(3)
        job.step("upload", "Send", StepStatus.FINISHED, 100)
        job.step("start", "Start", StepStatus.STARTED)
        self.now(job.finish())
        upload, start = self.stored(job).steps
        self.assertEqual((upload.ended - upload.started).total_seconds(), 3.0)
        self.assertEqual((upload.progress, start.progress), (100, None))
        self.assertEqual(start.status, StepStatus.FINISHED)
        self.assertEqual(self.stored(job), job.job)

    def test_progress_is_written_and_told_only_now_and_then(self) -> None:
        job = self.begin()
        for percent in range(100):
            job.step("upload", "Send", StepStatus.STARTED, percent)
        self.assertEqual(self.heard, [])
        self.clock.advance(PROGRESS_INTERVAL_S)
        self.assertEqual([told.steps[0].progress for told in self.heard], [99])
        self.assertEqual(self.stored(job).steps[0].progress, 99)

    def test_a_job_that_ends_leaves_no_timer_and_no_open_step(self) -> None:
        job = self.begin()
        job.step("upload", "Send", StepStatus.STARTED)
        self.now(job.finish(StepStatus.FAILED))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        stored = self.stored(job)
        self.assertEqual([stored.status, stored.steps[0].status], [StepStatus.FAILED] * 2)
        self.assertEqual(self.heard[-1], stored)

    def test_jobs_are_listed_the_newest_first(self) -> None:
        for name in ("first", "second"):
            self.begin(name)
            self.clock.advance(1)
        self.assertEqual([j.description for j in self.now(self.jobs.list())], ["second", "first"])
        self.assertEqual([j.description for j in self.now(self.jobs.list(limit=1))], ["second"])
        self.assertEqual(self.now(self.jobs.list(host_id=uuid.uuid4())), [])

    def test_what_an_interrupted_engine_left_behind_is_aborted(self) -> None:
        interrupted, over = self.begin(), self.begin()
        interrupted.step("upload", "Send", StepStatus.STARTED)
        self.clock.advance(PROGRESS_INTERVAL_S)
        self.now(over.finish())
        self.now(self.jobs.abort_unfinished())
        self.assertEqual(self.stored(interrupted).status, StepStatus.ABORTED)
        self.assertEqual(self.stored(interrupted).steps[0].status, StepStatus.ABORTED)
        self.assertEqual(self.stored(over).status, StepStatus.FINISHED)

    def test_an_unknown_job_is_not_found(self) -> None:
        self.assertNotFound(self.jobs.get(uuid.uuid4()))


class ClustersTests(RecordsTestCase):
    def test_there_is_one_named_default(self) -> None:
        clusters = Clusters(self.store)
        (cluster,) = self.now(clusters.list())
        find: list[Callable[[], Any]] = [
            clusters.default,
            lambda: clusters.by_name("Default"),
            lambda: clusters.get(cluster.id),
        ]
        self.assertEqual([self.now(each()) for each in find], [cluster] * 3)
        self.assertNotFound(clusters.by_name("default"))
        self.assertNotFound(clusters.get(uuid.uuid4()))
