"""The time of day, from the clock that was handed in."""

from __future__ import annotations

import datetime

from twisted.internet.interfaces import IReactorTime


def utc_now(clock: IReactorTime) -> datetime.datetime:
    """Give the moment that the clock shows, in UTC."""
    return datetime.datetime.fromtimestamp(clock.seconds(), datetime.timezone.utc)
