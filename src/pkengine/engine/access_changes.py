"""Forgets what was taken away from users, also by another engine on the same database.

Theory of operation.  What an engine remembers of tokens and passwords is right because
everybody who takes something away writes that into a log, in the same transaction.  The engine
that does so forgets it at once; each engine reads the log every `INTERVAL_S`, and forgets what
the others have taken away.  An engine that could not read it for `STALE_AFTER_S` remembers
nothing until it can.
"""

from __future__ import annotations

import uuid
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from pkengine.engine.store import Store
from pkengine.engine.store import access_changes as queries
from pkengine.engine.tasks import Tasks

INTERVAL_S = 2.0
STALE_AFTER_S = 15.0


class Forgetful(Protocol):
    """Something that remembers, such as a `CredentialCache`."""

    def forget(self, key: str) -> None:
        """Forget a token, by its hash."""

    def forget_user(self, user_id: uuid.UUID) -> None:
        """Forget all that a user has."""

    def forget_all(self) -> None:
        """Forget everything."""


class AccessChanges:
    """Follows the log.

    Args:
        store: where it is.
        clock: when to look again.
    """

    def __init__(self, store: Store, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._tasks = Tasks()
        self._caches: list[Forgetful] = []
        self._seen = 0
        self._read_at: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether what is remembered may be relied on."""
        return self._read_at is not None and self._clock.seconds() < self._read_at + STALE_AFTER_S

    def tell(self, cache: Forgetful) -> None:
        """Let a cache know of each change from now on."""
        self._caches.append(cache)

    async def start(self) -> None:
        """Begin to follow; nothing may be remembered before."""
        self._seen = await self._store.read(queries.newest_access_change)
        self._read_at = self._clock.seconds()
        self._tasks.every("follow changes of access", self._clock, INTERVAL_S, self.catch_up)

    async def stop(self) -> None:
        """Follow no more."""
        self._read_at = None
        await self._tasks.stop()

    async def catch_up(self) -> None:
        """Forget what was taken away since this was done last."""
        asked_at = self._clock.seconds()
        found = await self._store.read(queries.access_changes_after, self._seen)
        if len(found) >= queries.KEPT:  # older ones may be gone
            self.forget_all()
        for number, user_id, token_hash in found:
            if user_id is not None:
                self.forget_user(user_id)
            if token_hash is not None:
                self.forget(token_hash)
            self._seen = number
        self._read_at = asked_at

    def forget(self, token_hash: str) -> None:
        """Forget a token that has ended."""
        for cache in self._caches:
            cache.forget(token_hash)

    def forget_user(self, user_id: uuid.UUID) -> None:
        """Forget a user: what it may do, or its password, is another."""
        for cache in self._caches:
            cache.forget_user(user_id)

    def forget_all(self) -> None:
        """Forget everything."""
        for cache in self._caches:
            cache.forget_all()
