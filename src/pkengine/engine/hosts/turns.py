"""One request at a time for each host, name and address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pkengine.errors import Conflict


class Turns:
    """Refuses what another request is at work on."""

    def __init__(self) -> None:
        self._taken: set[object] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """Refuse everything from now on."""
        self._is_stopping = True

    @contextlib.contextmanager
    def taking(self, verb: str, name: str, *keys: object) -> Iterator[None]:
        """Have these keys alone.

        Args:
            verb: what is asked for, for the refusal.
            name: of the host.
            keys: what nobody else may be at work on.

        Raises:
            Conflict: somebody is, or the engine is stopping.
        """
        if self._is_stopping:
            raise Conflict(f"Cannot {verb} Host {name}. The engine is stopping.")
        if not self._taken.isdisjoint(keys):
            raise Conflict(
                f"Cannot {verb} Host {name}. Related operation is currently in progress. "
                "Please try again later."
            )
        self._taken.update(keys)
        try:
            yield
        finally:
            self._taken.difference_update(keys)
