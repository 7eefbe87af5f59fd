"""Relays to ssh-agents over the API."""

from __future__ import annotations

import base64
import uuid
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pkengine.errors import KeyAgentError
from pkengine.ssh.login_signature import SessionBinding
from tests.engine.rest.served import HOST_KEY, Reply, ServedEngine
from tests.engine.rest.test_key_changes import NEW_KEY

BINDING = SessionBinding(HOST_KEY, b"session", b"signature")


class AgentRelayTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        self.addCleanup(self.engine.agent_relays.stop)

    async def post(self, path: str, body: Any, **options: Any) -> Reply:
        return await self.engine.request("POST", path, body, accept="application/json", **options)

    async def open(self) -> str:
        """Open a relay; give its path."""
        body = {"public_keys": {"public_key": [str(NEW_KEY)]}}
        reply = await self.post("/keyagents", body)
        self.assertEqual(reply.status, 201, reply)
        self.assertEqual(reply.json()["public_keys"], body["public_keys"])
        return f"/keyagents/{reply.json()['id']}"

    def sign(self, path: str) -> Deferred[bytes]:
        """Want something signed, as a login does."""
        (relay,) = self.engine.agent_relays._relays.values()
        self.assertTrue(path.endswith(str(relay.id)))
        return relay.sign(NEW_KEY, b"login", "ssh-ed25519", BINDING)

    async def test_what_is_to_be_signed_is_fetched_and_the_signature_handed_in(self) -> None:
        path = await self.open()
        signature = self.sign(path)
        wanted = await self.engine.get_json(f"{path}/request")
        self.assertEqual(wanted["public_key"], str(NEW_KEY))
        self.assertEqual(wanted["algorithm"], "ssh-ed25519")
        self.assertEqual(wanted["host_key"], str(HOST_KEY))
        self.assertEqual(base64.b64decode(wanted["data"]), b"login")
        self.assertEqual(base64.b64decode(wanted["host_signature"]), b"signature")
        body = {"request": wanted["request"], "data": base64.b64encode(b"signed").decode()}
        self.assertEqual((await self.post(f"{path}/sign", body)).status, 200)
        self.assertEqual(self.successResultOf(signature), b"signed")
        self.assertEqual((await self.post(f"{path}/sign", body)).status, 404)

    async def test_refusing_and_going_away_end_the_login(self) -> None:
        path = await self.open()
        signature = self.sign(path)
        wanted = await self.engine.get_json(f"{path}/request")
        reply = await self.post(f"{path}/sign", {"request": wanted["request"]})
        self.assertEqual(reply.status, 200)
        self.failureResultOf(signature, KeyAgentError)
        again = self.sign(path)
        self.assertEqual((await self.engine.request("DELETE", path)).status, 200)
        self.failureResultOf(again, KeyAgentError)
        self.assertEqual((await self.engine.get(f"{path}/request")).status, 404)

    async def test_a_host_is_added_by_it_and_does_not_show_it(self) -> None:
        path = await self.open()
        ssh = {"key_agent": path.rpartition("/")[2]}
        body = {"name": "web1", "address": "192.0.2.1", "ssh": ssh}
        reply = await self.post("/hosts", body)
        self.assertEqual(reply.status, 201, reply)
        self.assertNotIn("key_agent", reply.json()["ssh"])
        ssh["key_agent"] = str(uuid.uuid4())
        reply = await self.post("/hosts", {**body, "name": "web2", "address": "192.0.2.2"})
        self.assertEqual(reply.status, 404)

    async def test_nobody_else_sees_it_and_bad_input_is_refused(self) -> None:
        path = await self.open()
        await self.post(
            "/users", {"user_name": "al", "password": "a long password", "role": "administrator"}
        )
        other = self.engine.basic("al@internal", "a long password")
        self.assertEqual(
            (await self.engine.get(f"{path}/request", authorization=other)).status, 404
        )
        for body, part in (
            ({"public_keys": {"public_key": []}}, "Expected 1 to 32"),
            ({"public_keys": {"public_key": ["x"]}}, "not"),
        ):
            reply = await self.post("/keyagents", body)
            self.assertEqual(reply.status, 400)
            self.assertIn(part, reply.fault()[1])
        self.sign(path).addErrback(lambda failure: failure.trap(KeyAgentError))
        wanted = await self.engine.get_json(f"{path}/request")
        reply = await self.post(f"{path}/sign", {"request": wanted["request"], "data": "?"})
        self.assertEqual(reply.status, 400)
        self.assertEqual((await self.post(f"{path}/sign", {})).status, 400)
