"""Asking for another way to connect, or a fresh key, in the API."""

from __future__ import annotations

from typing import Any

from pkengine.errors import Conflict
from tests.engine.rest.test_actions import ActionsTestCase


class RekeyTests(ActionsTestCase):
    async def host(self, host_id: str) -> dict[str, Any]:
        return await self.engine.get_json(f"/hosts/{host_id}")

    async def changed(self, host_id: str, **way: str) -> dict[str, Any]:
        self.assert_complete(await self.act(host_id, "rekey", way))
        return await self.host(host_id)

    async def test_a_host_connects_otherwise_and_has_one_new_key(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        host = await self.changed(host_id, connection="agent-dials", mechanism="hmac")
        self.assertEqual((host["connection"], host["mechanism"]), ("agent-dials", "hmac"))
        [key] = host["trust"]["keys"]["key"]
        self.assertEqual((key["mechanism"], key["source"]), ("hmac", "rekeyed"))
        self.assertRegex(key["value"], "^kid//[0-9a-f]{32}$")
        self.assertNotIn("next_way", host["trust"])
        self.assertEqual([code for code in await self.codes() if code > 13110], [13111, 13112])
        self.assertIn("asked for by admin@internal", await self.newest())

    async def test_with_nothing_said_the_key_that_is_shared_is_made_anew(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        first = await self.changed(host_id, connection="agent-dials", mechanism="spake2plus")
        second = await self.changed(host_id)
        self.assertEqual(second["mechanism"], "spake2plus")
        self.assertNotEqual(
            first["trust"]["keys"]["key"][0]["value"], second["trust"]["keys"]["key"][0]["value"]
        )
        self.assert_complete(await self.act(host_id, "enrollcertificate"))
        third = await self.host(host_id)
        self.assertNotEqual(second["trust"], third["trust"])

    async def test_a_way_that_does_not_work_leaves_the_old_one_and_says_why(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        before = await self.host(host_id)
        self.engine.network.trial_refusal = Conflict("No connection from this host to wss://e.")
        way = {"connection": "agent-dials", "mechanism": "sign"}
        reply = await self.act(host_id, "rekey", {**way, "async": "false"})
        self.assertEqual(reply.status, 409)
        self.assertIn("No connection from this host to wss://e.", reply.fault()[1])
        after = await self.host(host_id)
        self.assertEqual((after["connection"], after["trust"]), ("engine-dials", before["trust"]))
        self.assertEqual((await self.codes())[-2:], [13111, 13113])

    async def test_what_cannot_be_is_refused(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        reply = await self.act(host_id, "rekey", {"mechanism": "hmac"})
        self.assertEqual(reply.status, 400)
        self.assertIn("needs the connection 'agent-dials'", reply.fault()[1])
        self.assertIn("Failed to change the connection of Host h1.", await self.newest())
        reply = await self.act(host_id, "rekey")
        self.assertEqual(reply.status, 409)
        self.assertIn("The engine dials it already", reply.fault()[1])

    async def test_a_host_that_is_updated_with_another_way_begins_to_change(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        reply = await self.engine.request(
            "PUT", f"/hosts/{host_id}", {"connection": "agent-dials", "comment": "moved"}
        )
        self.assertEqual(reply.status, 200, reply)
        host = await self.host(host_id)
        self.assertEqual((host["connection"], host["comment"]), ("agent-dials", "moved"))

    async def test_a_way_that_cannot_be_keeps_the_rest_from_being_updated(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        reply = await self.engine.request(
            "PUT", f"/hosts/{host_id}", {"mechanism": "hmac", "comment": "moved"}
        )
        self.assertEqual(reply.status, 400)
        self.assertNotEqual((await self.host(host_id)).get("comment"), "moved")
