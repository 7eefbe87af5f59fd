"""Long lists, a page at a time: what is in memory is a page, however long the table is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Id = TypeVar("Id")
T = TypeVar("T")

PAGE = 100


class Pages(Generic[T]):
    """The entities with these ids, in their order, read page by page.

    Which ones they are is settled at once, so that a change while a client reads slowly
    neither repeats nor hides another one.  What has gone by its page's turn is left out.

    Args:
        ids: all that remains in memory.
        fetch: gives the entities of some of them.
    """

    def __init__(
        self, ids: Sequence[Id], fetch: Callable[[Sequence[Id]], Awaitable[Sequence[T]]]
    ) -> None:
        self._ids: Sequence[Id] = ids
        self._fetch = fetch

    async def __aiter__(self) -> AsyncIterator[Sequence[T]]:
        """Give the pages."""
        for start in range(0, len(self._ids), PAGE):
            yield await self._fetch(self._ids[start : start + PAGE])
