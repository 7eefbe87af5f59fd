"""Work on many, a few at a time."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.pool import in_pool


class InPoolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begun: dict[int, Deferred[str]] = {}
        self.cancelled: list[int] = []

    async def work(self, number: int) -> str:
        waiting: Deferred[str] = Deferred(lambda _: self.cancelled.append(number))
        self.begun[number] = waiting
        return await waiting

    def run_pool(self, size: int, count: int) -> Deferred[list[str]]:
        return Deferred.fromCoroutine(in_pool(size, self.work, range(count)))

    def test_as_many_as_fit_run_and_results_come_in_the_order_of_the_items(self) -> None:
        work = self.run_pool(2, 3)
        self.assertEqual(list(self.begun), [0, 1])
        self.begun[1].callback("b")
        self.assertEqual(list(self.begun), [0, 1, 2])
        self.begun[2].callback("c")
        self.begun[0].callback("a")
        self.assertEqual(self.successResultOf(work), ["a", "b", "c"])

    def test_nothing_to_do_is_done_at_once(self) -> None:
        self.assertEqual(self.successResultOf(self.run_pool(2, 0)), [])

    def test_the_first_failure_cancels_the_others_and_begins_nothing_more(self) -> None:
        work = self.run_pool(2, 4)
        self.begun[0].errback(ZeroDivisionError("0"))
        self.failureResultOf(work, ZeroDivisionError)
        self.assertEqual(self.cancelled, [1])
        self.assertEqual(list(self.begun), [0, 1])

    def test_cancelling_the_whole_cancels_what_runs(self) -> None:
        work = self.run_pool(2, 4)
        work.cancel()
        self.failureResultOf(work, CancelledError)
        self.assertEqual(sorted(self.cancelled), [0, 1])
        self.assertEqual(list(self.begun), [0, 1])
