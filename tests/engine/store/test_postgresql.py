"""The store, and what relies on it, with a real PostgreSQL in the place of SQLite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy import Engine, create_engine, make_url
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.engine.engine_process import EngineProcess
from tests.engine.rest import served
from tests.engine.store import postgresql, test_database, test_search


class StoreTests(test_database.StoreTests):
    skip = postgresql.SKIP
    fewer_transactions_than = 100  # each is one of its own, beside others

    def setUp(self) -> None:
        self.url = postgresql.new_database(self)

    async def test_engines_that_start_at_once_make_the_tables_one_after_the_other(self) -> None:
        await gatherResults([Deferred.fromCoroutine(self.open()) for _ in range(3)])


class SqlSearchTests(test_search.SqlSearchTests):
    skip = postgresql.SKIP

    def database(self) -> Engine:
        url = make_url(postgresql.new_database(self))
        return create_engine(url.set(drivername="postgresql+psycopg"))

    # One of its own, for hypothesis wants each test function in one class only.
    @test_search.given_patterns
    def test_patterns_mean_the_same_in_sql_and_in_memory(
        self, pattern: test_search.Pattern
    ) -> None:
        self.check_pattern(pattern)


class ApiTests(TestCase):
    """The API in memory, over a database of PostgreSQL."""

    skip = postgresql.SKIP

    async def setUp(self) -> None:
        self.engine = await served.ServedEngine.start(self, postgresql.new_database(self))

    async def test_host_lives_and_is_found(self) -> None:
        host_id = await self.engine.add_host_that_is_up("web1")
        await self.engine.add_host("web2")
        for search in (
            'name="WEB*" and status=up',
            "cpu_cores>4",
            "address=192.0.2.1 sortby name",
        ):
            found = await self.engine.get_json(f"/hosts?search={quote(search)}")
            self.assertEqual([host["id"] for host in found["host"]], [host_id], search)
        await self.engine.request("POST", f"/hosts/{host_id}/deactivate", "<action/>")
        self.engine.clock.advance(1)
        await self.engine.request("PUT", f"/hosts/{host_id}", {"name": "web2"})
        self.assertEqual((await self.engine.get_json(f"/hosts/{host_id}"))["name"], "web1")
        reply = await self.engine.request("DELETE", f"/hosts/{host_id}")
        self.assertEqual(
            (reply.status, (await self.engine.get(f"/hosts/{host_id}")).status), (200, 404)
        )
        events = (await self.engine.get_json("/events?search=host.name%3Dweb1&max=3"))["event"]
        self.assertEqual(events[0]["code"], "44")
        self.assertGreater(len((await self.engine.get_json("/jobs"))["job"]), 1)

    async def test_users_and_their_tokens(self) -> None:
        user = {"user_name": "ann", "password": "correct horse battery", "role": "operator"}
        reply = await self.engine.request("POST", "/users", user, accept="application/json")
        path = f"/users/{reply.json()['id']}"
        token = await self.engine.log_in("ann@internal", user["password"])
        await self.engine.log_in()
        await self.engine.request("PUT", path, {"role": "viewer"})
        asked = await self.engine.get_json("/users", authorization=f"Bearer {token}")
        self.assertEqual([found["role"] for found in asked["user"]], ["viewer"])
        await self.engine.request("DELETE", path)
        reply = await self.engine.get("/users", authorization=f"Bearer {token}")
        self.assertEqual(reply.status, 401)


class EngineTests(TestCase):
    """Two engines, each a process with a state folder of its own, share one database."""

    skip = postgresql.SKIP
    timeout = 120

    async def start(self, url: str) -> EngineProcess:
        engine = EngineProcess(reactor, Path(self.mktemp()), "--database", url)
        self.addCleanup(lambda: Deferred.fromCoroutine(engine.stop()))
        await engine.ready
        return engine

    async def test_token_of_one_holds_at_the_other_and_ends_there_too(self) -> None:
        url = postgresql.new_database(self)
        first = await self.start(url)
        second = await self.start(url)

        async def ask(engine: EngineProcess, token: str) -> int:
            status, _ = await engine.request(
                "GET", f"{engine.url}/hosts", Authorization=f"Bearer {token}"
            )
            return status

        async def post(engine: EngineProcess, path: str, **form: str) -> Any:
            status, answer = await engine.request(
                "POST",
                engine.url.removesuffix("/api") + path,
                urlencode(form).encode(),
                Content_Type="application/x-www-form-urlencoded",
            )
            self.assertEqual(status, 200, answer)
            return json.loads(answer)

        answer = await post(
            first,
            "/sso/oauth/token",
            grant_type="password",
            username="admin@internal",
            password=first.password,
        )
        token = answer["access_token"]
        self.assertEqual([await ask(one, token) for one in (first, second)], [200, 200])
        await post(first, "/sso/oauth/revoke", token=token)
        self.assertEqual(await ask(first, token), 401)
        while await ask(second, token) == 200:
            await deferLater(reactor, 0.1)
