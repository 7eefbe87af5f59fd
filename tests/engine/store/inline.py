"""A store whose queries run at once, so that tests with a `Clock` need no threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure


class InlineThreads:
    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def callInThreadWithCallback(
        self, onResult: Callable[[bool, object], object] | None, func: Callable[..., object], /
    ) -> None:
        try:
            succeeded, result = True, func()
        except Exception:
            succeeded, result = False, Failure()
        assert onResult is not None
        onResult(succeeded, result)


class InlineReactor:
    def callFromThread(self, function: Callable[..., Any], *args: Any, **named: Any) -> None:
        function(*args, **named)
