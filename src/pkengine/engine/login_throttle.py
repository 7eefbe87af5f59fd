"""Slows down the guessing of passwords, without locking an account for its owner elsewhere."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from pkengine.errors import TooManyAttempts

#: Wrong logins that are free: for one user from one address, and for one address at all.
FREE_FOR_USER = 5
FREE_FOR_ADDRESS = 20

#: The wait after the first that is not free, doubled with each further one.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0

#: Wrong logins are forgotten when this long nothing followed.
FORGOTTEN_AFTER_S = 900.0

_REMEMBERED = 10_000


@dataclass(slots=True)
class _Failures:
    count: int
    last: float
    free: int

    def wait_ends(self) -> float:
        if self.count < self.free:
            return self.last
        doublings = min(self.count - self.free, 30)
        return self.last + min(FIRST_WAIT_S * (1 << doublings), LONGEST_WAIT_S)


class LoginThrottle:
    """Counts wrong logins by user and address; what it remembers is bounded.

    Args:
        clock: tells the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def check(self, user: str, address: str) -> None:
        """Let a login be checked, or not.

        Raises:
            TooManyAttempts: there were too many wrong ones a short time ago.
        """
        now = self._clock.seconds()
        for key in _keys(user, address):
            failures = self._failures.get(key)
            if failures is None:
                continue
            if now - failures.last >= FORGOTTEN_AFTER_S:
                del self._failures[key]
            elif (wait := failures.wait_ends() - now) > 0:
                raise TooManyAttempts(
                    f"Too many wrong logins from {address}: try again in {math.ceil(wait)} s.",
                    wait,
                )

    def failed(self, user: str, address: str) -> None:
        """Count a wrong login."""
        now = self._clock.seconds()
        for key in _keys(user, address):
            failures = self._failures.get(key)
            if failures is None:
                free = FREE_FOR_USER if key[0] else FREE_FOR_ADDRESS
                failures = self._failures[key] = _Failures(0, now, free)
            failures.count += 1
            failures.last = now
            self._failures.move_to_end(key)
        while len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, user: str, address: str) -> None:
        """Forget the wrong logins of that user from that address.

        Those of the address stay, else one known password would make guessing others free.
        """
        self._failures.pop((user, address), None)


def _keys(user: str, address: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (user, address), ("", address)
