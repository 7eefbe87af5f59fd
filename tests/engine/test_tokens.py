"""Tokens: how long they live, and how soon they end, here and at another engine."""

from __future__ import annotations

import datetime
from pathlib import Path

from argon2 import PasswordHasher
from sqlalchemy import delete
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from pkengine.engine.access_changes import INTERVAL_S, STALE_AFTER_S
from pkengine.engine.accounts import ADMIN, Accounts
from pkengine.engine.events import Events
from pkengine.engine.model import Origin
from pkengine.engine.store import access_changes, schema
from pkengine.engine.tokens import IDLE_LIFETIME, MAX_LIFETIME
from pkengine.engine.user_administration import UserAdministration
from pkengine.engine.users import Role
from pkengine.errors import NotAuthorized, StoreError
from pkengine.keys import Secret
from tests.engine.store.counting import every_row, open_store

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class TokensTestCase(TestCase):
    async def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.store = await open_store(self)
        self.accounts = await self.start_engine()
        self.tokens = self.accounts.tokens
        self.administration = self.administration_of(self.accounts)
        password = await self.accounts.ensure_admin(Path(self.mktemp()))
        assert password is not None
        self.user = await self.accounts.check_password(ADMIN, password, "192.0.2.1")

    async def start_engine(self) -> Accounts:
        """Start another engine on the same database."""
        accounts = Accounts(self.store, self.clock, in_thread=maybeDeferred, hasher=CHEAP)
        await accounts.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(accounts.stop()))
        return accounts

    def administration_of(self, accounts: Accounts) -> UserAdministration:
        return UserAdministration(self.store, accounts, Events(self.store, self.clock), self.clock)

    async def issue(self) -> str:
        return (await self.tokens.issue(self.user)).text.reveal_text()

    async def refused(self, text: str, accounts: Accounts | None = None) -> None:
        with self.assertRaises(NotAuthorized):
            await (accounts or self.accounts).tokens.check(text)


class LifetimeTests(TokensTestCase):
    async def test_token_stands_for_its_user_and_is_not_in_the_store(self) -> None:
        token = await self.tokens.issue(self.user)
        text = token.text.reveal_text()
        self.assertEqual((await self.tokens.check(text)).user, self.user)
        self.assertNotIn(text, repr(await self.store.read(every_row(schema.tokens))))
        self.assertNotIn(text, repr(token))
        self.assertEqual(len(text), 43)

    async def test_unknown_token_is_refused(self) -> None:
        for text in ("", "x", "\udcff", "ä" * 1000):
            await self.refused(text)

    async def test_token_that_is_used_lives_on_and_an_idle_one_ends(self) -> None:
        text = await self.issue()
        for _ in range(4):
            self.clock.advance(IDLE_LIFETIME.total_seconds() - 60)
            await self.tokens.check(text)
        self.clock.advance(IDLE_LIFETIME.total_seconds())
        await self.refused(text)

    async def test_no_token_lives_for_ever(self) -> None:
        text = await self.issue()
        ends = self.clock.seconds() + MAX_LIFETIME.total_seconds()
        while self.clock.seconds() < ends - 600:
            await self.tokens.check(text)
            self.clock.advance(600)
        self.clock.advance(600)
        await self.refused(text)

    async def test_expired_tokens_are_removed_in_the_course_of_time(self) -> None:
        for _ in range(3):
            await self.issue()
        self.clock.advance(2 * IDLE_LIFETIME.total_seconds())
        await self.issue()
        self.assertEqual(len(await self.store.read(every_row(schema.tokens))), 1)

    async def test_token_in_use_survives_the_end_of_the_engine(self) -> None:
        text = await self.issue()
        self.clock.advance(IDLE_LIFETIME.total_seconds() - 60)
        await self.tokens.check(text)
        await self.accounts.stop()
        self.clock.advance(IDLE_LIFETIME.total_seconds() - 60)
        await (await self.start_engine()).tokens.check(text)


class LookUpTests(TokensTestCase):
    async def test_token_that_is_known_is_never_looked_up(self) -> None:
        text = await self.issue()
        for accounts in (self.accounts, await self.start_engine()):
            for _ in range(100):
                self.clock.advance(INTERVAL_S)
                self.store.reads = 0
                await accounts.tokens.check(text)
                self.assertEqual(self.store.reads, 0)

    async def test_token_that_nobody_knows_is_not_looked_up_each_time(self) -> None:
        self.store.reads = 0
        for _ in range(100):
            await self.refused("x")
        self.assertEqual(self.store.reads, 1)

    async def test_token_of_another_engine_is_taken_at_once(self) -> None:
        other = await self.start_engine()
        await other.tokens.check(await self.issue())

    def test_tokens_are_looked_up_together(self) -> None:
        self.store.before_read_returns = Deferred()
        first = Deferred.fromCoroutine(self.tokens.check("x"))
        more = [Deferred.fromCoroutine(self.tokens.check(f"x{n}")) for n in range(100)]
        self.store.reads = 0
        release, self.store.before_read_returns = self.store.before_read_returns, None
        release.callback(None)
        for check in (first, *more):
            self.failureResultOf(check, NotAuthorized)
        self.assertEqual(self.store.reads, 1)

    async def test_database_that_fails_is_said_to_all_who_wait(self) -> None:
        async def fail(*args: object, **options: object) -> None:
            raise StoreError("The disk is full.")

        self.patch(self.store, "read", fail)
        for _ in range(2):
            with self.assertRaises(StoreError):
                await self.tokens.check("x")

    async def test_nothing_is_believed_of_a_database_that_cannot_be_followed(self) -> None:
        text = await self.issue()

        async def fail(*args: object, **options: object) -> None:
            raise StoreError("The server is gone.")

        self.patch(self.store, "read", fail)
        self.clock.advance(STALE_AFTER_S)
        with self.assertRaises(StoreError):
            await self.tokens.check(text)


class RevocationTests(TokensTestCase):
    async def test_revoked_token_is_refused_at_once(self) -> None:
        text = await self.issue()
        await self.tokens.check(text)
        await self.tokens.revoke(text)
        await self.refused(text)

    def test_token_revoked_while_it_is_looked_up_is_not_remembered(self) -> None:
        text = self.successResultOf(Deferred.fromCoroutine(self.issue()))
        self.accounts.forget_user(self.user.id)
        self.store.before_read_returns = Deferred()
        check = Deferred.fromCoroutine(self.tokens.check(text))
        self.successResultOf(Deferred.fromCoroutine(self.tokens.revoke(text)))
        self.store.before_read_returns.callback(None)
        self.successResultOf(check)
        self.store.before_read_returns = None
        self.failureResultOf(Deferred.fromCoroutine(self.tokens.check(text)), NotAuthorized)

    async def test_what_one_engine_takes_away_another_learns_within_seconds(self) -> None:
        other = await self.start_engine()
        ann = await self.administration.add("ann", Secret("a" * 12), Role.OPERATOR, Origin())
        text = (await self.tokens.issue(ann.user)).text.reveal_text()
        ended = (await self.tokens.issue(ann.user)).text.reveal_text()
        token, record = await self.administration.issue_token(
            ann.user, "backup", Role.VIEWER, 1, Origin()
        )
        personal = token.text.reveal_text()
        for one in (text, ended, personal):
            await other.tokens.check(one)

        await self.tokens.revoke(ended)
        self.clock.advance(INTERVAL_S)
        await self.refused(ended, other)
        await self.administration.change(ann.user.id, Origin(), role=Role.VIEWER)
        self.clock.advance(INTERVAL_S)
        self.assertIs((await other.tokens.check(text)).user.role, Role.VIEWER)
        await self.administration.revoke_token(ann.user.id, record.id, Origin())
        self.clock.advance(INTERVAL_S)
        await self.refused(personal, other)
        await self.administration.change(ann.user.id, Origin(), disabled=True)
        self.clock.advance(INTERVAL_S)
        await self.refused(text, other)

    async def test_engine_that_missed_too_much_forgets_everything(self) -> None:
        other = await self.start_engine()
        text = await self.issue()
        await other.tokens.check(text)

        def end_and_forget_that(connection: object) -> None:
            connection.execute(delete(schema.tokens))  # type: ignore[attr-defined]
            for _ in range(access_changes.KEPT + 10):
                access_changes.note_access_change(connection, token_hash="")  # type: ignore[arg-type]

        await self.store.write(end_and_forget_that)
        self.assertEqual(
            len(await self.store.read(every_row(schema.access_changes))), access_changes.KEPT
        )
        self.clock.advance(INTERVAL_S)
        await self.refused(text, other)

    async def test_user_disabled_while_logging_in_gets_no_token(self) -> None:
        ann = await self.administration.add("ann", Secret("a" * 12), Role.OPERATOR, Origin())
        await self.administration.change(ann.user.id, Origin(), disabled=True)
        with self.assertRaises(NotAuthorized):
            await self.tokens.issue(ann.user)

    async def test_token_has_the_role_that_its_user_has_by_now(self) -> None:
        ann = await self.administration.add("ann", Secret("a" * 12), Role.OPERATOR, Origin())
        await self.administration.change(ann.user.id, Origin(), role=Role.VIEWER)
        issued = await self.tokens.issue(ann.user)
        self.assertIs(issued.user.role, Role.VIEWER)

    async def test_role_change_holds_although_its_client_has_hung_up(self) -> None:
        ann = await self.administration.add("ann", Secret("a" * 12), Role.OPERATOR, Origin())
        text = (await self.tokens.issue(ann.user)).text.reveal_text()
        written = Deferred[None]()
        write = self.store.write

        async def write_slowly(*args: object, **options: object) -> object:
            result = await write(*args, **options)  # type: ignore[arg-type]
            await written
            return result

        self.patch(self.store, "write", write_slowly)
        change = Deferred.fromCoroutine(
            self.administration.change(ann.user.id, Origin(), role=Role.VIEWER)
        )
        change.addErrback(lambda _: None)
        change.cancel()
        written.callback(None)
        self.assertIs((await self.tokens.check(text)).user.role, Role.VIEWER)

    async def test_lifetime_of_a_personal_token_does_not_depend_on_use(self) -> None:
        token, _ = await self.administration.issue_token(
            self.user, "backup", Role.VIEWER, 2, Origin()
        )
        text = token.text.reveal_text()
        self.clock.advance(datetime.timedelta(days=1.9).total_seconds())
        self.assertIs((await self.tokens.check(text)).user.role, Role.VIEWER)
        self.clock.advance(datetime.timedelta(days=0.1).total_seconds())
        await self.refused(text)
