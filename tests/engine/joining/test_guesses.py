"""Counting guesses: written before they are made, and never lost."""

from __future__ import annotations

from collections.abc import Hashable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.endpoints import AUTHENTICATION_TIMEOUT_S
from pkengine.engine.joining.guesses import IDLE_INTERVAL_S, MOST_GUESSES, Guesses
from pkengine.errors import StoreError


class GuessesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.written: list[int] = []
        self.disk: Deferred[None] | None = None
        self.used_up: list[Hashable] = []
        self.guesses = Guesses(self.clock, self.write, self.used_up.append)
        self.guesses.watch("code", 0, 1)

    async def write(self, key: Hashable, guesses: int) -> None:
        if self.disk is not None:
            await self.disk
        self.written.append(guesses)

    def guess(self) -> bool:
        allowed = self.guesses.begin("code")
        self.clock.advance(0)
        return allowed

    def test_so_many_are_allowed_and_no_more(self) -> None:
        allowed = [self.guess() for _ in range(MOST_GUESSES + 3)]
        self.assertEqual(allowed, [True] * MOST_GUESSES + [False] * 3)
        self.clock.advance(3600)
        self.assertFalse(self.guess())

    def test_each_is_written_down_before_it_may_be_made(self) -> None:
        self.disk = Deferred()
        self.assertTrue(self.guess())
        self.assertFalse(self.guess())
        self.disk.callback(None)
        self.assertEqual(self.written, [2])
        self.assertTrue(self.guess())

    def test_the_answer_to_a_guess_does_not_wait_for_the_disk(self) -> None:
        self.guesses.begin("code")
        self.assertEqual(self.written, [])
        self.clock.advance(0)
        self.assertEqual(self.written, [2])

    def test_where_nothing_can_be_written_nothing_more_is_allowed(self) -> None:
        self.disk = Deferred()
        self.guess()
        self.disk.errback(StoreError("The disk is full."))
        self.assertFalse(self.guess())
        self.assertEqual(self.written, [])

    def test_a_right_one_was_no_guess(self) -> None:
        for _ in range(3 * MOST_GUESSES):
            self.assertTrue(self.guess())
            self.guesses.succeeded("code")
        self.clock.advance(3600)
        self.assertEqual(self.used_up, [])

    def test_wrong_ones_before_a_right_one_stay_counted(self) -> None:
        self.guess()
        self.guess()
        self.guesses.succeeded("code")
        allowed = [self.guess() for _ in range(MOST_GUESSES)]
        self.assertEqual(allowed.count(True), MOST_GUESSES - 1)

    def test_after_the_last_one_it_is_told_that_they_are_used_up(self) -> None:
        for _ in range(MOST_GUESSES):
            self.guess()
        self.clock.advance(AUTHENTICATION_TIMEOUT_S - 1)
        self.assertEqual(self.used_up, [])
        self.clock.advance(1)
        self.assertEqual(self.used_up, ["code"])

    def test_the_last_one_may_be_right(self) -> None:
        for _ in range(MOST_GUESSES):
            self.guess()
        self.guesses.succeeded("code")
        self.clock.advance(3600)
        self.assertEqual(self.used_up, [])
        self.assertTrue(self.guess())

    def test_a_restart_believes_what_is_written(self) -> None:
        again = Guesses(self.clock, self.write, self.used_up.append)
        again.watch("code", MOST_GUESSES - 1, MOST_GUESSES - 1)
        self.assertEqual(self.written, [MOST_GUESSES])
        self.assertTrue(again.begin("code"))
        self.assertFalse(again.begin("code"))

    def test_a_restart_after_the_last_one_has_used_them_up(self) -> None:
        again = Guesses(self.clock, self.write, self.used_up.append)
        again.watch("code", MOST_GUESSES, MOST_GUESSES)
        self.assertFalse(again.begin("code"))
        self.clock.advance(AUTHENTICATION_TIMEOUT_S)
        self.assertEqual(self.used_up, ["code"])

    def test_one_that_opens_nothing_any_more_is_still_not_tried_at_will(self) -> None:
        self.guesses.end("code")
        allowed = [self.guess() for _ in range(MOST_GUESSES + 1)]
        self.assertEqual(allowed, [True] * MOST_GUESSES + [False])
        self.clock.advance(IDLE_INTERVAL_S)
        self.assertTrue(self.guess())
        self.guesses.succeeded("code")
        self.assertEqual((self.written, self.used_up), ([], []))

    def test_nothing_is_left_to_do_when_it_has_stopped(self) -> None:
        for _ in range(MOST_GUESSES):
            self.guess()
        self.successResultOf(Deferred.fromCoroutine(self.guesses.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
