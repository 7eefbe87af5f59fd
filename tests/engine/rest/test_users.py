"""Users, what each role may do, tokens for automation, and the audit log."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import ADMIN
from pkengine.engine.store import schema
from pkengine.engine.users import Role
from tests.engine.rest.served import ServedEngine

PASSWORD = "correct horse battery"
DAY_S = 24 * 3600


class UsersTestCase(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        self.administrator = self.engine.authorization
        self.ids: dict[str, str] = {}

    async def add_user(self, name: str, role: str = "viewer") -> str:
        """Add a user; give the header of a session of it."""
        reply = await self.engine.request(
            "POST",
            "/users",
            {"user_name": name, "password": PASSWORD, "role": role},
            accept="application/json",
        )
        self.assertEqual(reply.status, 201, reply)
        self.ids[name] = reply.json()["id"]
        return await self.log_in(name)

    async def log_in(self, name: str, password: str = PASSWORD) -> str:
        text = await self.engine.log_in(f"{name}@internal", password)
        self.engine.authorization = self.administrator
        return f"Bearer {text}"

    async def add_token(self, authorization: str, name: str, **body: Any) -> Any:
        reply = await self.engine.request(
            "POST",
            f"/users/{self.ids[name]}/tokens",
            {"name": "ci", **body},
            accept="application/json",
            authorization=authorization,
        )
        self.assertEqual(reply.status, 201, reply)
        return reply.json()

    async def status(
        self, method: str, path: str, body: Any = None, *, authorization: str | None = None
    ) -> int:
        reply = await self.engine.request(method, path, body, authorization=authorization)
        if reply.status >= 400:
            reply.fault()
        return reply.status


class UserTests(UsersTestCase):
    async def test_user_is_added_logs_in_and_is_shown_without_the_password(self) -> None:
        bearer = await self.add_user("ann", "operator")
        user = await self.engine.get_json(f"/users/{self.ids['ann']}", authorization=bearer)
        self.assertEqual((user["user_name"], user["role"]), ("ann@internal", "operator"))
        self.assertNotIn("password", user)
        rows = await self.engine.store.read(lambda c: c.execute(schema.users.select()).all())
        self.assertTrue(all(row.password_hash.startswith("$argon2id$") for row in rows))

    async def test_only_administrators_see_who_else_there_is(self) -> None:
        bearer = await self.add_user("ann")
        await self.add_user("bob")
        everybody = (await self.engine.get_json("/users"))["user"]
        self.assertEqual(len(everybody), 3)
        found = (await self.engine.get_json("/users?search=name%3Dbob*"))["user"]
        self.assertEqual([user["user_name"] for user in found], ["bob@internal"])
        seen = (await self.engine.get_json("/users", authorization=bearer))["user"]
        self.assertEqual([user["user_name"] for user in seen], ["ann@internal"])
        for path in ("", "/tokens"):
            path = f"/users/{self.ids['bob']}{path}"
            self.assertEqual(await self.status("GET", path, authorization=bearer), 404)

    async def test_change_of_role_holds_at_once(self) -> None:
        bearer = await self.add_user("ann")
        host_id = await self.engine.add_host_that_is_up()
        path = f"/hosts/{host_id}/deactivate"
        self.assertEqual(await self.status("POST", path, authorization=bearer), 403)
        await self.engine.request("PUT", f"/users/{self.ids['ann']}", {"role": "operator"})
        self.assertEqual(await self.status("POST", path, authorization=bearer), 200)
        await self.engine.request("PUT", f"/users/{self.ids['ann']}", {"disabled": True})
        self.assertEqual(await self.status("GET", "/hosts", authorization=bearer), 401)

    async def test_another_password_ends_the_sessions(self) -> None:
        bearer = await self.add_user("ann")
        body = {"password": "a wholly new one", "current_password": PASSWORD}
        path = f"/users/{self.ids['ann']}"
        self.assertEqual(await self.status("PUT", path, body, authorization=bearer), 200)
        self.assertEqual(await self.status("GET", "/hosts", authorization=bearer), 401)
        bearer = await self.log_in("ann", "a wholly new one")
        self.assertEqual(await self.status("GET", "/hosts", authorization=bearer), 200)

    async def test_who_changes_the_own_password_proves_the_old_one(self) -> None:
        bearer = await self.add_user("ann")
        path = f"/users/{self.ids['ann']}"
        for more, status in (({}, 400), ({"current_password": "wrong"}, 401)):
            body = {"password": "a wholly new one", **more}
            self.assertEqual(await self.status("PUT", path, body, authorization=bearer), status)
        for body in ({"role": "administrator"}, {"disabled": True}):
            self.assertEqual(await self.status("PUT", path, body, authorization=bearer), 403)

    async def test_somebody_stays_who_can_administrate(self) -> None:
        [admin] = (await self.engine.get_json("/users"))["user"]
        path = f"/users/{admin['id']}"
        for body in ({"role": "viewer"}, {"disabled": True}):
            self.assertEqual(await self.status("PUT", path, body), 409)
        self.assertEqual(await self.status("DELETE", path), 409)
        await self.add_user("ann", "administrator")
        self.assertEqual(await self.status("PUT", path, {"role": "viewer"}), 200)

    async def test_user_that_is_removed_is_out_at_once(self) -> None:
        bearer = await self.add_user("ann")
        token = await self.add_token(bearer, "ann")
        self.assertEqual(await self.status("DELETE", f"/users/{self.ids['ann']}"), 200)
        for authorization in (bearer, f"Bearer {token['access_token']}"):
            self.assertEqual(await self.status("GET", "/hosts", authorization=authorization), 401)
        self.assertEqual(await self.status("GET", f"/users/{self.ids['ann']}"), 404)

    async def test_bad_users_are_refused(self) -> None:
        await self.add_user("ann")
        for body, status in (
            ({"user_name": "ann", "password": PASSWORD}, 409),
            ({"user_name": "bob"}, 400),
            ({"password": PASSWORD}, 400),
            ({"user_name": "bob", "password": "short"}, 400),
            ({"user_name": "Bob Smith", "password": PASSWORD}, 400),
            ({"user_name": "bob@elsewhere", "password": PASSWORD}, 400),
            ({"user_name": "bob", "password": PASSWORD, "role": "god"}, 400),
        ):
            self.assertEqual(await self.status("POST", "/users", body), status, body)
        path = f"/users/{self.ids['ann']}"
        self.assertEqual(await self.status("PUT", path, {"user_name": "eve"}), 400)
        for method in ("GET", "PUT", "DELETE"):
            body = {} if method == "PUT" else None
            self.assertEqual(await self.status(method, f"/users/{uuid.uuid4()}", body), 404)

    async def test_no_role_but_the_administrator_decides_whom_to_trust(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        decisions = (
            ("POST", "/hosts", {"name": "h2", "address": "192.0.2.9"}),
            ("PUT", f"/hosts/{host_id}", {"comment": "x"}),
            ("DELETE", f"/hosts/{host_id}", None),
            ("POST", f"/hosts/{host_id}/install", None),
            ("GET", "/sshkeys?address=192.0.2.1", None),
            ("POST", "/users", {"user_name": "eve", "password": PASSWORD}),
            ("GET", "/audit", None),
        )
        for role in ("viewer", "operator"):
            bearer = await self.add_user(role, role)
            for method, path, body in decisions:
                status = await self.status(method, path, body, authorization=bearer)
                self.assertEqual(status, 403, (role, method, path))


class TokenTests(UsersTestCase):
    async def test_token_is_shown_once_and_stored_as_a_hash(self) -> None:
        bearer = await self.add_user("ann")
        token = await self.add_token(bearer, "ann")
        path = f"/users/{self.ids['ann']}/tokens"
        [shown] = (await self.engine.get_json(path, authorization=bearer))["token"]
        self.assertNotIn("access_token", shown)
        self.assertEqual((shown["name"], shown["role"]), ("ci", "viewer"))
        one = await self.engine.get_json(f"{path}/{token['id']}", authorization=bearer)
        self.assertEqual(one, shown)
        rows = await self.engine.store.read(lambda c: c.execute(schema.tokens.select()).all())
        self.assertFalse(any(token["access_token"] in str(row) for row in rows))

    async def test_token_does_what_its_role_allows_and_not_what_its_user_may(self) -> None:
        bearer = await self.add_user("ann", "administrator")
        token = await self.add_token(bearer, "ann", role="operator")
        automation = f"Bearer {token['access_token']}"
        host_id = await self.engine.add_host_that_is_up()
        path = f"/hosts/{host_id}"
        self.assertEqual(await self.status("DELETE", path, authorization=automation), 403)
        path += "/deactivate"
        self.assertEqual(await self.status("POST", path, authorization=automation), 200)
        [event] = (await self.engine.get_json("/events?search=type%3D15"))["event"]
        self.assertEqual(event["user"]["user_name"], "ann@internal")

    async def test_token_is_never_worth_more_than_its_user(self) -> None:
        bearer = await self.add_user("ann", "operator")
        path = f"/users/{self.ids['ann']}/tokens"
        body = {"name": "ci", "role": "administrator"}
        self.assertEqual(await self.status("POST", path, body, authorization=bearer), 403)
        token = await self.add_token(bearer, "ann", role="operator")
        await self.engine.request("PUT", f"/users/{self.ids['ann']}", {"role": "viewer"})
        automation = f"Bearer {token['access_token']}"
        path = f"/hosts/{uuid.uuid4()}/deactivate"
        self.assertEqual(await self.status("POST", path, authorization=automation), 403)

    async def test_token_ends_when_it_is_said_to_whether_it_is_used_or_not(self) -> None:
        bearer = await self.add_user("ann")
        token = await self.add_token(bearer, "ann", days=2)
        automation = f"Bearer {token['access_token']}"
        for _ in range(3):
            self.assertEqual(await self.status("GET", "/hosts", authorization=automation), 200)
            self.engine.clock.advance(DAY_S / 2)
        self.engine.clock.advance(DAY_S / 2)
        self.assertEqual(await self.status("GET", "/hosts", authorization=automation), 401)

    async def test_token_that_is_revoked_ends_at_once(self) -> None:
        bearer = await self.add_user("ann")
        token = await self.add_token(bearer, "ann")
        automation = f"Bearer {token['access_token']}"
        self.assertEqual(await self.status("GET", "/hosts", authorization=automation), 200)
        path = f"/users/{self.ids['ann']}/tokens/{token['id']}"
        self.assertEqual(await self.status("DELETE", path, authorization=bearer), 200)
        self.assertEqual(await self.status("GET", "/hosts", authorization=automation), 401)
        self.assertEqual(await self.status("DELETE", path, authorization=bearer), 404)

    async def test_token_that_leaked_becomes_no_more_of_them(self) -> None:
        bearer = await self.add_user("ann", "administrator")
        token = await self.add_token(bearer, "ann", role="administrator")
        automation = f"Bearer {token['access_token']}"
        user = f"/users/{self.ids['ann']}"
        for method, path, body in (
            ("POST", f"{user}/tokens", {"name": "more"}),
            ("DELETE", f"{user}/tokens/{token['id']}", None),
            ("PUT", user, {"password": PASSWORD}),
            ("POST", "/users", {"user_name": "eve", "password": PASSWORD}),
            ("DELETE", user, None),
        ):
            status = await self.status(method, path, body, authorization=automation)
            self.assertEqual(status, 403, (method, path))

    async def test_nobody_gets_a_token_of_somebody_else(self) -> None:
        await self.add_user("ann")
        path = f"/users/{self.ids['ann']}/tokens"
        self.assertEqual(await self.status("POST", path, {"name": "ci"}), 403)

    async def test_bad_tokens_are_refused(self) -> None:
        bearer = await self.add_user("ann")
        path = f"/users/{self.ids['ann']}/tokens"
        for body in ({}, {"name": ""}, {"name": "ci", "days": 0}, {"name": "ci", "days": 367}):
            self.assertEqual(await self.status("POST", path, body, authorization=bearer), 400)

    async def test_number_of_tokens_is_bounded(self) -> None:
        bearer = await self.add_user("ann")
        for _ in range(100):
            await self.add_token(bearer, "ann")
        path = f"/users/{self.ids['ann']}/tokens"
        self.assertEqual(
            await self.status("POST", path, {"name": "ci"}, authorization=bearer), 409
        )


class AuditTests(UsersTestCase):
    async def records(self, query: str = "") -> list[Any]:
        found: list[Any] = (await self.engine.get_json(f"/audit{query}"))["audit_record"]
        return found

    async def test_decisions_about_hosts_tell_who_from_where_and_what(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        await self.engine.request("POST", f"/hosts/{host_id}/deactivate")
        self.engine.clock.advance(1)
        await self.engine.request("DELETE", f"/hosts/{host_id}?force=true")
        records = {int(record["code"]): record for record in await self.records()}
        self.assertLessEqual({42, 504, 44}, set(records))
        self.assertNotIn(15, records)
        for code in (42, 504, 44):
            self.assertEqual(records[code]["user_name"], ADMIN)
            self.assertEqual(records[code]["address"], "127.0.0.1")
        self.assertIn("SHA256:", records[42]["description"])
        self.assertIn("sha256//", records[504]["description"])

    async def test_changes_of_users_and_tokens_are_told_without_secrets(self) -> None:
        bearer = await self.add_user("ann")
        token = await self.add_token(bearer, "ann")
        await self.engine.request(
            "PUT",
            f"/users/{self.ids['ann']}",
            {"role": "operator", "password": "a wholly new one"},
        )
        await self.engine.request("DELETE", f"/users/{self.ids['ann']}/tokens/{token['id']}")
        await self.engine.request("DELETE", f"/users/{self.ids['ann']}")
        records = await self.records("?search=code%3E20000")
        told = [record["description"] for record in reversed(records)]
        expires = self.engine.clock.seconds() + 90 * DAY_S
        until = datetime.datetime.fromtimestamp(expires, datetime.timezone.utc)
        self.assertEqual(
            told,
            [
                f"User ann@internal was added with the role viewer by {ADMIN}.",
                "Token 'ci' of user ann@internal was issued with the role viewer, until "
                f"{until:%Y-%m-%d %H:%M} UTC.",
                f"User ann@internal was changed by {ADMIN}: role viewer became operator; "
                "another password.",
                f"Token 'ci' of user ann@internal was revoked by {ADMIN}.",
                f"User ann@internal was removed by {ADMIN}.",
            ],
        )
        for secret in (token["access_token"], PASSWORD, "a wholly new one"):
            self.assertNotIn(secret, str(await self.engine.get_json("/events")))

    async def test_one_record_is_read_by_itself_and_other_events_are_none(self) -> None:
        await self.add_user("ann")
        record = (await self.records("?max=1"))[0]
        self.assertEqual(await self.engine.get_json(f"/audit/{record['id']}"), record)
        self.assertEqual(await self.status("GET", "/audit/1"), 404)

    async def test_wrong_logins_are_on_record_with_their_address(self) -> None:
        await self.engine.post_form(
            "/ovirt-engine/sso/oauth/token",
            grant_type="password",
            username=ADMIN,
            password="guess",
        )
        [record] = await self.records("?search=code%3D114")
        self.assertEqual(record["address"], "127.0.0.1")


class RoleTests(UsersTestCase):
    async def test_there_are_three_roles(self) -> None:
        roles = (await self.engine.get_json("/roles"))["role"]
        self.assertEqual({role["name"] for role in roles}, {role.value for role in Role})
        for role in roles:
            self.assertEqual(await self.engine.get_json(role["href"]), role)
        self.assertEqual(await self.status("GET", f"/roles/{uuid.uuid4()}"), 404)
