"""Credentials that were right a moment ago, so that the database need not be asked again."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from pkengine.engine.users import User


class HasUser(Protocol):
    """What is remembered of a credential says whose it is."""

    @property
    def user(self) -> User:
        """Whom it stands for."""


T = TypeVar("T", bound=HasUser)


class CredentialCache(Generic[T]):
    """Remembers some credentials, those that were used last.

    What may be wrong by now is not remembered: who asks the database takes the `generation`
    before, and gives it back with the answer.  It has moved on if anything was taken away
    meanwhile, which the answer may not know of.

    Args:
        size: how many are remembered at most.

    Attributes:
        generation: counts how often something was taken away.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[Hashable, T] = OrderedDict()
        self.generation = 0

    def __len__(self) -> int:
        """Tell how many are remembered."""
        return len(self._known)

    def get(self, key: Hashable) -> T | None:
        """Give what is remembered, or None."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def put(self, key: Hashable, value: T, generation: int) -> None:
        """Remember what the database said, unless something was taken away since `generation`."""
        if generation != self.generation:
            return
        self._known[key] = value
        self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Forget one credential."""
        self.generation += 1
        self._known.pop(key, None)

    def forget_user(self, user_id: uuid.UUID) -> None:
        """Forget all that a user has."""
        self._forget_all_of(key for key, value in self._known.items() if value.user.id == user_id)

    def forget_all(self) -> None:
        """Forget everything."""
        self._forget_all_of(self._known)

    def _forget_all_of(self, keys: Iterable[Hashable]) -> None:
        self.generation += 1
        for key in list(keys):
            del self._known[key]
