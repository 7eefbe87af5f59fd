"""A store whose reads a test can count and hold up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Table, select
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pkengine.engine.store import Store
from tests.engine.store.inline import InlineReactor, InlineThreads


class CountingStore(Store):
    """The real store, in which a test can count and hold up what is read."""

    reads = 0
    before_read_returns: Deferred[None] | None = None

    async def read(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self.reads += 1
        found = await super().read(query, *args, **kwargs)
        if self.before_read_returns is not None:
            await self.before_read_returns
        return found


async def open_store(test: TestCase) -> CountingStore:
    url = f"sqlite:///{test.mktemp()}"
    store = await CountingStore.open(InlineReactor(), url, threads=InlineThreads())
    test.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
    return store


def every_row(table: Table) -> Callable[[Connection], list[Any]]:
    return lambda connection: list(connection.execute(select(table)))
