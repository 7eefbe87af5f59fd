"""Background work: what cancelling stops, and what it must not stop."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.tasks import Tasks


class TasksTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tasks = Tasks()
        self.gate: Deferred[str] = Deferred()
        self.seen: list[str] = []

    async def work(self) -> str:
        try:
            self.seen.append(await self.gate)
        except CancelledError:
            self.seen.append("cancelled")
            raise
        return "done"

    def test_a_client_that_gives_up_does_not_stop_what_is_shielded(self) -> None:
        waiting = Deferred.fromCoroutine(self.tasks.shield(self.work()))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.gate.callback("went on")
        self.assertEqual(self.seen, ["went on"])

    def test_who_waits_for_shielded_work_gets_its_result_or_its_error(self) -> None:
        waiting = Deferred.fromCoroutine(self.tasks.shield(self.work()))
        self.gate.callback("")
        self.assertEqual(self.successResultOf(waiting), "done")
        self.gate = Deferred()
        waiting = Deferred.fromCoroutine(self.tasks.shield(self.work()))
        self.gate.errback(ZeroDivisionError())
        self.failureResultOf(waiting, ZeroDivisionError)

    def test_an_error_that_nobody_waits_for_is_logged(self) -> None:
        waiting = Deferred.fromCoroutine(self.tasks.shield(self.work()))
        waiting.addErrback(lambda failure: None)
        waiting.cancel()
        self.gate.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.gate = Deferred()
        self.tasks.spawn("dividing", self.work())
        self.gate.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stopping_cancels_the_background(self) -> None:
        self.tasks.spawn("waiting", self.work())
        self.successResultOf(Deferred.fromCoroutine(self.tasks.stop()))
        self.assertEqual(self.seen, ["cancelled"])

    def test_stopping_waits_for_what_is_shielded(self) -> None:
        waiting = Deferred.fromCoroutine(self.tasks.shield(self.work()))
        stopping = Deferred.fromCoroutine(self.tasks.stop())
        self.assertNoResult(stopping)
        self.gate.callback("finished")
        self.successResultOf(stopping)
        self.assertEqual((self.successResultOf(waiting), self.seen), ("done", ["finished"]))
