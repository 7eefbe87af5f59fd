"""Do the same for many, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_pool(
    size: int,
    work: Callable[[Item], Coroutine[Deferred[Any], Any, Result]],
    items: Iterable[Item],
) -> list[Result]:
    """Give what the work makes of each item, in their order.

    The first failure cancels what still runs, begins nothing more, and is raised; so does
    cancelling the whole.

    Args:
        size: how many run at the same time.
        work: makes a coroutine for an item.
        items: what to work on.
    """
    waiting = iter(enumerate(items))
    results: dict[int, Result] = {}

    async def take_turns() -> None:
        for number, item in waiting:
            results[number] = await work(item)

    workers = [Deferred.fromCoroutine(take_turns()) for _ in range(size)]
    try:
        await gatherResults(workers, consumeErrors=True)
    except FirstError as first:
        for worker in workers:
            worker.cancel()
        raise first.subFailure.value or first from None
    return [results[number] for number in sorted(results)]
