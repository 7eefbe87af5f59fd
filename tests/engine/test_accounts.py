"""Passwords, tokens and the throttling of logins."""

from __future__ import annotations

import datetime
import stat
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import (
    ADMIN,
    IDLE_LIFETIME,
    MAX_LIFETIME,
    Accounts,
    Role,
    TokenRecord,
    User,
    UserRecord,
)
from pkengine.engine.login_throttle import FREE_FOR_ADDRESS, FREE_FOR_USER, LONGEST_WAIT_S
from pkengine.errors import NotAuthorized, TooManyAttempts
from pkengine.keys import Secret

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class MemoryAccountStore:
    """Keeps what the database would keep."""

    def __init__(self) -> None:
        self.users: dict[str, UserRecord] = {}
        self.tokens: dict[str, TokenRecord] = {}
        self.lookups = 0
        self.before_token_found: Deferred[None] | None = None

    async def find_user(self, name: str) -> UserRecord | None:
        return self.users.get(name)

    async def add_user(self, record: UserRecord) -> None:
        self.users[record.user.name] = record

    async def set_password_hash(self, user_id: uuid.UUID, password_hash: str) -> None:
        for name, record in self.users.items():
            if record.user.id == user_id:
                self.users[name] = replace(record, password_hash=password_hash)

    async def add_token(self, record: TokenRecord) -> None:
        self.tokens[record.token_hash] = record

    async def find_token(self, token_hash: str) -> TokenRecord | None:
        self.lookups += 1
        found = self.tokens.get(token_hash)
        if self.before_token_found is not None:
            await self.before_token_found
        return found

    async def touch_token(
        self, token_hash: str, last_used: datetime.datetime, expires: datetime.datetime
    ) -> None:
        if token_hash in self.tokens:
            self.tokens[token_hash] = replace(
                self.tokens[token_hash], last_used=last_used, expires=expires
            )

    async def remove_token(self, token_hash: str) -> None:
        self.tokens.pop(token_hash, None)

    async def remove_expired_tokens(self, now: datetime.datetime) -> None:
        self.tokens = {key: t for key, t in self.tokens.items() if t.expires > now}


class AccountsTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.store = MemoryAccountStore()
        self.hashed = 0
        self.accounts = Accounts(
            self.store, self.clock, in_thread=self.count_and_run, hasher=CHEAP
        )
        self.directory = Path(self.mktemp())
        self.directory.mkdir(mode=0o700)
        self.file = self.directory / "initial-admin-password"

    def count_and_run(self, function: Any, *args: Any) -> Deferred[Any]:
        self.hashed += 1
        return maybeDeferred(function, *args)

    async def refused(self, name: str, password: str, address: str = "192.0.2.1") -> str:
        try:
            await self.accounts.check_password(name, Secret(password), address)
        except NotAuthorized as error:
            return str(error)
        return self.fail("The login was accepted.")

    async def test_first_start_makes_one_administrator_with_a_private_random_password(
        self,
    ) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        self.assertGreaterEqual(len(password.reveal_text()), 20)
        self.assertEqual(self.file.read_text(), password.reveal_text() + "\n")
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)
        user = await self.accounts.check_password(ADMIN, password, "192.0.2.1")
        self.assertEqual((user.name, user.role), (ADMIN, Role.ADMINISTRATOR))

    async def test_later_starts_write_no_password(self) -> None:
        await self.accounts.ensure_admin(self.file)
        self.file.unlink()
        self.assertIsNone(await self.accounts.ensure_admin(self.file))
        self.assertFalse(self.file.exists())

    async def test_start_that_died_after_writing_the_file_keeps_that_password(self) -> None:
        await self.accounts.ensure_admin(self.file)
        written = self.file.read_text()
        self.store.users.clear()
        await self.accounts.ensure_admin(self.file)
        self.assertEqual(self.file.read_text(), written)
        await self.accounts.check_password(ADMIN, Secret(written.strip()), "192.0.2.1")

    async def test_password_is_stored_as_argon2id_only(self) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        stored = self.store.users[ADMIN].password_hash
        self.assertTrue(stored.startswith("$argon2id$"), stored[:12])
        self.assertNotIn(password.reveal_text(), stored)
        self.assertNotIn("argon2", repr(self.store.users[ADMIN]))

    async def test_unknown_user_and_wrong_password_cannot_be_told_apart(self) -> None:
        await self.accounts.ensure_admin(self.file)
        await self.refused("nobody@internal", "x")  # makes the hash of nobody
        self.hashed = 0
        wrong = await self.refused(ADMIN, "x")
        self.assertEqual(self.hashed, 1)
        unknown = await self.refused("nobody@internal", "x")
        self.assertEqual(self.hashed, 2)
        self.assertEqual(wrong.replace(ADMIN, "N"), unknown.replace("nobody@internal", "N"))

    async def test_disabled_user_is_refused(self) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        self.store.users[ADMIN] = replace(self.store.users[ADMIN], disabled=True)
        await self.refused(ADMIN, password.reveal_text())

    async def test_hash_of_lower_cost_is_replaced_at_the_next_login(self) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        before = self.store.users[ADMIN].password_hash
        dearer = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
        accounts = Accounts(self.store, self.clock, in_thread=self.count_and_run, hasher=dearer)
        await accounts.check_password(ADMIN, password, "192.0.2.1")
        self.assertNotEqual(self.store.users[ADMIN].password_hash, before)
        await accounts.check_password(ADMIN, password, "192.0.2.1")

    async def test_wrong_logins_are_slowed_down_and_then_not_even_checked(self) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        for _ in range(FREE_FOR_USER):
            await self.refused(ADMIN, "wrong")
        self.hashed = 0
        with self.assertRaises(TooManyAttempts) as caught:
            await self.accounts.check_password(ADMIN, password, "192.0.2.1")
        self.assertEqual(self.hashed, 0)
        self.assertEqual(caught.exception.retry_after_s, 1.0)
        self.clock.advance(1)
        await self.accounts.check_password(ADMIN, password, "192.0.2.1")

    async def test_owner_elsewhere_is_not_locked_out(self) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        for _ in range(FREE_FOR_USER):
            await self.refused(ADMIN, "wrong", "203.0.113.9")
        await self.accounts.check_password(ADMIN, password, "192.0.2.1")

    async def test_trying_many_names_from_one_address_is_slowed_down_too(self) -> None:
        for number in range(FREE_FOR_ADDRESS):
            await self.refused(f"user{number}@internal", "wrong")
        with self.assertRaises(TooManyAttempts):
            await self.accounts.check_password("another@internal", Secret("x"), "192.0.2.1")

    async def test_wait_doubles_up_to_a_limit_and_is_forgotten(self) -> None:
        for _ in range(FREE_FOR_USER):
            await self.refused("a@internal", "wrong")
        waits = []
        for _ in range(12):
            with self.assertRaises(TooManyAttempts) as caught:
                await self.accounts.check_password("a@internal", Secret("x"), "192.0.2.1")
            waits.append(caught.exception.retry_after_s)
            self.clock.advance(caught.exception.retry_after_s)
            await self.refused("a@internal", "wrong")
        self.assertEqual(waits[:4], [1.0, 2.0, 4.0, 8.0])
        self.assertEqual(waits[-1], LONGEST_WAIT_S)
        self.clock.advance(1000)
        await self.refused("a@internal", "wrong")

    async def test_many_right_logins_at_once_are_all_let_in(self) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        for _ in range(3 * FREE_FOR_USER):
            await self.accounts.check_password(ADMIN, password, "192.0.2.1")


class TokenTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.store = MemoryAccountStore()
        self.accounts = Accounts(self.store, self.clock, hasher=CHEAP)
        self.user = User(id=uuid.uuid4(), name=ADMIN)

    async def test_token_stands_for_its_user_and_is_not_in_the_store(self) -> None:
        token = await self.accounts.issue_token(self.user)
        self.assertEqual(await self.accounts.check_token(token.text.reveal_text()), self.user)
        self.assertNotIn(token.text.reveal_text(), repr(self.store.tokens))
        self.assertNotIn(token.text.reveal_text(), repr(token))
        self.assertEqual(len(token.text.reveal_text()), 43)

    async def test_unknown_token_is_refused(self) -> None:
        for text in ("", "x", "\udcff", "ä" * 1000):
            with self.assertRaises(NotAuthorized):
                await self.accounts.check_token(text)

    async def test_revoked_token_is_refused_at_once(self) -> None:
        text = (await self.accounts.issue_token(self.user)).text.reveal_text()
        await self.accounts.check_token(text)
        await self.accounts.revoke_token(text)
        with self.assertRaises(NotAuthorized):
            await self.accounts.check_token(text)

    def test_token_revoked_while_it_is_checked_is_not_remembered(self) -> None:
        token = self.successResultOf(Deferred.fromCoroutine(self.accounts.issue_token(self.user)))
        text = token.text.reveal_text()
        self.store.before_token_found = Deferred()
        check = Deferred.fromCoroutine(self.accounts.check_token(text))
        self.successResultOf(Deferred.fromCoroutine(self.accounts.revoke_token(text)))
        self.store.before_token_found.callback(None)
        self.successResultOf(check)
        self.store.before_token_found = None
        self.failureResultOf(
            Deferred.fromCoroutine(self.accounts.check_token(text)), NotAuthorized
        )

    async def test_token_that_is_used_lives_on_and_an_idle_one_ends(self) -> None:
        text = (await self.accounts.issue_token(self.user)).text.reveal_text()
        for _ in range(4):
            self.clock.advance(IDLE_LIFETIME.total_seconds() - 60)
            await self.accounts.check_token(text)
        self.clock.advance(IDLE_LIFETIME.total_seconds())
        with self.assertRaises(NotAuthorized):
            await self.accounts.check_token(text)

    async def test_no_token_lives_for_ever(self) -> None:
        text = (await self.accounts.issue_token(self.user)).text.reveal_text()
        ends = self.clock.seconds() + MAX_LIFETIME.total_seconds()
        while self.clock.seconds() < ends - 600:
            await self.accounts.check_token(text)
            self.clock.advance(600)
        self.clock.advance(600)
        with self.assertRaises(NotAuthorized):
            await self.accounts.check_token(text)

    async def test_token_in_steady_use_is_seldom_looked_up(self) -> None:
        text = (await self.accounts.issue_token(self.user)).text.reveal_text()
        for _ in range(100):
            await self.accounts.check_token(text)
        self.assertEqual(self.store.lookups, 1)

    async def test_expired_tokens_are_removed_in_the_course_of_time(self) -> None:
        await self.accounts.issue_token(self.user)
        self.clock.advance(2 * IDLE_LIFETIME.total_seconds())
        await self.accounts.issue_token(self.user)
        self.assertEqual(len(self.store.tokens), 1)
