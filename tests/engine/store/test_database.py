"""The store: where queries run, what they may rely on, and what it says when it cannot."""

from __future__ import annotations

import datetime
import sqlite3
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from pkengine.engine.store import Store, clusters, schema
from pkengine.errors import StoreError

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


class StoreTests(TestCase):
    #: A hundred writes that wait are so much fewer on SQLite, where a commit takes long.
    fewer_transactions_than = 10

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.url = f"sqlite:///{self.path}"

    async def open(self, url: str = "") -> Store:
        store = await Store.open(reactor, url or self.url)
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        return store

    async def test_queries_run_outside_the_thread_of_the_reactor(self) -> None:
        store = await self.open()
        here = threading.get_ident()
        self.assertNotEqual(await store.read(lambda c: threading.get_ident()), here)
        self.assertNotEqual(await store.write(lambda c: threading.get_ident()), here)

    async def test_migrations_make_exactly_the_tables_of_the_schema(self) -> None:
        store = await self.open()

        def differences(connection: Connection) -> list[object]:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            return list(compare_metadata(context, schema.metadata))

        self.assertEqual(await store.read(differences), [])

    async def test_opening_again_keeps_what_is_there(self) -> None:
        first = await self.open()
        before = await first.read(clusters.all_clusters)
        await first.close()
        second = await self.open()
        self.assertEqual(await second.read(clusters.all_clusters), before)
        self.assertEqual([cluster.name for cluster in before], ["Default"])

    async def test_a_write_that_raises_leaves_nothing_behind(self) -> None:
        store = await self.open()

        def write(connection: Connection) -> None:
            connection.execute(insert(schema.settings).values(name="a", value=1))
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            await store.write(write)
        self.assertEqual(await store.read(lambda c: c.execute(select(schema.settings)).all()), [])

    async def test_writes_that_wait_are_written_together_and_one_that_raises_alone_is_not(
        self,
    ) -> None:
        store = await self.open()
        commits = []
        event.listen(store._database, "commit", commits.append)

        def write(number: int) -> Callable[[Connection], int]:
            def add(connection: Connection) -> int:
                name = "0" if number == 7 else str(number)  # one is there already
                connection.execute(insert(schema.settings).values(name=name, value=number))
                if number % 10 == 5:
                    raise ZeroDivisionError
                return number

            return add

        writes = [Deferred.fromCoroutine(store.write(write(number))) for number in range(100)]
        given_up = writes[99]
        given_up.cancel()
        outcomes = await DeferredList(writes, consumeErrors=True)
        for number, (is_done, outcome) in enumerate(outcomes):
            if number == 99:
                self.assertTrue(outcome.check(CancelledError))
            elif number == 7:
                self.assertTrue(outcome.check(IntegrityError))
            elif number % 10 == 5:
                self.assertTrue(outcome.check(ZeroDivisionError))
            else:
                self.assertEqual((is_done, outcome), (True, number))
        self.assertLess(len(commits), self.fewer_transactions_than)
        rows = await store.read(
            lambda c: c.execute(select(schema.settings.c.value)).scalars().all()
        )
        kept = {n for n in range(99) if n != 7 and n % 10 != 5}
        self.assertEqual(set(rows), kept)

    async def test_a_write_that_is_given_up_while_it_goes_on_holds_up_no_other(self) -> None:
        store = await self.open()
        has_begun, may_end = threading.Event(), threading.Event()

        def slow(connection: Connection) -> None:
            has_begun.set()
            may_end.wait()

        given_up = Deferred.fromCoroutine(store.write(slow))
        await deferToThread(has_begun.wait)
        given_up.cancel()
        next_one = Deferred.fromCoroutine(store.write(lambda connection: "written"))
        may_end.set()
        self.assertEqual("written", await next_one)
        await self.assertFailure(given_up, CancelledError)

    async def test_a_transaction_that_is_not_written_is_nobodys(self) -> None:
        store = await self.open()

        def refuse(connection: Connection) -> None:
            raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

        event.listen(store._database, "commit", refuse)
        writes = [
            Deferred.fromCoroutine(
                store.write(
                    lambda c, n=n: c.execute(insert(schema.settings).values(name=n, value=1))
                )
            )
            for n in "abc"
        ]
        for _, outcome in await DeferredList(writes, consumeErrors=True):
            self.assertTrue(outcome.check(StoreError), outcome)
        event.remove(store._database, "commit", refuse)
        self.assertEqual(await store.read(lambda c: c.execute(select(schema.settings)).all()), [])

    async def test_many_writers_at_once_lose_no_update(self) -> None:
        store = await self.open()
        counter = schema.settings

        def increase(connection: Connection) -> None:
            (value,) = connection.execute(select(counter.c.value)).one()
            connection.execute(counter.update().values(value=value + 1))

        await store.write(lambda c: c.execute(insert(counter).values(name="n", value=0)))
        await gatherResults([Deferred.fromCoroutine(store.write(increase)) for _ in range(40)])
        self.assertEqual(
            await store.read(lambda c: c.execute(select(counter.c.value)).scalar()), 40
        )

    async def test_foreign_keys_are_enforced(self) -> None:
        store = await self.open()
        row = {
            "key": "k",
            "mechanism": "pin",
            "host_id": uuid.uuid4(),
            "source": "deployed",
            "added": EPOCH,
        }
        with self.assertRaises(IntegrityError):
            await store.write(lambda c: c.execute(insert(schema.host_keys).values(row)))

    async def test_times_come_back_in_utc(self) -> None:
        store = await self.open()
        elsewhere = EPOCH.astimezone(datetime.timezone(datetime.timedelta(hours=5)))
        user = {
            "id": uuid.uuid4(),
            "name": "u",
            "password_hash": "",
            "role": "",
            "disabled": False,
        }

        def write_and_read(connection: Connection) -> object:
            connection.execute(insert(schema.users).values(created=elsewhere, **user))
            return connection.execute(select(schema.users.c.created)).scalar()

        found = await store.write(write_and_read)
        self.assertEqual(str(found), "2026-01-01 00:00:00+00:00")

    async def test_a_closed_store_says_so(self) -> None:
        store = await self.open()
        await store.close()
        with self.assertRaisesRegex(StoreError, "closed"):
            await store.read(clusters.all_clusters)


class RefusalTests(TestCase):
    async def refusal(self, url: str) -> str:
        with self.assertRaises(StoreError) as caught:
            await Store.open(reactor, url)
        return str(caught.exception)

    async def test_a_database_from_a_newer_version_is_left_alone(self) -> None:
        path = Path(self.mktemp())
        store = await Store.open(reactor, f"sqlite:///{path}")
        await store.write(
            lambda c: c.execute(text("UPDATE alembic_version SET version_num='9999'"))
        )
        await store.close()
        self.assertIn("newer pkengine", await self.refusal(f"sqlite:///{path}"))
        connection = sqlite3.connect(path)
        self.addCleanup(connection.close)
        self.assertEqual(
            connection.execute("SELECT version_num FROM alembic_version").fetchall(), [("9999",)]
        )

    async def test_the_tables_of_another_program_are_left_alone(self) -> None:
        path = Path(self.mktemp())
        connection = sqlite3.connect(path)
        self.addCleanup(connection.close)
        connection.execute("CREATE TABLE users (name TEXT)")
        self.assertIn("another program, such as 'users'", await self.refusal(f"sqlite:///{path}"))
        self.assertEqual(
            connection.execute("SELECT name FROM sqlite_master").fetchall(), [("users",)]
        )

    async def test_a_file_that_is_no_database_is_named(self) -> None:
        path = Path(self.mktemp())
        path.write_text("this is a letter, not a database" * 100)
        self.assertIn(str(path), await self.refusal(f"sqlite:///{path}"))

    async def test_a_malformed_url_is_answered_with_the_forms_that_are_understood(self) -> None:
        for url in ("nonsense", "mysql://u@h/d", ""):
            self.assertIn("expected 'sqlite:////PATH'", await self.refusal(url))

    async def test_the_password_in_a_url_is_not_repeated(self) -> None:
        said = await self.refusal("postgresql://u:hunter2@127.0.0.1:1/d?connect_timeout=1")
        self.assertNotIn("hunter2", said)
        self.assertIn("127.0.0.1", said)
