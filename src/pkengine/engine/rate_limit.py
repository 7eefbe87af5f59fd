"""Limits how often something may be done by whoever is not logged in."""

from __future__ import annotations

import math
from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

from pkengine.errors import TooManyAttempts

_REMEMBERED = 10_000


class RateLimit:
    """A token bucket for each address; what it remembers is bounded.

    Args:
        clock: tells the time.
        burst: how often at once.
        pause_s: after what time once more.
    """

    def __init__(self, clock: IReactorTime, *, burst: int, pause_s: float) -> None:
        self._clock = clock
        self._burst = burst
        self._pause_s = pause_s
        #: When the bucket of an address is full again.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, address: str) -> None:
        """Let an address do it once more, or not.

        Raises:
            TooManyAttempts: it has done it too often.
        """
        now = self._clock.seconds()
        full_at = max(self._full_at.get(address, now), now) + self._pause_s
        wait = full_at - now - self._burst * self._pause_s
        if wait > 0:
            raise TooManyAttempts(
                f"Too many requests from {address}: try again in {math.ceil(wait)} s.", wait
            )
        self._full_at[address] = full_at
        self._full_at.move_to_end(address)
        while len(self._full_at) > _REMEMBERED:
            self._full_at.popitem(last=False)
