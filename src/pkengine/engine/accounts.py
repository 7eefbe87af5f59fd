"""Who may use the engine: local users and their passwords.

Passwords are kept as Argon2id hashes and checked in a thread.  Clients that send one with every
request are recognized for a short while by a hash under a key that only this process has.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from pkengine.engine.access_changes import AccessChanges
from pkengine.engine.clock import utc_now
from pkengine.engine.credential_cache import CredentialCache
from pkengine.engine.login_throttle import LoginThrottle
from pkengine.engine.store import Store
from pkengine.engine.store import users as queries
from pkengine.engine.tokens import Tokens
from pkengine.engine.users import User, UserRecord
from pkengine.errors import NotAuthorized, TooManyAttempts
from pkengine.keys import Secret
from pkengine.keys.files import create_atomically, read_private

ADMIN = "admin@internal"

#: A right password that comes again is not hashed again for so long; of so many users.
RECOGNIZED_FOR_S = 60.0
_RECOGNIZED = 1000

#: Each check takes 64 MiB and a core: more at once would help an attacker only.
_CHECKS_AT_ONCE = 2
_CHECKS_WAITING = 50

InThread = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Recognized:
    """A user whose password was right; until when that holds without another check."""

    user: User
    until: float


class Accounts:
    """Checks passwords.

    Args:
        store: where users and tokens are kept.
        clock: a reactor, or a clock whose seconds are those since the epoch.
        in_thread: runs a function outside the reactor's thread.
        random_bytes: where tokens and the first password come from.
        hasher: Argon2id with its cost.

    Attributes:
        tokens: what users log in for.
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
        self._changes = AccessChanges(store, clock)
        self._key = random_bytes(32)
        self._recognized: CredentialCache[_Recognized] = CredentialCache(_RECOGNIZED)
        self._changes.tell(self._recognized)
        self.tokens = Tokens(store, clock, self._changes, random_bytes=random_bytes)

    async def start(self) -> None:
        """Begin to remember credentials, and to forget them when they change."""
        await self._changes.start()
        await self.tokens.start()

    async def stop(self) -> None:
        """Write what is not written yet."""
        await self.tokens.stop()
        await self._changes.stop()

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

    async def recognize(self, name: str, password: Secret, address: str) -> User:
        """Like `check_password`, but a password that was right a minute ago need not be hashed.

        That is for clients that send it with each request.  Guesses cost what they always cost.

        Raises:
            NotAuthorized, TooManyAttempts: as there.
        """
        self._throttle.check(name, address)
        key = self._cache_key(name, password)
        known = self._recognized.get(key) if self._changes.is_known else None
        if known is not None and self._clock.seconds() < known.until:
            return known.user
        generation = self._recognized.generation
        user = await self.check_password(name, password, address)
        until = self._clock.seconds() + RECOGNIZED_FOR_S
        self._recognized.put(key, _Recognized(user, until), generation)
        return user

    async def hash_password(self, password: Secret) -> str:
        """Give the Argon2id hash of a new password."""
        async with self._checks:
            return await self._hash(password)

    def forget_user(self, user_id: uuid.UUID) -> None:
        """Look the user's tokens and password up again: what it may do has changed."""
        self._changes.forget_user(user_id)

    def _cache_key(self, name: str, password: Secret) -> bytes:
        """Give what nobody can make of a guess who does not know this process's key."""
        octets = name.encode("utf-8", "surrogatepass")
        message = b"%d:%s%s" % (len(octets), octets, password.reveal())
        return hmac.digest(self._key, message, "sha256")

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
