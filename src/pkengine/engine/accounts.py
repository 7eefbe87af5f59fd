"""Who may use the engine: local users, their passwords, and the tokens that they log in for.

Passwords are kept as Argon2id hashes and checked in a thread.  A token is 256 random bits;
the store holds its SHA-256 only, which needs no salt because there is nothing to guess.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import secrets
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from pkengine.engine.clock import utc_now
from pkengine.engine.login_throttle import LoginThrottle
from pkengine.engine.store import Store
from pkengine.engine.store import users as queries
from pkengine.engine.users import TokenRecord, User, UserRecord
from pkengine.errors import NotAuthorized, TooManyAttempts
from pkengine.keys import Secret
from pkengine.keys.files import create_atomically, read_private

ADMIN = "admin@internal"

#: How long a token lives without being used, and at most (oVirt's session is 30 minutes too).
IDLE_LIFETIME = datetime.timedelta(minutes=30)
MAX_LIFETIME = datetime.timedelta(hours=24)

#: For so long a token is not looked up again, and its use is not written again.
_CACHE_S = 10.0
_CACHE_SIZE = 4096
_TOUCHED_EVERY = datetime.timedelta(minutes=1)
_EXPIRED_TOKENS_REMOVED_EVERY_S = 600.0

#: Each check takes 64 MiB and a core: more at once would help an attacker only.
_CHECKS_AT_ONCE = 2
_CHECKS_WAITING = 50

InThread = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A new token: the one time that its text exists outside the client."""

    text: Secret
    user: User
    expires: datetime.datetime


class Accounts:
    """Checks passwords, and issues, checks and revokes tokens.

    Args:
        store: where users and tokens are kept.
        clock: a reactor, or a clock whose seconds are those since the epoch.
        in_thread: runs a function outside the reactor's thread.
        random_bytes: where tokens and the first password come from.
        hasher: Argon2id with its cost.
    """

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        *,
        in_thread: InThread = deferToThread,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._in_thread = in_thread
        self._random_bytes = random_bytes
        self._hasher = hasher if hasher is not None else PasswordHasher()
        self._throttle = LoginThrottle(clock)
        self._checks = DeferredSemaphore(_CHECKS_AT_ONCE)
        self._hash_of_nobody: str | None = None
        self._cache: OrderedDict[str, tuple[TokenRecord, float]] = OrderedDict()
        self._revocations = 0
        self._expired_removed = clock.seconds()

    async def ensure_admin(self, password_file: Path) -> Secret | None:
        """Make the administrator with a random password, unless there is one.

        The password is written to a private file before the user exists, so that it is
        not lost when the engine dies in between.

        Returns:
            The password, or None where the administrator was there already.

        Raises:
            KeyFileError: the file cannot be written or read.
        """
        if await self._store.read(queries.user_by_name, ADMIN) is not None:
            return None
        # 15 octets are 24 characters of base32, which a person can read out and type.
        create_atomically(password_file, base64.b32encode(self._random_bytes(15)) + b"\n")
        password = Secret(read_private(password_file).strip())
        await self._store.write(
            queries.insert_user,
            UserRecord(
                user=User(id=uuid.uuid4(), name=ADMIN),
                password_hash=await self._hash(password),
                created=utc_now(self._clock),
            ),
        )
        return password

    async def check_password(self, name: str, password: Secret, address: str) -> User:
        """Give the user of that name and password.

        A name that nobody has takes as long as a wrong password and gives the same error.

        Args:
            name: such as ``admin@internal``.
            password: what was typed.
            address: from where, for throttling.

        Raises:
            NotAuthorized: name or password are wrong, or the user is disabled.
            TooManyAttempts: there were too many wrong ones; nothing was checked.
        """
        self._throttle.check(name, address)
        if len(self._checks.waiting) >= _CHECKS_WAITING:
            raise TooManyAttempts("Too many logins wait to be checked: try again shortly.", 5.0)
        async with self._checks:
            # Once more: those that were in front may have been wrong guesses.
            self._throttle.check(name, address)
            record = await self._store.read(queries.user_by_name, name)
            known_hash = record.password_hash if record is not None else await self._nobody()
            matches = await self._in_thread(self._verify, known_hash, password)
            if record is None or record.disabled or not matches:
                self._throttle.failed(name, address)
                raise NotAuthorized(
                    f"Cannot authenticate user '{name}': the user name or password is incorrect."
                )
            self._throttle.succeeded(name, address)
            if self._hasher.check_needs_rehash(record.password_hash):
                new_hash = await self._hash(password)
                await self._store.write(queries.set_password_hash, record.user.id, new_hash)
        return record.user

    async def issue_token(self, user: User) -> IssuedToken:
        """Make a token for a user who has proved who it is."""
        text = self._new_text()
        now = utc_now(self._clock)
        record = TokenRecord(
            token_hash=_token_hash(text),
            user=user,
            created=now,
            last_used=now,
            expires=now + IDLE_LIFETIME,
        )
        await self._store.write(queries.insert_token, record)
        await self._remove_expired()
        return IssuedToken(text=Secret(text), user=user, expires=record.expires)

    def new_personal_token(
        self, user: User, name: str, lifetime: datetime.timedelta
    ) -> tuple[IssuedToken, TokenRecord]:
        """Make a token for automation; whoever asks for it writes the record."""
        text = self._new_text()
        now = utc_now(self._clock)
        record = TokenRecord(
            token_hash=_token_hash(text),
            user=user,
            created=now,
            last_used=now,
            expires=now + lifetime,
            name=name,
        )
        return IssuedToken(text=Secret(text), user=user, expires=record.expires), record

    async def hash_password(self, password: Secret) -> str:
        """Give the Argon2id hash of a new password."""
        async with self._checks:
            return await self._hash(password)

    def forget_cached(self) -> None:
        """Look each token up again: what a user may do, or a token, has changed."""
        self._revocations += 1
        self._cache.clear()

    async def check_token(self, text: str) -> User:
        """Give the user whom a token stands for, and let the token live on.

        Raises:
            NotAuthorized: there is no such token, or it has expired.
        """
        return (await self.token_record(text)).user

    async def token_record(self, text: str) -> TokenRecord:
        """Like `check_token`, with all that is known of the token.

        Raises:
            NotAuthorized: there is no such token, or it has expired.
        """
        token_hash = _token_hash(text)
        seconds = self._clock.seconds()
        cached = self._cache.get(token_hash)
        if cached is not None and seconds - cached[1] < _CACHE_S:
            return cached[0]
        revocations = self._revocations
        found = await self._store.read(queries.token_by_hash, token_hash)
        now = utc_now(self._clock)
        if found is None or found.expires <= now:
            self._cache.pop(token_hash, None)
            raise NotAuthorized("The access token is unknown or has expired: log in again.")
        record = found
        if now - found.last_used >= _TOUCHED_EVERY:
            expires = found.expires  # of a personal token, which does not live longer by use
            if found.name is None:
                expires = min(now + IDLE_LIFETIME, found.created + MAX_LIFETIME)
            record = replace(found, last_used=now, expires=expires)
            await self._store.write(queries.touch_token, token_hash, now, expires)
        if revocations == self._revocations:
            self._cache[token_hash] = (record, seconds)
            self._cache.move_to_end(token_hash)
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return record

    async def revoke_token(self, text: str) -> None:
        """End a token at once; one that is unknown is no error."""
        token_hash = _token_hash(text)
        await self._store.write(queries.delete_token, token_hash)
        # A check that is under way may have read the token before: it must not be cached.
        self._revocations += 1
        self._cache.pop(token_hash, None)

    async def _remove_expired(self) -> None:
        seconds = self._clock.seconds()
        if seconds - self._expired_removed >= _EXPIRED_TOKENS_REMOVED_EVERY_S:
            self._expired_removed = seconds
            await self._store.write(queries.delete_expired_tokens, utc_now(self._clock))

    def _new_text(self) -> str:
        return base64.urlsafe_b64encode(self._random_bytes(32)).rstrip(b"=").decode("ascii")

    async def _nobody(self) -> str:
        """Give a hash that no password has, as costly to check as any other."""
        if self._hash_of_nobody is None:
            self._hash_of_nobody = await self._hash(Secret(self._random_bytes(32)))
        return self._hash_of_nobody

    async def _hash(self, password: Secret) -> str:
        hashed: str = await self._in_thread(self._hasher.hash, password.reveal())
        return hashed

    def _verify(self, password_hash: str, password: Secret) -> bool:
        try:
            return self._hasher.verify(password_hash, password.reveal())
        except (VerificationError, InvalidHashError):
            return False


def _token_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
