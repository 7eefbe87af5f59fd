"""Known SSH keys and jump hosts over the API."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import TestCase

from pkengine.errors import HostKeyMismatch
from tests.engine.rest.served import HOST_KEY, Reply, ServedEngine
from tests.engine.rest.test_key_changes import NEW_KEY

FINGERPRINT = str(HOST_KEY.fingerprint())


class KnownHostTestCase(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)

    async def post(self, path: str, body: Any, **options: Any) -> Reply:
        return await self.engine.request("POST", path, body, accept="application/json", **options)

    async def take(self, content: str) -> Reply:
        return await self.post("/knownhosts/import", {"name": "mine", "content": content})

    async def known(self) -> list[Any]:
        found: list[Any] = (await self.engine.get_json("/knownhosts"))["known_host"]
        return found


class KnownHostTests(KnownHostTestCase):
    async def test_a_file_is_imported_and_each_line_tells_what_it_is_for(self) -> None:
        await self.engine.add_host("web1")
        content = f"# mine\n192.0.2.* {HOST_KEY} all\n\n@revoked * {NEW_KEY}\n"
        reply = await self.take(content)
        self.assertEqual(reply.status, 200, reply)
        first, second = reply.json()["imported_host"]
        self.assertEqual(first["names"], "192.0.2.*")
        self.assertEqual(first["fingerprint"], FINGERPRINT)
        self.assertEqual((first["comment"], first["key_source"]), ("all", "known_hosts"))
        self.assertEqual(first["user_name"], "admin@internal")
        self.assertEqual((first["is_new"], first["hosts"]), ("true", {"name": ["web1"]}))
        self.assertEqual(second["marker"], "@revoked")
        again = (await self.take(content)).json()["imported_host"]
        self.assertEqual([each["is_new"] for each in again], ["false", "false"])
        self.assertEqual([each["id"] for each in await self.known()], [first["id"], second["id"]])

    async def test_a_bad_line_is_named_and_none_is_taken(self) -> None:
        reply = await self.take(f"a {HOST_KEY}\nb ssh-ed25519 nonsense\n")
        self.assertEqual(reply.status, 400)
        self.assertIn("mine, line 2:", reply.fault()[1])
        self.assertEqual(await self.known(), [])
        self.assertEqual((await self.take("# nothing\n")).status, 400)

    async def test_an_authority_is_accepted_shown_and_removed(self) -> None:
        body = {"marker": "@cert-authority", "names": "*.example.org", "public_key": str(HOST_KEY)}
        reply = await self.post("/knownhosts", body)
        self.assertEqual(reply.status, 201, reply)
        made = reply.json()
        path = f"/knownhosts/{made['id']}"
        self.assertTrue(reply.headers["location"].endswith(path))
        self.assertEqual(await self.engine.get_json(path), made)
        self.assertEqual(made["marker"], "@cert-authority")
        xml = (await self.engine.get("/knownhosts")).xml()
        self.assertEqual(xml.findtext("known_host/names"), "*.example.org")
        self.assertEqual((await self.engine.request("DELETE", path)).status, 200)
        self.assertEqual((await self.engine.get(path)).status, 404)
        self.assertEqual((await self.engine.request("DELETE", path)).status, 404)

    async def test_what_is_no_key_is_refused(self) -> None:
        for body, part in (
            ({}, "[names, public_key] required"),
            ({"names": "a"}, "[public_key] required"),
            ({"names": "a", "public_key": "x y"}, "no known SSH key"),
            ({"names": "a b", "public_key": str(HOST_KEY)}, "no known SSH key"),
            ({"names": "a", "public_key": str(HOST_KEY), "marker": "@evil"}, "no marker"),
            ({"names": "|1|a|b", "public_key": str(HOST_KEY)}, "no hashed name"),
        ):
            reply = await self.post("/knownhosts", body)
            self.assertEqual(reply.status, 400, body)
            self.assertIn(part, reply.fault()[1])
        self.assertEqual(await self.known(), [])

    async def test_hosts_are_exported_with_it(self) -> None:
        await self.engine.add_host("web1")
        await self.take(f"@revoked * {NEW_KEY}\n")
        found = await self.engine.get_json("/knownhosts/export")
        self.assertEqual(found["content"], f"192.0.2.1 {HOST_KEY} web1\n@revoked * {NEW_KEY}\n")

    async def test_viewers_look_and_administrators_decide(self) -> None:
        body = {"user_name": "vera", "password": "a long password", "role": "viewer"}
        await self.post("/users", body)
        viewer = self.engine.basic("vera@internal", "a long password")
        reply = await self.engine.get("/knownhosts", authorization=viewer)
        self.assertEqual(reply.status, 200)
        reply = await self.engine.get("/knownhosts/export", authorization=viewer)
        self.assertEqual(reply.status, 200)
        for path in ("/knownhosts", "/knownhosts/import", "/sshkeys"):
            self.assertEqual((await self.post(path, {}, authorization=viewer)).status, 403)


class JumpTests(KnownHostTestCase):
    BODY = {
        "name": "web1",
        "address": "192.0.2.1",
        "root_password": "x",
        "ssh": {
            "jump_hosts": {
                "jump_host": [
                    {
                        "address": "bastion",
                        "port": 2222,
                        "user": {"user_name": "ops", "password": "jump secret"},
                        "fingerprint": FINGERPRINT,
                    }
                ]
            }
        },
    }

    async def test_a_host_is_added_through_another_and_shows_the_way_without_secrets(self) -> None:
        reply = await self.post("/hosts", self.BODY)
        self.assertEqual(reply.status, 201, reply)
        self.assertNotIn(b"jump secret", reply.body)
        (jump,) = reply.json()["ssh"]["jump_hosts"]["jump_host"]
        self.assertEqual(
            jump, {"address": "bastion", "port": "2222", "user": {"user_name": "ops"}}
        )
        (target, policy, password, use_key), last = self.engine.network.logins
        self.assertEqual((target.address, target.port, target.user), ("bastion", 2222, "ops"))
        self.assertEqual(policy.given, HOST_KEY.fingerprint())
        assert password is not None
        self.assertEqual((password.reveal_text(), use_key), ("jump secret", False))
        self.assertEqual(last[0].address, "192.0.2.1")

    async def test_the_way_is_changed_and_removed_by_an_update_in_xml(self) -> None:
        host_id = (await self.post("/hosts", self.BODY)).json()["id"]
        path = f"/hosts/{host_id}"
        body = "<host><ssh><jump_hosts><jump_host><address>b2</address></jump_host>"
        body += "</jump_hosts></ssh></host>"
        xml = (await self.engine.request("PUT", path, body)).xml()
        self.assertEqual(xml.findtext("ssh/jump_hosts/jump_host/address"), "b2")
        self.assertEqual(xml.findtext("ssh/jump_hosts/jump_host/user/user_name"), "root")
        xml = (await self.engine.request("PUT", path, "<host><comment>x</comment></host>")).xml()
        self.assertIsNotNone(xml.find("ssh/jump_hosts"))
        body = "<host><ssh><jump_hosts/></ssh></host>"
        xml = (await self.engine.request("PUT", path, body)).xml()
        self.assertIsNone(xml.find("ssh/jump_hosts"))

    async def test_which_of_both_has_a_wrong_key_is_told(self) -> None:
        self.engine.network.refusal = HostKeyMismatch("Expected A, found B.")
        reply = await self.post("/hosts", self.BODY)
        self.assertEqual(reply.status, 409)
        self.assertIn("At the jump host ops@bastion:2222, on the way:", reply.fault()[1])

    async def test_keys_are_fetched_through_it_with_what_is_known_of_them(self) -> None:
        await self.take(f"192.0.2.1 {HOST_KEY}\n")
        reply = await self.post("/sshkeys", self.BODY)
        self.assertEqual(reply.status, 200, reply)
        (key,) = reply.json()["ssh_key"]
        self.assertEqual(key["fingerprint"], FINGERPRINT)
        self.assertEqual((key["standing"], key["key_source"]), ("known", "known_hosts"))
        (login,) = self.engine.network.logins
        self.assertEqual(login[0].address, "bastion")

    async def test_one_without_an_address_is_incomplete(self) -> None:
        body = {**self.BODY, "ssh": {"jump_hosts": {"jump_host": [{"port": 22}]}}}
        reply = await self.post("/hosts", body)
        self.assertEqual(reply.status, 400)
        self.assertIn("JumpHost [address] required", reply.fault()[1])
