"""Pending key changes over the API: what is shown, and who may decide."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import TestCase

from pkengine.errors import HostKeyMismatch
from pkengine.keys import SshPublicKey
from tests.engine.rest.served import HOST_KEY, Reply, ServedEngine

NEW_KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"
)
NEW = str(NEW_KEY.fingerprint())


class KeyChangeTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        self.host_id = await self.engine.add_host("h1")
        self.engine.finish_deployment()
        await self.engine.request("POST", f"/hosts/{self.host_id}/deactivate")
        self.engine.clock.advance(1)
        self.path = f"/hosts/{self.host_id}/keychange"

    async def meet(self) -> Reply:
        """Let the host show another key when it is installed."""
        self.engine.network.refusal = HostKeyMismatch("Expected A, found B.", [str(NEW_KEY)])
        reply = await self.engine.request("POST", f"/hosts/{self.host_id}/install")
        self.engine.network.refusal = None
        return reply

    async def decide(self, verb: str, body: Any = None, **options: Any) -> Reply:
        return await self.engine.request(
            "POST", f"{self.path}/{verb}", body, accept="application/json", **options
        )

    async def test_a_change_is_shown_with_both_keys_in_both_forms(self) -> None:
        refused = await self.meet()
        self.assertEqual(refused.status, 409)
        self.assertIn("pending key change", refused.fault()[1])
        change = await self.engine.get_json(self.path)
        self.assertEqual(change["host"]["name"], "h1")
        self.assertEqual(change["old_key"]["fingerprint"], str(HOST_KEY.fingerprint()))
        self.assertEqual(change["old_key"]["public_key"], str(HOST_KEY))
        [found] = change["new_keys"]["ssh_key"]
        self.assertEqual((found["type"], found["fingerprint"]), ("ssh-ed25519", NEW))
        self.assertEqual(change["operation"], "install")
        self.assertEqual(change["user_name"], "admin@internal")
        self.assertEqual(change["times_seen"], "1")
        links = {link["rel"]: link["href"] for link in change["actions"]["link"]}
        self.assertTrue(links["approve"].endswith(f"{self.path}/approve"))
        xml = (await self.engine.get(self.path)).xml()
        self.assertEqual(xml.tag, "key_change")
        self.assertEqual(xml.findtext("new_keys/ssh_key/fingerprint"), NEW)

    async def test_all_that_wait_are_listed(self) -> None:
        self.assertEqual(await self.engine.get_json("/keychanges"), {"key_change": []})
        await self.meet()
        [change] = (await self.engine.get_json("/keychanges"))["key_change"]
        self.assertEqual(change["id"], self.host_id)

    async def test_the_fingerprint_approves(self) -> None:
        await self.meet()
        reply = await self.decide("approve", {"ssh": {"fingerprint": NEW}})
        self.assertEqual((reply.status, reply.json()["status"]), (200, "complete"))
        host = await self.engine.get_json(f"/hosts/{self.host_id}")
        self.assertEqual(host["ssh"]["public_key"], str(NEW_KEY))
        self.assertEqual(host["ssh"]["key_source"], "approved")
        self.assertEqual((await self.engine.get(self.path)).status, 404)
        audit = await self.engine.get_json("/audit")
        self.assertEqual(audit["audit_record"][0]["code"], "13002")

    async def test_nothing_else_does(self) -> None:
        await self.meet()
        for body, status in (
            (None, 400),
            ({}, 400),
            ({"ssh": {"fingerprint": ""}}, 400),
            ({"ssh": {"fingerprint": "yes"}}, 400),
            ({"ssh": {"fingerprint": str(HOST_KEY.fingerprint())}}, 409),
        ):
            reply = await self.decide("approve", body)
            self.assertEqual(reply.status, status, body)
        host = await self.engine.get_json(f"/hosts/{self.host_id}")
        self.assertEqual(host["ssh"]["public_key"], str(HOST_KEY))

    async def test_rejecting_keeps_the_stored_key(self) -> None:
        await self.meet()
        self.assertEqual((await self.decide("reject")).status, 200)
        self.assertEqual((await self.decide("reject")).status, 404)
        host = await self.engine.get_json(f"/hosts/{self.host_id}")
        self.assertEqual(host["ssh"]["public_key"], str(HOST_KEY))

    async def test_whoever_may_not_decide_whom_to_trust_may_look_only(self) -> None:
        await self.meet()
        for role in ("viewer", "operator"):
            user = {"user_name": f"{role}@internal", "password": "a-password-of-12", "role": role}
            await self.engine.request("POST", "/users", user)
            token = self.engine.authorization
            await self.engine.log_in(f"{role}@internal", "a-password-of-12")
            self.assertEqual((await self.engine.get(self.path)).status, 200)
            for verb in ("approve", "reject"):
                reply = await self.decide(verb, {"ssh": {"fingerprint": NEW}})
                self.assertEqual(reply.status, 403)
            self.engine.authorization = token

    async def test_an_unknown_host_has_none(self) -> None:
        reply = await self.engine.get("/hosts/00000000-0000-4000-8000-000000000000/keychange")
        self.assertEqual(reply.status, 404)
