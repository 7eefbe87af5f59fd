"""Work that goes on behind a request, and ends before the engine does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkengine.errors import PkengineError

T = TypeVar("T")


class Tasks:
    """A set of coroutines that run; each is awaited by somebody, or its failure is logged."""

    _log = Logger()

    def __init__(self) -> None:
        self._background: set[Deferred[Any]] = set()
        self._shielded: set[Deferred[Any]] = set()

    def spawn(self, what: str, work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        """Run work in the background.

        Args:
            what: names it in the log when it fails.
            work: what to run.

        Returns:
            Fires when it is over, with what it returned; its failure is logged here and
            does not come out, nor does cancelling this stop anything but the work.
        """
        task = Deferred.fromCoroutine(work)
        self._background.add(task)

        def finish(outcome: Any) -> Any:
            self._background.discard(task)
            if isinstance(outcome, Failure):
                if not outcome.check(CancelledError):
                    self._log.failure("Failed: {what}", outcome, what=what)
                return None
            return outcome

        return task.addBoth(finish)

    def every(
        self,
        what: str,
        clock: IReactorTime,
        pause_s: float,
        work: Callable[[], Coroutine[Deferred[Any], Any, object]],
    ) -> None:
        """Do work again and again in the background, also after it failed.

        Args:
            what: names it in the log when it fails.
            clock: measures the pauses.
            pause_s: how long a pause is before each time.
            work: what to do.
        """

        async def repeat() -> None:
            while True:
                await deferLater(clock, pause_s)
                try:
                    await work()
                except CancelledError:
                    raise
                except PkengineError as error:
                    self._log.error("Could not {what}: {error}", what=what, error=error)
                except Exception:
                    self._log.failure("Failed: {what}", what=what)

        self.spawn(what, repeat())

    async def shield(self, work: Coroutine[Deferred[Any], Any, T]) -> T:
        """Run work to its end even when whoever waits for it gives up.

        A client that hangs up must not leave half of a change behind.
        """
        waiting: Deferred[T] = Deferred()
        task = Deferred.fromCoroutine(work)
        self._shielded.add(task)

        def finish(outcome: Any) -> None:
            self._shielded.discard(task)
            if not waiting.called:
                waiting.callback(outcome)
            elif isinstance(outcome, Failure):
                self._log.failure("Failed after its client had gone", outcome)

        task.addBoth(finish)
        return await waiting

    async def stop(self) -> None:
        """Cancel the background, let the shielded finish, and wait for both."""
        while self._background or self._shielded:
            background = list(self._background)
            for task in background:
                task.cancel()
            await DeferredList([*background, *self._shielded])
