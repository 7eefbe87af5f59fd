"""Who is a user, with which role, and which tokens automation has; each change is told of.

A change and the event that tells of it are one transaction.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from twisted.internet.interfaces import IReactorTime

from pkengine.engine.accounts import Accounts
from pkengine.engine.clock import utc_now
from pkengine.engine.events import EventCode, Events
from pkengine.engine.model import Event, Origin, Severity
from pkengine.engine.store import Store
from pkengine.engine.store import events as event_queries
from pkengine.engine.store import users as queries
from pkengine.engine.tasks import Tasks
from pkengine.engine.tokens import IssuedToken
from pkengine.engine.users import Role, TokenRecord, User, UserRecord
from pkengine.errors import BadRequest, Conflict, Forbidden, NotFound
from pkengine.keys import Secret

T = TypeVar("T")

DOMAIN = "internal"
SHORTEST_PASSWORD = 12

#: A token that lives longer is one that nobody remembers.
LONGEST_TOKEN_DAYS = 366
DEFAULT_TOKEN_DAYS = 90
MOST_TOKENS = 100

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}@internal")
_TOKEN_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


class UserAdministration:
    """Adds, changes and removes users and their personal tokens.

    Args:
        store: where they are kept.
        accounts: hashes passwords and makes tokens.
        events: where each change is told.
        clock: what time it is.
    """

    def __init__(
        self, store: Store, accounts: Accounts, events: Events, clock: IReactorTime
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._events = events
        self._clock = clock
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Wait for the changes that are under way."""
        await self._tasks.stop()

    async def get(self, user_id: uuid.UUID) -> UserRecord:
        """Give a user.

        Raises:
            NotFound: there is no such user.
        """
        return _found(await self._store.read(queries.user_by_id, user_id), user_id)

    async def add(self, name: str, password: Secret, role: Role, origin: Origin) -> UserRecord:
        """Add a user.

        Args:
            name: such as ``ann`` or ``ann@internal``.
            password: at least `SHORTEST_PASSWORD` characters.
            role: what the user may do.
            origin: who asks.

        Raises:
            BadRequest: the name or the password will not do.
            Conflict: the name is taken.
        """
        name = _full_name(name)
        _check_password(password)
        record = UserRecord(
            user=User(id=uuid.uuid4(), name=name, role=role),
            password_hash=await self._accounts.hash_password(password),
            created=utc_now(self._clock),
        )
        text = f"User {name} was added with the role {role.value}{_by(origin)}."

        def add(connection: Connection) -> None:
            try:
                queries.insert_user(connection, record)
            except IntegrityError:
                raise Conflict(f"The user name '{name}' is already in use.") from None

        await self._commit(
            add, EventCode.USER_ADDED, lambda _: text, origin, what=f"add the user {name}"
        )
        return record

    async def change(
        self,
        user_id: uuid.UUID,
        origin: Origin,
        *,
        password: Secret | None = None,
        role: Role | None = None,
        disabled: bool | None = None,
    ) -> UserRecord:
        """Change a user; what is None stays.  Another password ends the user's sessions.

        Raises:
            NotFound: there is no such user.
            BadRequest: the password will not do.
            Conflict: no administrator would be left.
        """
        new_hash: str | None = None
        if password is not None:
            _check_password(password)
            new_hash = await self._accounts.hash_password(password)

        def change(connection: Connection) -> tuple[UserRecord, UserRecord]:
            old = _found(queries.user_by_id(connection, user_id, for_update=True), user_id)
            new = replace(
                old,
                user=replace(old.user, role=old.user.role if role is None else role),
                password_hash=old.password_hash if new_hash is None else new_hash,
                disabled=old.disabled if disabled is None else disabled,
            )
            if new.disabled or new.user.role is not Role.ADMINISTRATOR:
                _keep_an_administrator(connection, old)
            if new_hash is not None or new.disabled:
                queries.delete_sessions(connection, user_id)
            queries.update_user(connection, new)
            return old, new

        def tell(changed: tuple[UserRecord, UserRecord]) -> str:
            what = "; ".join(_differences(*changed)) or "nothing is different"
            return f"User {changed[1].user.name} was changed{_by(origin)}: {what}."

        _, new = await self._commit(
            change,
            EventCode.USER_CHANGED,
            tell,
            origin,
            what=f"change the user {user_id}",
            then=lambda _: self._accounts.forget_user(user_id),
        )
        return new

    async def remove(self, user_id: uuid.UUID, origin: Origin) -> None:
        """Forget a user; its sessions and tokens end now.

        Raises:
            NotFound: there is no such user.
            Conflict: no administrator would be left.
        """

        def remove(connection: Connection) -> UserRecord:
            record = _found(queries.user_by_id(connection, user_id, for_update=True), user_id)
            _keep_an_administrator(connection, record)
            queries.delete_user(connection, user_id)
            return record

        await self._commit(
            remove,
            EventCode.USER_REMOVED,
            lambda record: f"User {record.user.name} was removed{_by(origin)}.",
            origin,
            what=f"remove the user {user_id}",
            then=lambda _: self._accounts.forget_user(user_id),
        )

    async def tokens(self, user_id: uuid.UUID) -> list[TokenRecord]:
        """Give the personal tokens of a user, the newest first.

        Raises:
            NotFound: there is no such user.
        """
        await self.get(user_id)
        return await self._store.read(queries.personal_tokens, user_id)

    async def issue_token(
        self, user: User, name: str, role: Role, days: int, origin: Origin
    ) -> tuple[IssuedToken, TokenRecord]:
        """Make a token for automation.

        Args:
            user: whose it is.
            name: what it is for.
            role: what it may do, which is at most what its user may.
            days: how long it lives.
            origin: who asks.

        Raises:
            BadRequest: the name or the lifetime will not do.
            Forbidden: the role is more than the user's.
            Conflict: the user has too many tokens.
        """
        if not _TOKEN_NAME.fullmatch(name):
            raise BadRequest("The name of the token has to be 1 to 100 characters of one line.")
        if not 1 <= days <= LONGEST_TOKEN_DAYS:
            raise BadRequest(f"A token lives for 1 to {LONGEST_TOKEN_DAYS} days, not {days}.")
        if not user.role.includes(role):
            raise Forbidden(
                f"The user '{user.name}' has the role '{user.role.value}': no token of it can "
                f"have the role '{role.value}'."
            )
        token, record = self._accounts.tokens.new_personal(
            replace(user, role=role), name, datetime.timedelta(days=days)
        )

        def add(connection: Connection) -> None:
            if len(queries.personal_tokens(connection, user.id)) >= MOST_TOKENS:
                raise Conflict(f"The user '{user.name}' has {MOST_TOKENS} tokens: revoke some.")
            queries.insert_token(connection, record)

        text = (
            f"Token '{name}' of user {user.name} was issued with the role {role.value}, until "
            f"{record.expires:%Y-%m-%d %H:%M} UTC."
        )
        await self._commit(
            add, EventCode.TOKEN_ISSUED, lambda _: text, origin, what="issue a token"
        )
        return token, record

    async def revoke_token(self, user_id: uuid.UUID, token_id: uuid.UUID, origin: Origin) -> None:
        """End a personal token at once.

        Raises:
            NotFound: the user has no such token.
        """

        def revoke(connection: Connection) -> TokenRecord:
            for record in queries.personal_tokens(connection, user_id):
                if record.id == token_id:
                    queries.delete_token(connection, record.token_hash)
                    return record
            raise NotFound(f"There is no token {token_id} of user {user_id}.")

        def tell(record: TokenRecord) -> str:
            return f"Token '{record.name}' of user {record.user.name} was revoked{_by(origin)}."

        await self._commit(
            revoke,
            EventCode.TOKEN_REVOKED,
            tell,
            origin,
            what=f"revoke a token of the user {user_id}",
            then=lambda record: self._accounts.tokens.forget(record),
        )

    async def _commit(
        self,
        change: Callable[[Connection], T],
        code: EventCode,
        tell: Callable[[T], str],
        origin: Origin,
        *,
        what: str,
        then: Callable[[T], None] = lambda _: None,
    ) -> T:
        """Write a change and its event; or that it was refused.

        Args:
            change: raises what refuses it.
            code: of the event.
            tell: gives its sentence.
            origin: who asks.
            what: is done, for the event of a refusal.
            then: what follows in memory, even where whoever asked has gone.
        """

        def run(connection: Connection) -> tuple[T, Event]:
            result = change(connection)
            draft = self._events.draft(code, Severity.NORMAL, tell(result), origin=origin)
            return result, event_queries.insert_event(connection, draft)

        async def commit() -> T:
            result, event = await self._store.write(run)
            then(result)
            self._events.publish(event)
            return result

        async with self._events.telling_refusal(
            EventCode.DECISION_REFUSED, f"Failed to {what}.", origin
        ):
            return await self._tasks.shield(commit())

    # Last, for in here its name hides the type's.

    async def list(self) -> list[UserRecord]:
        """Give every user, by name."""
        return await self._store.read(queries.all_users)


def _found(record: UserRecord | None, user_id: uuid.UUID) -> UserRecord:
    if record is None:
        raise NotFound(f"There is no user {user_id}.")
    return record


def _full_name(name: str) -> str:
    full = name if "@" in name else f"{name}@{DOMAIN}"
    if not _NAME.fullmatch(full):
        raise BadRequest(
            f"The user name {name[:100]!r} is malformed: expected up to 64 of the letters a to z, "
            f"digits, '.', '_' and '-', with or without '@{DOMAIN}' behind."
        )
    return full


def _check_password(password: Secret) -> None:
    if len(password.reveal_text()) < SHORTEST_PASSWORD:
        raise BadRequest(f"The password is too short: expected {SHORTEST_PASSWORD} characters.")


def _keep_an_administrator(connection: Connection, record: UserRecord) -> None:
    is_one = record.user.role is Role.ADMINISTRATOR and not record.disabled
    if is_one and not queries.other_administrators(connection, record.user.id):
        raise Conflict(f"User {record.user.name} is the only administrator who may log in.")


def _differences(old: UserRecord, new: UserRecord) -> list[str]:
    found = []
    if new.user.role is not old.user.role:
        found.append(f"role {old.user.role.value} became {new.user.role.value}")
    if new.disabled != old.disabled:
        found.append("may not log in" if new.disabled else "may log in again")
    if new.password_hash != old.password_hash:
        found.append("another password")
    return found


def _by(origin: Origin) -> str:
    return f" by {origin.user}" if origin.user else ""
