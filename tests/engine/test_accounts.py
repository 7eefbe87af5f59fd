"""Passwords, tokens and the throttling of logins."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from sqlalchemy import Connection, Table, delete, select, update
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import ADMIN, IDLE_LIFETIME, MAX_LIFETIME, Accounts
from pkengine.engine.login_throttle import FREE_FOR_ADDRESS, FREE_FOR_USER, LONGEST_WAIT_S
from pkengine.engine.store import Store, schema
from pkengine.engine.store.users import user_by_name
from pkengine.engine.users import Role, User
from pkengine.errors import NotAuthorized, TooManyAttempts
from pkengine.keys import Secret
from tests.engine.store.inline import InlineReactor, InlineThreads

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


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


class AccountsTests(TestCase):
    async def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.store = await open_store(self)
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

    async def login(self, password: Secret) -> User:
        return await self.accounts.check_password(ADMIN, password, "192.0.2.1")

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
        await self.store.write(lambda connection: connection.execute(delete(schema.users)))
        await self.accounts.ensure_admin(self.file)
        self.assertEqual(self.file.read_text(), written)
        await self.accounts.check_password(ADMIN, Secret(written.strip()), "192.0.2.1")

    async def test_password_is_stored_as_argon2id_only(self) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        record = await self.store.read(user_by_name, ADMIN)
        stored = record.password_hash
        self.assertTrue(stored.startswith("$argon2id$"), stored[:12])
        self.assertNotIn(password.reveal_text(), stored)
        self.assertNotIn("argon2", repr(record))

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
        token = (await self.accounts.issue_token(await self.login(password))).text.reveal_text()
        disable = update(schema.users).values(disabled=True)
        await self.store.write(lambda connection: connection.execute(disable))
        with self.assertRaises(NotAuthorized):
            await self.accounts.check_token(token)
        await self.refused(ADMIN, password.reveal_text())

    async def test_hash_of_lower_cost_is_replaced_at_the_next_login(self) -> None:
        password = await self.accounts.ensure_admin(self.file)
        assert password is not None
        before = await self.store.read(every_row(schema.users))
        dearer = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
        accounts = Accounts(self.store, self.clock, in_thread=self.count_and_run, hasher=dearer)
        await accounts.check_password(ADMIN, password, "192.0.2.1")
        self.assertNotEqual(await self.store.read(every_row(schema.users)), before)
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
    async def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.store = await open_store(self)
        self.accounts = Accounts(self.store, self.clock, in_thread=maybeDeferred, hasher=CHEAP)
        file = Path(self.mktemp())
        password = await self.accounts.ensure_admin(file)
        self.user = await self.accounts.check_password(ADMIN, password, "192.0.2.1")

    async def test_token_stands_for_its_user_and_is_not_in_the_store(self) -> None:
        token = await self.accounts.issue_token(self.user)
        self.assertEqual(await self.accounts.check_token(token.text.reveal_text()), self.user)
        self.assertNotIn(
            token.text.reveal_text(), repr(await self.store.read(every_row(schema.tokens)))
        )
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
        self.store.before_read_returns = Deferred()
        check = Deferred.fromCoroutine(self.accounts.check_token(text))
        self.successResultOf(Deferred.fromCoroutine(self.accounts.revoke_token(text)))
        self.store.before_read_returns.callback(None)
        self.successResultOf(check)
        self.store.before_read_returns = None
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
        self.store.reads = 0
        for _ in range(100):
            await self.accounts.check_token(text)
        self.assertEqual(self.store.reads, 1)

    async def test_expired_tokens_are_removed_in_the_course_of_time(self) -> None:
        await self.accounts.issue_token(self.user)
        self.clock.advance(2 * IDLE_LIFETIME.total_seconds())
        await self.accounts.issue_token(self.user)
        self.assertEqual(len(await self.store.read(every_row(schema.tokens))), 1)
