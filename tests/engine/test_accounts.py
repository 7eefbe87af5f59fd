"""Passwords, tokens and the throttling of logins."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from sqlalchemy import delete, update
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from pkengine.engine.access_changes import INTERVAL_S
from pkengine.engine.accounts import ADMIN, RECOGNIZED_FOR_S, Accounts
from pkengine.engine.events import Events
from pkengine.engine.login_throttle import FREE_FOR_ADDRESS, FREE_FOR_USER, LONGEST_WAIT_S
from pkengine.engine.model import Origin
from pkengine.engine.store import schema
from pkengine.engine.store.users import user_by_name
from pkengine.engine.user_administration import UserAdministration
from pkengine.engine.users import Role, User
from pkengine.errors import NotAuthorized, TooManyAttempts
from pkengine.keys import Secret
from tests.engine.store.counting import every_row, open_store

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


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
        disable = update(schema.users).values(disabled=True)
        await self.store.write(lambda connection: connection.execute(disable))
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


class RecognitionTests(TestCase):
    """Clients such as curl send the password with each request."""

    async def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.store = await open_store(self)
        self.hashed = 0
        self.accounts = self.make_accounts()
        await self.accounts.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.accounts.stop()))
        self.administration = UserAdministration(
            self.store, self.accounts, Events(self.store, self.clock), self.clock
        )
        self.ann = (
            await self.administration.add("ann", Secret("a" * 12), Role.OPERATOR, Origin())
        ).user
        password = await self.accounts.ensure_admin(Path(self.mktemp()))
        assert password is not None
        self.hashed = 0

    def make_accounts(self) -> Accounts:
        return Accounts(self.store, self.clock, in_thread=self.count_and_run, hasher=CHEAP)

    def count_and_run(self, function: Any, *args: Any) -> Deferred[Any]:
        self.hashed += 1
        return maybeDeferred(function, *args)

    async def come(self, password: str = "a" * 12, name: str = "ann@internal") -> User:
        return await self.accounts.recognize(name, Secret(password), "192.0.2.1")

    async def test_right_password_is_hashed_once_in_a_while(self) -> None:
        for _ in range(50):
            self.assertEqual(await self.come(), self.ann)
        self.assertEqual(self.hashed, 1)
        self.clock.advance(RECOGNIZED_FOR_S)
        await self.come()
        self.assertEqual(self.hashed, 2)

    async def test_wrong_passwords_are_checked_each_time_and_throttled_as_ever(self) -> None:
        await self.come()
        self.hashed = 0
        for number in range(FREE_FOR_USER):
            with self.assertRaises(NotAuthorized):
                await self.come(f"wrong {number}")
        self.assertEqual(self.hashed, FREE_FOR_USER)
        # Else a guess could be tried on what is remembered, as often as one likes.
        with self.assertRaises(TooManyAttempts):
            await self.come()

    async def test_name_and_password_cannot_be_shifted_into_each_other(self) -> None:
        await self.come()
        for name, password in (("ann@interna", "l" + "a" * 12), ("ann@internala", "a" * 11)):
            with self.assertRaises(NotAuthorized):
                await self.come(password, name)

    async def test_other_password_holds_at_once_and_the_old_one_no_more(self) -> None:
        await self.come()
        await self.administration.change(self.ann.id, Origin(), password=Secret("b" * 12))
        with self.assertRaises(NotAuthorized):
            await self.come()
        await self.come("b" * 12)

    async def test_other_role_holds_at_once(self) -> None:
        await self.come()
        await self.administration.change(self.ann.id, Origin(), role=Role.VIEWER)
        self.assertIs((await self.come()).role, Role.VIEWER)

    async def test_user_who_is_disabled_or_removed_is_refused_at_once(self) -> None:
        await self.come()
        await self.administration.change(self.ann.id, Origin(), disabled=True)
        with self.assertRaises(NotAuthorized):
            await self.come()
        await self.administration.change(self.ann.id, Origin(), disabled=False)
        await self.come()
        await self.administration.remove(self.ann.id, Origin())
        with self.assertRaises(NotAuthorized):
            await self.come()

    def test_check_that_a_change_overtakes_is_not_remembered(self) -> None:
        self.store.before_read_returns = Deferred()
        check = Deferred.fromCoroutine(self.come())
        change = self.administration.change(self.ann.id, Origin(), role=Role.VIEWER)
        self.successResultOf(Deferred.fromCoroutine(change))
        self.store.before_read_returns.callback(None)
        self.store.before_read_returns = None
        self.successResultOf(check)
        now = self.successResultOf(Deferred.fromCoroutine(self.come()))
        self.assertIs(now.role, Role.VIEWER)

    async def test_change_by_another_engine_holds_within_seconds(self) -> None:
        await self.come()
        elsewhere = UserAdministration(
            self.store, self.make_accounts(), Events(self.store, self.clock), self.clock
        )
        await elsewhere.change(self.ann.id, Origin(), disabled=True)
        self.clock.advance(INTERVAL_S)
        with self.assertRaises(NotAuthorized):
            await self.come()
