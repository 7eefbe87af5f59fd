"""Invitations over the API: who may make them, and that a code is shown once."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import TestCase

from pkengine.auth.join_code import JoinCode
from pkengine.engine.events import EventCode
from tests.engine.rest.served import Reply, ServedEngine


class InvitationTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)

    async def invite(self, **wanted: Any) -> Any:
        reply = await self.ask("POST", "/invitations", wanted)
        self.assertEqual(reply.status, 201, reply.body)
        return reply.json()

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        return await self.engine.request(method, path, body, accept="application/json", **options)

    async def test_the_answer_that_makes_it_has_the_code_and_where_to_type_it(self) -> None:
        made = await self.invite(host_name="h1", approve=True, expires_in=600)
        code = JoinCode.parse(made["code"])
        self.assertEqual(made["number"], str(code.number))
        self.assertEqual((made["host_name"], made["approve"]), ("h1", "true"))
        self.assertEqual(made["expires"] - made["created"], 600_000)
        self.assertEqual((made["state"], made["user_name"]), ("open", "admin@internal"))
        self.assertEqual(made["url"], "https://engine.example:8443")
        self.assertTrue(made["href"].endswith(f"/invitations/{made['id']}"))

    async def test_no_other_answer_has_the_code(self) -> None:
        made = await self.invite()
        shown = await self.engine.get_json(f"/invitations/{made['id']}")
        self.assertEqual(shown, {name: made[name] for name in made if name != "code"})
        self.assertEqual(await self.engine.get_json("/invitations"), {"invitation": [shown]})

    async def test_xml_says_the_same(self) -> None:
        reply = await self.engine.request(
            "POST", "/invitations", "<invitation><host_name>h1</host_name></invitation>"
        )
        self.assertEqual(reply.status, 201)
        invitation = reply.xml()
        self.assertEqual(invitation.findtext("host_name"), "h1")
        JoinCode.parse(str(invitation.findtext("code")))

    async def test_nothing_needs_to_be_said(self) -> None:
        reply = await self.engine.request("POST", "/invitations")
        self.assertEqual(reply.status, 201)

    async def test_an_invitation_is_revoked_once(self) -> None:
        made = await self.invite()
        reply = await self.ask("DELETE", f"/invitations/{made['id']}")
        self.assertEqual(reply.status, 200)
        shown = await self.engine.get_json(f"/invitations/{made['id']}")
        self.assertEqual(shown["state"], "revoked")
        self.assertIn("ended", shown)
        again = await self.ask("DELETE", f"/invitations/{made['id']}")
        self.assertEqual(again.status, 409)
        self.assertIn("was revoked", again.fault()[1])

    async def test_what_is_wrong_is_said(self) -> None:
        await self.engine.add_host("taken")
        for wanted, status in (
            ({"host_name": "taken"}, 409),
            ({"host_name": "no name"}, 400),
            ({"expires_in": "1"}, 400),
            ({"code": "7-guitar-volcano", "number": "7", "host_name": "h1"}, 201),
            ({"unknown": "1"}, 400),
        ):
            reply = await self.ask("POST", "/invitations", wanted)
            self.assertEqual(reply.status, status, wanted)
        missing = "/invitations/00000000-0000-0000-0000-000000000001"
        self.assertEqual((await self.ask("GET", missing)).status, 404)
        self.assertEqual((await self.ask("DELETE", missing)).status, 404)

    async def test_only_administrators_invite_and_see_who_is_invited(self) -> None:
        made = await self.invite()
        user = {"user_name": "op@internal", "password": "operator-password", "role": "operator"}
        self.assertEqual((await self.ask("POST", "/users", user)).status, 201)
        await self.engine.log_in("op@internal", "operator-password")
        for method, path in (
            ("GET", "/invitations"),
            ("POST", "/invitations"),
            ("GET", f"/invitations/{made['id']}"),
            ("DELETE", f"/invitations/{made['id']}"),
        ):
            self.assertEqual((await self.ask(method, path)).status, 403, path)

    async def test_the_audit_has_who_invited_and_from_where_and_no_code(self) -> None:
        made = await self.invite()
        audit = await self.engine.get_json("/audit")
        [record] = [
            each
            for each in audit["audit_record"]
            if each["code"] == str(EventCode.HOST_INVITED.value)
        ]
        self.assertEqual(record["user_name"], "admin@internal")
        self.assertTrue(record["address"])
        for word in JoinCode.parse(made["code"]).words:
            self.assertNotIn(word, str(audit))
