"""How often the words of a code may be guessed, also if the engine is killed meanwhile.

Theory of operation.  Whoever tries a code learns from the first answer whether it was right,
so a guess counts when it begins.  The answer must not wait for a disk, and a count that is
written behind the answer could be lost with the engine.  So it is written *before*: what is
on disk is always the number of guesses that may have been made, one more than were::

    written   1        2            3
    made      0   1    1       2    2
                  ↑ a guess    ↑ the next one, not before 2 was written

A guess that turns out right was none, and is taken back.  A restart believes what is
written, and so may take away a guess that nobody made, but never gives one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pkengine.auth.attempts import AttemptLimit
from pkengine.auth.endpoints import AUTHENTICATION_TIMEOUT_S
from pkengine.engine.tasks import Tasks
from pkengine.errors import StoreError

#: So many wrong guesses burn a code: with 2**20 codes, one in 200,000 codes is guessed.
MOST_GUESSES = 5

#: Once a code opens nothing any more, one more guess each time so many seconds have passed.
IDLE_INTERVAL_S = 60.0


@dataclass(slots=True)
class _Count:
    made: int
    written: int
    last_one: IDelayedCall | None = None


class Guesses:
    """Counts the guesses on codes; see `pkengine.auth.attempts.Attempts`.

    Args:
        clock: gives the time.
        write: writes down how many guesses on a code may have been made.
        used_up: is called with the key id of a code when the last guess on it was wrong.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        write: Callable[[Hashable, int], Awaitable[None]],
        used_up: Callable[[Hashable], object],
    ) -> None:
        self._clock = clock
        self._write = write
        self._used_up = used_up
        self._counts: dict[Hashable, _Count] = {}
        # A code that is not counted opens nothing: who still tries it is only told so.
        self._idle = AttemptLimit(clock.seconds, burst=MOST_GUESSES, interval_s=IDLE_INTERVAL_S)
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Count no more."""
        for key in list(self._counts):
            self.end(key)
        await self._tasks.stop()

    def watch(self, key: Hashable, made: int, written: int) -> None:
        """Count the guesses on a code, of which so many were made and are written down."""
        count = self._counts[key] = _Count(made, written)
        self._prepare(key, count)

    def end(self, key: Hashable) -> None:
        """Count no more on a code that opens nothing now."""
        count = self._counts.pop(key, None)
        if count is not None:
            _cancel(count)

    def begin(self, key: Hashable) -> bool:
        """Count a guess; tell whether it is allowed."""
        count = self._counts.get(key)
        if count is None:
            return self._idle.begin(key)
        if count.made >= count.written:
            return False
        count.made += 1
        self._clock.callLater(0, self._prepare, key, count)  # the answer goes first
        return True

    def succeeded(self, key: Hashable) -> None:
        """Take back a guess that was right."""
        count = self._counts.get(key)
        if count is None:
            self._idle.succeeded(key)
        else:
            count.made = max(0, count.made - 1)
            _cancel(count)

    def _prepare(self, key: Hashable, count: _Count) -> None:
        """Write down the guess that may come next; after the last one, see how it ends."""
        if self._counts.get(key) is not count or count.made < count.written:
            return
        if count.made < MOST_GUESSES:
            self._tasks.spawn("counting a guess", self._write_next(key, count))
        elif count.last_one is None:
            count.last_one = self._clock.callLater(
                AUTHENTICATION_TIMEOUT_S, self._last_one_is_over, key, count
            )

    async def _write_next(self, key: Hashable, count: _Count) -> None:
        wanted = count.written + 1
        try:
            await self._write(key, wanted)
        except StoreError as error:
            self._log.error("No more guesses are taken on an invitation: {error}", error=error)
        else:
            count.written = wanted

    def _last_one_is_over(self, key: Hashable, count: _Count) -> None:
        count.last_one = None
        if self._counts.get(key) is count and count.made >= MOST_GUESSES:
            self._used_up(key)


def _cancel(count: _Count) -> None:
    if count.last_one is not None:
        count.last_one.cancel()
        count.last_one = None
