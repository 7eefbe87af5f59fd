"""Actions on hosts beyond their installation, and hosts that register themselves."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlencode

from twisted.trial.unittest import TestCase

from pkengine.engine.hosts.admission import MOST_PENDING
from pkengine.engine.rest.host_elements import HOST_ACTIONS
from pkengine.engine.rest.registration import BURST, PAUSE_S
from pkengine.errors import DeploymentError, HostUnreachable
from pkengine.keys import SshPublicKey
from tests.engine.rest.served import HOST_KEY, Reply, ServedEngine

FINGERPRINT = str(HOST_KEY.fingerprint())


class ActionsTestCase(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)

    async def act(self, host_id: str, action: str, body: Any = None, **options: Any) -> Reply:
        return await self.engine.request("POST", f"/hosts/{host_id}/{action}", body, **options)

    async def codes(self) -> list[int]:
        """Give the codes of the newest events, the oldest first."""
        events = (await self.engine.get_json("/events?max=4"))["event"]
        return [int(event["code"]) for event in reversed(events)]

    async def newest(self) -> str:
        [event] = (await self.engine.get_json("/events?max=1"))["event"]
        return str(event["description"])

    def assert_complete(self, reply: Reply) -> None:
        self.assertEqual((reply.status, reply.xml().findtext("status")), (200, "complete"), reply)
        self.assertIsNotNone(reply.xml().find("job"))


class EveryActionTests(ActionsTestCase):
    async def test_host_links_to_each_of_its_actions(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        host = await self.engine.get_json(f"/hosts/{host_id}")
        links = {link["rel"]: link["href"] for link in host["actions"]["link"]}
        self.assertEqual(set(links), set(HOST_ACTIONS))
        for name, href in links.items():
            self.assertEqual(href, f"/ovirt-engine/api/hosts/{host_id}/{name}")

    async def test_unknown_host_is_a_fault_in_an_action(self) -> None:
        for name in HOST_ACTIONS:
            body = "<action><fence_type>status</fence_type></action>"
            reply = await self.act(str(uuid.uuid4()), name, body)
            self.assertEqual(reply.status, 404, name)
            self.assertEqual(reply.xml().tag, "action")
            self.assertEqual(reply.xml().findtext("status"), "failed")
            reply.fault()

    async def test_host_that_is_not_trusted_is_left_alone(self) -> None:
        host_id = await self.engine.add_host()
        self.engine.finish_deployment(DeploymentError("upload", "the disk is full."))
        for name in ("refresh", "rekey", "enrollcertificate", "upgrade", "upgradecheck"):
            reply = await self.act(host_id, name)
            self.assertEqual(reply.status, 409, name)
            self.assertIn("install it first", reply.fault()[1])
        for kind in ("restart", "restart_agent"):
            reply = await self.act(host_id, "fence", {"fence_type": kind})
            self.assertEqual(reply.status, 409)
        self.assertEqual(self.engine.network.restarts, [])

    async def test_only_who_may_can_ask_for_it(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        await self.engine.request(
            "POST",
            "/users",
            {"user_name": "op", "password": "correct horse battery", "role": "operator"},
        )
        token = await self.engine.log_in("op@internal", "correct horse battery")
        statuses = {
            name: (await self.act(host_id, name, authorization=f"Bearer {token}")).status
            for name in HOST_ACTIONS
        }
        refused = {name for name, status in statuses.items() if status == 403}
        self.assertEqual(refused, {"approve", "enrollcertificate", "install", "rekey", "upgrade"})


class RefreshTests(ActionsTestCase):
    async def test_refresh_asks_the_agent_anew(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        self.assert_complete(await self.act(host_id, "refresh"))

    async def test_agent_that_does_not_answer_is_told_of(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        self.engine.network.is_silent = True
        reply = await self.act(host_id, "refresh")
        self.assertEqual(reply.status, 409)
        self.assertIn("does not answer", reply.fault()[1])
        [job, *_] = (await self.engine.get_json("/jobs"))["job"]
        self.assertEqual((job["description"], job["status"]), ("Refreshing Host h1", "failed"))


class EnrollTests(ActionsTestCase):
    async def test_engine_and_host_prove_their_keys_and_nothing_is_replaced(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        before = (await self.engine.get_json(f"/hosts/{host_id}"))["trust"]
        self.assert_complete(await self.act(host_id, "enrollcertificate"))
        self.assertEqual((await self.codes())[-2:], [880, 881])
        self.assertIn("nothing was replaced", await self.newest())
        self.assertEqual((await self.engine.get_json(f"/hosts/{host_id}"))["trust"], before)

    async def test_agent_that_does_not_accept_the_engine_is_found_out(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        self.engine.network.accepted.clear()
        reply = await self.act(host_id, "enrollcertificate")
        self.assertEqual(reply.status, 409)
        self.assertIn("install the host again", reply.fault()[1])
        self.assertEqual((await self.codes())[-2:], [880, 882])


class UpgradeTests(ActionsTestCase):
    async def is_update_available(self, host_id: str) -> str:
        host = await self.engine.get_json(f"/hosts/{host_id}")
        return str(host["update_available"])

    async def test_check_says_whether_the_agent_is_another_one(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        for bundle, found in (("ab", "true"), ("cd", "false")):
            self.engine.network.bundle = bundle
            self.assert_complete(await self.act(host_id, "upgradecheck"))
            self.assertEqual(await self.is_update_available(host_id), found)
            self.assertEqual((await self.codes())[-2:], [884, 885])
            self.assertIn("Host h1", await self.newest())

    async def test_check_of_an_agent_that_does_not_answer_fails_in_an_event(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        self.engine.network.is_silent = True
        self.assert_complete(await self.act(host_id, "upgradecheck"))
        self.assertEqual((await self.codes())[-2:], [884, 839])

    async def test_upgrade_brings_the_engines_version_and_keeps_the_key(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        await self.act(host_id, "upgradecheck")
        before = await self.engine.get_json(f"/hosts/{host_id}")
        self.assert_complete(await self.act(host_id, "upgrade", {"reboot": True}))
        reply = await self.act(host_id, "upgrade")
        self.assertEqual(reply.status, 409)
        self.engine.finish_deployment()
        after = await self.engine.get_json(f"/hosts/{host_id}")
        self.assertEqual(after["update_available"], "false")
        self.assertEqual((after["trust"], after["status"]), (before["trust"], "up"))
        self.assertEqual((await self.codes())[-3:], [840, 20021, 842])
        self.assertIn("Host h1", await self.newest())
        self.assertTrue(self.engine.network.logins[-1][3])  # by the engine's key

    async def test_upgrade_that_fails_says_why_and_changes_no_trust(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        before = (await self.engine.get_json(f"/hosts/{host_id}"))["trust"]
        await self.act(host_id, "upgrade")
        self.engine.finish_deployment(
            DeploymentError("verify", "it is silent. The version that ran before runs again.")
        )
        self.assertEqual((await self.codes())[-2:], [840, 841])
        self.assertIn("The version that ran before runs again.", await self.newest())
        host = await self.engine.get_json(f"/hosts/{host_id}")
        self.assertEqual((host["trust"], host["status"]), (before, "up"))
        [job, *_] = (await self.engine.get_json("/jobs"))["job"]
        self.assertEqual(job["status"], "failed")

    async def test_host_that_cannot_be_logged_in_to_is_not_upgraded(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        self.engine.network.refusal = HostUnreachable("No SSH server answers.")
        self.assertEqual((await self.act(host_id, "upgrade")).status, 409)
        self.assertEqual(self.engine.network.deployments, [])

    async def test_upgrade_is_no_way_to_another_ssh_host_key(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        other = SshPublicKey.parse(str(HOST_KEY).replace("BQYHCA", "BQYHCB"))
        reply = await self.act(host_id, "upgrade", {"ssh": {"public_key": str(other)}})
        self.assertEqual(reply.status, 409)
        self.assertIn("another SSH host key", reply.fault()[1])


class FenceTests(ActionsTestCase):
    async def power(self, host_id: str) -> str | None:
        reply = await self.act(host_id, "fence", {"fence_type": "status"})
        self.assertEqual(reply.status, 200)
        return reply.xml().findtext("power_management/status")

    async def test_status_tells_whether_the_agent_answers(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        self.assertEqual(await self.power(host_id), "on")
        other = await self.engine.add_host("h2")
        self.assertEqual(await self.power(other), "unknown")

    async def test_restart_reboots_the_host_and_restart_agent_does_not(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        for kind, what, code in (
            ("restart", "h1", 41),
            ("restart_agent", "agent of h1", 197),
        ):
            self.assert_complete(await self.act(host_id, "fence", {"fence_type": kind}))
            self.assertEqual(self.engine.network.restarts.pop(), what)
            self.assertIn(code, await self.codes())

    async def test_what_takes_power_management_is_refused(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        for kind in ("start", "stop", "manual", "explode", None):
            body = {"fence_type": kind} if kind else None
            self.assertEqual((await self.act(host_id, "fence", body)).status, 400, kind)


class RegistrationTests(ActionsTestCase):
    async def register(self, **changes: str) -> Reply:
        parameters = {
            "version": "1",
            "command": "register",
            "address": "web1.example",
            "uniqueId": "4c4c4544",
            "sshKeyFingerprint": FINGERPRINT,
            **changes,
        }
        query = urlencode({name: value for name, value in parameters.items() if value})
        return await self.engine.get(
            f"/ovirt-engine/services/host-register?{query}", authorization=" ", accept="*/*"
        )

    async def only_host(self) -> Any:
        [host] = (await self.engine.get_json("/hosts"))["host"]
        return host

    async def test_registered_host_waits_and_nobody_connects_to_it(self) -> None:
        reply = await self.register(vdsPort="54322", sshPort="2222")
        self.assertEqual((reply.status, reply.body), (200, b"OK\n"))
        host = await self.only_host()
        self.assertEqual(
            (host["name"], host["status"], host["port"], host["ssh"]["port"]),
            ("web1.example", "pending_approval", "54322", "2222"),
        )
        self.assertEqual(host["trust"]["keys"], {"key": []})
        self.assertEqual(self.engine.network.logins, [])
        [event] = (await self.engine.get_json("/events?search=type%3D828"))["event"]
        self.assertEqual(event["severity"], "warning")
        self.assertIn(FINGERPRINT, event["description"])

    async def test_approved_host_is_installed_if_it_has_the_key_that_it_gave(self) -> None:
        await self.register()
        host = await self.only_host()
        body = "<action><cluster><name>Default</name></cluster><host><name>x</name><ssh>"
        body += "<authentication_method>publickey</authentication_method></ssh></host></action>"
        self.assert_complete(await self.act(host["id"], "approve", body))
        [(_, policy, password, use_key)] = self.engine.network.logins
        self.assertEqual((str(policy.given), password, use_key), (FINGERPRINT, None, True))
        self.assertEqual((await self.only_host())["status"], "installing")
        self.engine.finish_deployment()
        self.assertEqual((await self.only_host())["status"], "up")
        [record] = (await self.engine.get_json("/audit?search=code%3D498"))["audit_record"]
        self.assertEqual(record["user_name"], "admin@internal")

    async def test_administrator_can_approve_by_a_fingerprint_of_its_own(self) -> None:
        await self.register(sshKeyFingerprint="")
        host = await self.only_host()
        body = {"ssh": {"fingerprint": FINGERPRINT}, "root_password": "x"}
        self.assert_complete(await self.act(host["id"], "approve", body))
        self.assertEqual(str(self.engine.network.logins[0][1].given), FINGERPRINT)

    async def test_only_a_waiting_host_is_approved_and_it_is_not_installed_before(self) -> None:
        await self.register()
        host = await self.only_host()
        for action in ("install", "activate", "upgrade"):
            self.assertEqual((await self.act(host["id"], action)).status, 409, action)
        up = await self.engine.add_host_that_is_up()
        self.assertEqual((await self.act(up, "approve")).status, 409)

    async def test_registered_host_can_be_removed(self) -> None:
        await self.register()
        host = await self.only_host()
        reply = await self.engine.request("DELETE", f"/hosts/{host['id']}")
        self.assertEqual(reply.status, 200)

    async def test_registration_takes_over_no_name_and_tells_no_secret(self) -> None:
        await self.engine.add_host_that_is_up("h1")
        for changes in (
            {"name": "h1"},
            {"address": "192.0.2.1"},
            {"address": ""},
            {"uniqueId": ""},
            {"name": "a b"},
            {"address": "a b"},
            {"vdsPort": "0"},
            {"sshPort": "x"},
            {"sshKeyFingerprint": "SHA256:nonsense"},
            {"version": "2"},
            {"command": "destroy"},
            {"command": ""},
        ):
            reply = await self.register(**changes)
            self.assertEqual(reply.status, 400, changes)
            self.assertNotIn("in use", reply.fault()[1])
        await self.only_host()

    async def test_number_of_waiting_hosts_is_bounded(self) -> None:
        for number in range(MOST_PENDING):
            self.assertEqual((await self.register(address=f"h{number}.example")).status, 200)
            self.engine.clock.advance(PAUSE_S)
        self.assertEqual((await self.register(address="more.example")).status, 400)

    async def test_one_address_registers_so_many_hosts_at_once_and_is_told_when_more(self) -> None:
        for number in range(BURST):
            self.assertEqual((await self.register(address=f"h{number}.example")).status, 200)
        reply = await self.register(address="more.example")
        self.assertEqual((reply.status, reply.headers["retry-after"]), (429, "10"))
        # What only reads is not limited.
        self.assertEqual((await self.register(command="get-version")).status, 200)
        self.engine.clock.advance(PAUSE_S)
        self.assertEqual((await self.register(address="more.example")).status, 200)
        self.assertEqual((await self.register(address="yet.more.example")).status, 429)

    async def test_page_of_another_site_registers_nothing(self) -> None:
        for headers in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://evil.example"}):
            reply = await self.engine.get(
                "/ovirt-engine/services/host-register?version=1&command=register"
                "&address=a.example&uniqueId=x",
                authorization=" ",
                **headers,
            )
            self.assertEqual(reply.status, 403, headers)
        self.assertEqual(await self.engine.get_json("/hosts"), {"host": []})

    async def test_keys_of_the_engine_are_there_for_hosts(self) -> None:
        for command, content in (
            ("get-version", b"1\n"),
            ("get-pki-trust", self.engine.https_key_pair.certificate_pem()),
        ):
            reply = await self.register(command=command)
            self.assertEqual((reply.status, reply.body), (200, content))
        line = (await self.register(command="get-ssh-trust")).body.decode()
        self.assertEqual(SshPublicKey.parse(line), self.engine.ssh_keys.newest.public)


class AuditOfRefusalsTests(ActionsTestCase):
    """A decision about trust that is refused is on record, with who asked and why not."""

    async def last_record(self) -> Any:
        return (await self.engine.get_json("/audit?max=1"))["audit_record"][0]

    async def assert_refused(
        self, request: tuple[str, str, Any], status: int, code: int, *parts: str
    ) -> None:
        reply = await self.engine.request(*request)
        self.assertEqual(reply.status, status, reply)
        record = await self.last_record()
        self.assertEqual((record["code"], record["user_name"]), (str(code), "admin@internal"))
        for part in (*parts, reply.fault()[1]):
            self.assertIn(part, record["description"])

    async def test_of_hosts(self) -> None:
        host_id = await self.engine.add_host_that_is_up("h1")
        host = f"/hosts/{host_id}"
        for request, status, code, what in (
            (("POST", "/hosts", {"name": "h1", "address": "a.example"}), 409, 104, "add"),
            (("POST", f"{host}/approve", {}), 409, 499, "approve"),
            (("POST", f"{host}/install", {}), 409, 20021, "install"),
            (("PUT", host, {"address": "b.example"}), 409, 105, "update"),
            (("DELETE", host, None), 409, 106, "remove"),
            (("POST", f"{host}/keychange/reject", {}), 404, 20021, "change the SSH key of"),
        ):
            await self.assert_refused(request, status, code, f"Failed to {what} Host h1.")
            if code != 104:
                self.assertEqual((await self.last_record())["host"]["id"], host_id)

    async def test_of_a_login_that_the_host_refuses(self) -> None:
        host_id = await self.engine.add_host_that_is_up("h1")
        await self.act(host_id, "deactivate")
        self.engine.clock.advance(1)
        self.engine.network.refusal = HostUnreachable("192.0.2.1 does not answer.")
        for action in ("install", "upgrade"):
            await self.assert_refused(("POST", f"/hosts/{host_id}/{action}", {}), 409, 20021)

    async def test_of_users(self) -> None:
        user = {"user_name": "ann", "password": "correct horse battery"}
        await self.engine.request("POST", "/users", user)
        await self.assert_refused(
            ("POST", "/users", user), 409, 20021, "add the user ann@internal"
        )
        [admin] = (await self.engine.get_json("/users?search=name%3Dadmin*"))["user"]
        path = admin["href"]
        await self.assert_refused(("PUT", path, {"role": "viewer"}), 409, 20021, "change the user")
        await self.assert_refused(("DELETE", path, None), 409, 20021, "remove the user")

    async def test_of_somebody_whose_role_does_not_allow_it(self) -> None:
        user = {"user_name": "ann", "password": "correct horse battery", "role": "viewer"}
        await self.engine.request("POST", "/users", user)
        administrator = self.engine.authorization
        await self.engine.log_in("ann@internal", user["password"])
        reply = await self.engine.request("POST", "/hosts", {"name": "h", "address": "a.example"})
        self.assertEqual(reply.status, 403)
        self.engine.authorization = administrator
        record = await self.last_record()
        self.assertEqual((record["code"], record["user_name"]), ("20021", "ann@internal"))
        self.assertIn("POST /ovirt-engine/api/hosts was refused", record["description"])


class AuditOfChangesTests(ActionsTestCase):
    async def test_change_of_the_ssh_key_is_on_record(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        other = f"SHA256:{'A' * 43}"
        await self.engine.request("PUT", f"/hosts/{host_id}", {"ssh": {"fingerprint": other}})
        [record, *_] = (await self.engine.get_json("/audit"))["audit_record"]
        self.assertIn(f"SSH fingerprint {FINGERPRINT} became {other}", record["description"])
