"""Who is let in when many come at the same time."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pkengine.channel import admission
from pkengine.channel.admission import PATIENCE_S, Admission


class Admissions(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.admission = Admission(self.clock, at_once=3)
        self.begun: list[int] = []

    def enter(self, *numbers: int) -> None:
        for number in numbers:
            self.admission.enter(lambda number=number: self.begun.append(number))

    def test_some_begin_at_once_and_the_others_in_their_order_as_those_settle(self) -> None:
        self.enter(*range(6))
        self.assertEqual(self.begun, [0, 1, 2])
        self.admission.settled()
        self.assertEqual(self.begun, [0, 1, 2, 3])
        self.admission.settled()
        self.admission.settled()
        self.assertEqual(self.begun, [0, 1, 2, 3, 4, 5])

    def test_who_begins_and_does_not_go_on_holds_nobody_up_for_long(self) -> None:
        self.enter(*range(9))
        self.clock.advance(PATIENCE_S)
        self.assertEqual(self.begun, list(range(6)))
        self.clock.advance(PATIENCE_S)
        self.assertEqual(self.begun, list(range(9)))
        self.clock.advance(PATIENCE_S)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_settles_late_makes_no_more_room_than_there_is(self) -> None:
        self.enter(*range(3))
        self.clock.advance(PATIENCE_S)
        self.enter(*range(3, 9))
        for _ in range(2):
            self.admission.settled()
        self.assertEqual(self.begun, list(range(8)))
        for _ in range(20):
            self.admission.settled()
        self.enter(*range(9, 20))
        self.assertEqual(self.begun, list(range(12)))

    def test_who_leaves_while_waiting_never_begins(self) -> None:
        self.enter(*range(3))

        def begin() -> None:
            self.begun.append(99)

        self.admission.enter(begin)
        self.enter(4)
        self.admission.leave(begin)
        self.admission.leave(begin)
        self.admission.settled()
        self.assertEqual(self.begun, [0, 1, 2, 4])

    def test_a_queue_has_an_end(self) -> None:
        self.patch(admission, "MOST_WAITING", 2)
        self.enter(*range(4))
        self.assertFalse(self.admission.is_full)
        self.enter(4)
        self.assertTrue(self.admission.is_full)

    def test_one_that_settles_while_it_begins_lets_the_next_one_in(self) -> None:
        for _ in range(5):
            self.admission.enter(self.admission.settled)
        self.enter(1, 2, 3, 4)
        self.assertEqual(self.begun, [1, 2, 3])
