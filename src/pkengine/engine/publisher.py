"""Tell those who asked, in the reactor's thread, that something happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.logger import Logger

T = TypeVar("T")


class Publisher(Generic[T]):
    """Hands values to its subscribers; a subscriber that fails disturbs no other."""

    _log = Logger()

    def __init__(self) -> None:
        self._subscribers: dict[object, Callable[[T], object]] = {}

    def subscribe(self, callback: Callable[[T], object]) -> Callable[[], None]:
        """Ask to be called with each value from now on; gives what ends it."""
        key = object()
        self._subscribers[key] = callback

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def publish(self, value: T) -> None:
        """Call every subscriber."""
        for key, callback in list(self._subscribers.items()):
            if key not in self._subscribers:
                continue  # an earlier one in this round has ended its subscription
            try:
                callback(value)
            except Exception:
                self._log.failure("A subscriber failed on {value}", value=value)
