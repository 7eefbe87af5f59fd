"""Tokens: who has logged in, and what automation shows instead.

A token is 256 random bits; the store holds its SHA-256 only, which needs no salt because there
is nothing to guess.

Theory of operation.  The tokens that are in use are remembered, so that a check asks nobody;
`AccessChanges` says which of them have ended meanwhile.  A token that is not remembered, such
as one that another engine issued, is looked up together with all others that come meanwhile,
and one that nobody knows is not looked up again for a while.  That tokens were used is written
now and then, for all of them at once.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pkengine.engine.access_changes import AccessChanges
from pkengine.engine.clock import utc_now
from pkengine.engine.credential_cache import CredentialCache
from pkengine.engine.store import Store
from pkengine.engine.store import users as queries
from pkengine.engine.tasks import Tasks
from pkengine.engine.users import TokenRecord, User
from pkengine.errors import NotAuthorized
from pkengine.keys import Secret

#: How long a token lives without being used, and at most (oVirt's session is 30 minutes too).
IDLE_LIFETIME = datetime.timedelta(minutes=30)
MAX_LIFETIME = datetime.timedelta(hours=24)

#: A use is noted when it is so much later than the one noted before, and written then.
_NOTED_EVERY = datetime.timedelta(minutes=1)
_WRITTEN_EVERY_S = 10.0

_REMEMBERED = 10_000
_UNKNOWN_REMEMBERED = 4096
_UNKNOWN_FOR_S = 10.0
_LOOKED_UP_AT_ONCE = 500

#: What expired is removed so often, and so much of it in one transaction.
_REMOVED_EVERY_S = 600.0
_REMOVED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A new token: the one time that its text exists outside the client."""

    text: Secret
    user: User
    expires: datetime.datetime


class Tokens:
    """Issues, checks and ends tokens.

    Args:
        store: where they are kept.
        clock: a clock whose seconds are those since the epoch.
        changes: tells which have ended.
        random_bytes: what they are made of.
    """

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        changes: AccessChanges,
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._clock = clock
        self._changes = changes
        self._random_bytes = random_bytes
        self._cache: CredentialCache[TokenRecord] = CredentialCache(_REMEMBERED)
        changes.tell(self._cache)
        #: Hashes that nobody knew: until when that is believed, and in which generation.
        self._unknown: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._wanted: dict[str, list[Deferred[TokenRecord | None]]] = {}
        self._is_looking_up = False
        self._used: dict[str, TokenRecord] = {}
        self._tasks = Tasks()

    async def start(self) -> None:
        """Remember the tokens that there are, and begin to write which are used."""
        generation = self._cache.generation
        now = utc_now(self._clock)
        for record in await self._store.read(queries.living_tokens, now, _REMEMBERED):
            self._cache.put(record.token_hash, record, generation)
        self._tasks.every(
            "write which tokens are in use", self._clock, _WRITTEN_EVERY_S, self.write_uses
        )
        self._tasks.every(
            "remove expired tokens", self._clock, _REMOVED_EVERY_S, self.remove_expired
        )

    async def stop(self) -> None:
        """Write what is not written yet."""
        await self._tasks.stop()
        await self.write_uses()

    async def issue(self, user: User) -> IssuedToken:
        """Make a token for a user who has proved who it is.

        Raises:
            NotAuthorized: the user was removed or disabled a moment ago.
        """
        text = self._new_text()
        now = utc_now(self._clock)
        record = TokenRecord(
            token_hash=_hash(text),
            user=user,
            created=now,
            last_used=now,
            expires=now + IDLE_LIFETIME,
        )
        generation = self._cache.generation
        stored = await self._store.write(queries.insert_session, record)
        if stored is None:
            raise NotAuthorized(f"The user '{user.name}' may not log in any more.")
        self._cache.put(record.token_hash, stored, generation)
        return IssuedToken(text=Secret(text), user=stored.user, expires=record.expires)

    def new_personal(
        self, user: User, name: str, lifetime: datetime.timedelta
    ) -> tuple[IssuedToken, TokenRecord]:
        """Make a token for automation; whoever asks for it writes the record."""
        text = self._new_text()
        now = utc_now(self._clock)
        record = TokenRecord(
            token_hash=_hash(text),
            user=user,
            created=now,
            last_used=now,
            expires=now + lifetime,
            name=name,
        )
        return IssuedToken(text=Secret(text), user=user, expires=record.expires), record

    async def check(self, text: str) -> TokenRecord:
        """Give what is known of a token, and let it live on.

        Raises:
            NotAuthorized: there is no such token, or it has expired.
            StoreError: it is not remembered, and cannot be looked up.
        """
        token_hash = _hash(text)
        now = utc_now(self._clock)
        record = self._cache.get(token_hash) if self._changes.is_known else None
        if record is None or record.expires <= now:
            # Another engine may have let it live on.
            record = await self._look_up(token_hash)
            if record is None or record.expires <= now:
                raise NotAuthorized("The access token is unknown or has expired: log in again.")
        if now - record.last_used >= _NOTED_EVERY:
            record = self._note_use(record, now)
        return record

    async def revoke(self, text: str) -> None:
        """End a token at once; one that is unknown is no error."""
        await self._tasks.shield(self._revoke(_hash(text)))

    async def _revoke(self, token_hash: str) -> None:
        await self._store.write(queries.delete_token, token_hash)
        self._changes.forget(token_hash)

    def forget(self, record: TokenRecord) -> None:
        """Remember a token no more, because somebody else has deleted it."""
        self._changes.forget(record.token_hash)

    def _note_use(self, record: TokenRecord, now: datetime.datetime) -> TokenRecord:
        expires = record.expires  # of a personal token, which does not live longer by use
        if record.name is None:
            expires = min(now + IDLE_LIFETIME, record.created + MAX_LIFETIME)
        used = replace(record, last_used=now, expires=expires)
        if self._cache.get(record.token_hash) is record:
            self._cache.put(record.token_hash, used, self._cache.generation)
        self._used[record.token_hash] = used
        return used

    async def write_uses(self) -> None:
        """Write when tokens were used.

        Raises:
            StoreError: the database fails; it is tried again with the next ones.
        """
        if not self._used:
            return
        used, self._used = self._used, {}
        try:
            await self._store.write(queries.touch_tokens, list(used.values()))
        except BaseException:
            self._used = used | self._used
            raise

    async def remove_expired(self) -> None:
        """Remove from the database what has expired.

        Raises:
            StoreError: the database fails.
        """
        removed = _REMOVED_AT_ONCE
        while removed == _REMOVED_AT_ONCE:
            removed = await self._store.write(
                queries.delete_expired_tokens, utc_now(self._clock), _REMOVED_AT_ONCE
            )

    async def _look_up(self, token_hash: str) -> TokenRecord | None:
        """Ask the store, in one query with all that are asked for meanwhile."""
        until, generation = self._unknown.get(token_hash, (0.0, -1))
        if self._clock.seconds() < until and generation == self._cache.generation:
            return None
        answer: Deferred[TokenRecord | None] = Deferred()
        self._wanted.setdefault(token_hash, []).append(answer)
        if not self._is_looking_up:
            self._is_looking_up = True
            self._tasks.spawn("look up tokens", self._answer_all())
        return await answer

    async def _answer_all(self) -> None:
        try:
            while self._wanted:
                batch = list(self._wanted)[:_LOOKED_UP_AT_ONCE]
                waiting = {token_hash: self._wanted.pop(token_hash) for token_hash in batch}
                try:
                    found = await self._read(batch)
                except Exception:
                    _answer(waiting, dict.fromkeys(waiting, Failure()))
                else:
                    _answer(waiting, found)
        finally:
            self._is_looking_up = False

    async def _read(self, hashes: list[str]) -> dict[str, TokenRecord]:
        generation = self._cache.generation
        found = await self._store.read(queries.tokens_by_hashes, hashes)
        until = self._clock.seconds() + _UNKNOWN_FOR_S
        for token_hash in hashes:
            record = found.get(token_hash)
            if record is not None and record.expires > utc_now(self._clock):
                self._cache.put(token_hash, record, generation)
            else:
                self._unknown[token_hash] = until, generation
                self._unknown.move_to_end(token_hash)
        while len(self._unknown) > _UNKNOWN_REMEMBERED:
            self._unknown.popitem(last=False)
        return found

    def _new_text(self) -> str:
        return base64.urlsafe_b64encode(self._random_bytes(32)).rstrip(b"=").decode("ascii")


def _answer(
    waiting: Mapping[str, Sequence[Deferred[TokenRecord | None]]],
    answers: Mapping[str, TokenRecord | Failure],
) -> None:
    for token_hash, those in waiting.items():
        for one in those:
            if not one.called:  # who has gone, waits for nothing
                one.callback(answers.get(token_hash))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
