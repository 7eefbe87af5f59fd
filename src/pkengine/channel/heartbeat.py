"""The heartbeats of all channels of a reactor: one timer, however many channels."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_log = Logger()

#: How often in one heartbeat it is looked who is silent.
_LOOKS = 10

_of_clock: WeakKeyDictionary[IReactorTime, dict[float, Heartbeats]] = WeakKeyDictionary()


class Heartbeats:
    """Calls everybody who takes part, ten times in each heartbeat.

    Args:
        clock: keeps the time.
        heartbeat_s: the length of a heartbeat.
    """

    def __init__(self, clock: IReactorTime, heartbeat_s: float) -> None:
        self._clock = clock
        self._interval_s = heartbeat_s / _LOOKS
        self._loop: LoopingCall | None = None
        self._looks: dict[Callable[[float], None], None] = {}

    @classmethod
    def of(cls, clock: IReactorTime, heartbeat_s: float) -> Heartbeats:
        """Give the one that all share who have that clock and that heartbeat."""
        shared = _of_clock.setdefault(clock, {})
        return shared.setdefault(heartbeat_s, cls(clock, heartbeat_s))

    def join(self, look: Callable[[float], None]) -> None:
        """Have a function called with the time; it must not raise."""
        self._looks[look] = None
        if self._loop is None:
            self._loop = LoopingCall(self._look)
            self._loop.clock = self._clock
            self._loop.start(self._interval_s, now=False).addErrback(
                lambda failure: _log.failure("The heartbeat has stopped", failure)
            )

    def leave(self, look: Callable[[float], None]) -> None:
        """Have the function called no more."""
        self._looks.pop(look, None)
        if not self._looks and self._loop is not None:
            self._loop.stop()
            self._loop = None

    def _look(self) -> None:
        now = self._clock.seconds()
        for look in tuple(self._looks):
            look(now)
