"""A limit on guesses: how often a secret may be tried in vain."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

#: Of so many keys the attempts are remembered.
REMEMBERED = 10_000


class Attempts(Protocol):
    """What counts the attempts on keys; `AttemptLimit` is one."""

    def begin(self, key: Hashable, /) -> bool:
        """Count an attempt; tell whether it is allowed."""

    def succeeded(self, key: Hashable, /) -> None:
        """Take back what was counted for a key whose holder has proved itself."""


class AttemptLimit:
    """Counts attempts on each key; one that succeeds gives back what it took.

    An attempt is counted when it begins, because whoever guesses learns from the first
    answer whether the guess was right, and needs not stay for the end.

    Args:
        clock: seconds that only go forward.
        burst: how many attempts may fail in a row.
        interval_s: after that, one more is allowed each time this many seconds pass.
        remembered: of how many keys the attempts are remembered, those on which the last one
            began last.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        burst: int = 10,
        interval_s: float = 30.0,
        remembered: int = REMEMBERED,
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._interval_s = interval_s
        self._remembered = remembered
        self._debts: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def begin(self, key: Hashable) -> bool:
        """Count an attempt; tell whether it is allowed."""
        debt = self._debt(key)
        if debt + 1 > self._burst:
            return False
        self._debts[key] = (debt + 1, self._clock())
        self._debts.move_to_end(key)
        if len(self._debts) > self._remembered:
            self._debts.popitem(last=False)
        return True

    def succeeded(self, key: Hashable) -> None:
        """Forget what was counted for a key whose holder has proved itself."""
        self._debts.pop(key, None)

    def _debt(self, key: Hashable) -> float:
        debt, since = self._debts.get(key, (0.0, 0.0))
        return max(0.0, debt - (self._clock() - since) / self._interval_s)
