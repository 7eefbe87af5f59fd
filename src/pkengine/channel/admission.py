"""Lets connections in one after the other, when many come at the same time.

Theory of operation.  A fleet that has lost its engine comes back at once, and proving who is
who takes both ends time.  Were all of that begun together, nobody would be done before all
were, and most would be late.  So only `at_once` proofs are under way at a time; who comes
meanwhile waits, first come, first served.  Who has begun and does not go on, as idle strangers
do, holds up the others for `PATIENCE_S` only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

AT_ONCE = 16
PATIENCE_S = 1.0

#: Who would have to wait behind so many, is better told to come again.
MOST_WAITING = 10_000


class Admission:
    """One queue, for all ways in.

    Args:
        clock: keeps the time.
        at_once: how many may be under way.
    """

    def __init__(self, clock: IReactorTime, *, at_once: int = AT_ONCE) -> None:
        self._clock = clock
        self._at_once = at_once
        self._waiting: dict[Callable[[], object], None] = {}
        #: When those began that are under way and have not used up the patience.
        self._begun: deque[float] = deque()
        self._timer: IDelayedCall | None = None

    @property
    def is_full(self) -> bool:
        """Whether too many wait already."""
        return len(self._waiting) >= MOST_WAITING

    def enter(self, begin: Callable[[], object]) -> None:
        """Have a function called when it may begin, which may be now; it must not raise."""
        self._waiting[begin] = None
        self._go_on()

    def leave(self, begin: Callable[[], object]) -> None:
        """Forget one that waits; nothing where it has begun."""
        self._waiting.pop(begin, None)

    def settled(self) -> None:
        """One that was under way is so no longer, whatever came of it."""
        if self._begun:
            self._begun.popleft()
        self._go_on()

    def _go_on(self) -> None:
        now = self._clock.seconds()
        while self._begun and now - self._begun[0] >= PATIENCE_S:
            self._begun.popleft()
        while self._waiting and len(self._begun) < self._at_once:
            begin = next(iter(self._waiting))
            del self._waiting[begin]
            self._begun.append(now)
            begin()
        if self._waiting and self._timer is None:
            delay = self._begun[0] + PATIENCE_S - now
            self._timer = self._clock.callLater(delay, self._patience_ended)

    def _patience_ended(self) -> None:
        self._timer = None
        self._go_on()
