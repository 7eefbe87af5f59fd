"""The engine's own SSH key over the API: who may rotate it, and what is told of that."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import TestCase

from pkengine.errors import DeploymentError
from tests.engine.rest.served import Reply, ServedEngine


class EngineSshKeyTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        self.host_id = await self.engine.add_host_that_is_up("h1")

    async def act(self, verb: str, body: Any = None, **options: Any) -> Reply:
        return await self.engine.request(
            "POST", f"/sshkey/{verb}", body, accept="application/json", **options
        )

    def public(self) -> list[str]:
        return [str(identity.public) for identity in self.engine.ssh_keys.identities]

    async def test_without_a_rotation_there_is_one_key_and_no_host_to_tell_of(self) -> None:
        shown = await self.engine.get_json("/sshkey")
        self.assertEqual([shown["ssh_key"]["public_key"]], self.public())
        self.assertNotIn("rotation", shown)
        self.assertEqual({"host_key_rotation": []}, await self.engine.get_json("/sshkey/hosts"))
        xml = (await self.engine.get("/sshkey")).xml()
        self.assertEqual("engine_ssh_key", xml.tag)
        self.assertEqual(self.public(), [xml.findtext("ssh_key/public_key")])

    async def test_a_rotation_is_a_job_with_a_step_for_each_host(self) -> None:
        reply = await self.act("rotate", {"type": "rsa"})
        self.assertEqual(200, reply.status, reply)
        job = await self.engine.get_json(f"/jobs/{reply.json()['job']['id']}")
        self.assertEqual("finished", job["status"])
        steps = await self.engine.get_json(f"/jobs/{job['id']}/steps")
        self.assertEqual(["Host h1"], [step["description"] for step in steps["step"]])
        (key,) = self.public()
        self.assertTrue(key.startswith("ssh-rsa"))
        line = await self.engine.get(
            "/ovirt-engine/services/pki-resource?resource=engine-certificate&format=OPENSSH-PUBKEY"
        )
        self.assertTrue(line.body.decode().startswith(key))

    async def test_what_is_left_is_told_with_the_reason(self) -> None:
        self.engine.network.exchange_refusal = DeploymentError("login", "It refuses the key.")
        reply = await self.act("rotate", {"async": False})
        self.assertEqual(409, reply.status)
        shown = await self.engine.get_json("/sshkey")
        new, old = self.public()
        self.assertEqual(old, shown["ssh_key"]["public_key"])
        rotation = shown["rotation"]
        self.assertEqual(new, rotation["successor"]["public_key"])
        self.assertEqual(
            ("false", "1", "1"),
            tuple(rotation[name] for name in ("running", "hosts_total", "hosts_left")),
        )
        (host,) = (await self.engine.get_json("/sshkey/hosts"))["host_key_rotation"]
        self.assertEqual((self.host_id, "h1"), (host["host"]["id"], host["host"]["name"]))
        self.assertEqual("failed", host["status"])
        self.assertIn("It refuses the key.", host["detail"])

        self.assertEqual(200, (await self.act("discardold")).status)
        self.assertEqual([new], self.public())
        again = await self.act("discardold")
        self.assertEqual(409, again.status)
        self.assertIn("not being rotated", again.fault()[1])

    async def test_another_type_of_key_is_refused_by_its_name(self) -> None:
        reply = await self.act("rotate", {"type": "dsa"})
        self.assertEqual(400, reply.status)
        self.assertIn("'ed25519', 'rsa'", reply.fault()[1])

    async def test_only_administrators_rotate_it(self) -> None:
        await self.engine.request(
            "POST",
            "/users",
            {"user_name": "op", "password": "correct horse battery", "role": "operator"},
        )
        authorization = self.engine.basic("op@internal", "correct horse battery")
        for verb in ("rotate", "discardold"):
            reply = await self.act(verb, authorization=authorization)
            self.assertEqual(403, reply.status)
        self.assertEqual(1, len(self.public()))
