"""Hosts over the API, as the SDK, Ansible and people with curl use them."""

from __future__ import annotations

import uuid
from typing import Any

from twisted.trial.unittest import TestCase

from pkengine.engine.model import HostKeySource, SshAuthenticationMethod
from pkengine.errors import DeploymentError, HostKeyMismatch, SshAuthenticationFailed
from pkengine.keys import SshFingerprint
from tests.engine.hosts.agent_answers import CAPABILITIES
from tests.engine.rest.served import HOST_KEY, Reply, ServedEngine

PASSWORD = "hunter2-of-the-host"

SDK_ADD = """<host><address>192.0.2.7</address><comment>c</comment><name>h7</name>
<override_iptables>true</override_iptables>
<os><custom_kernel_cmdline></custom_kernel_cmdline></os>
<power_management><kdump_detection>true</kdump_detection></power_management>
<spm><priority>5</priority></spm><display><address>x</address></display>
<vgpu_placement>consolidated</vgpu_placement>
<ssh><authentication_method>password</authentication_method>
<fingerprint>{fingerprint}</fingerprint><port>2222</port>
<user><password>{password}</password><user_name>deploy</user_name></user></ssh>
<cluster><name>Default</name></cluster></host>"""


class HostTestCase(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)

    async def act(self, host_id: str, action: str, body: Any = "<action/>") -> Reply:
        return await self.engine.request("POST", f"/hosts/{host_id}/{action}", body)

    async def status(self, host_id: str) -> str:
        return str((await self.engine.get_json(f"/hosts/{host_id}"))["status"])


class AddTests(HostTestCase):
    async def test_body_of_the_sdk_adds_a_host(self) -> None:
        body = SDK_ADD.format(fingerprint=HOST_KEY.fingerprint(), password=PASSWORD)
        reply = await self.engine.request("POST", "/hosts?activate=false&reboot=false", body)
        self.assertEqual(reply.status, 201)
        host = reply.xml()
        self.assertEqual(host.tag, "host")
        self.assertEqual(reply.headers["location"], host.get("href"))
        self.assertEqual(host.findtext("status"), "installing")
        self.assertEqual(host.findtext("comment"), "c")
        [(target, policy, password, use_key)] = self.engine.network.logins
        self.assertEqual((target.address, target.port, target.user), ("192.0.2.7", 2222, "deploy"))
        self.assertEqual(policy.given, HOST_KEY.fingerprint())
        assert password is not None
        self.assertEqual((password.reveal_text(), use_key), (PASSWORD, False))

    async def test_json_with_native_and_textual_numbers_adds_hosts(self) -> None:
        for number, port in ((1, 2222), (2, "2222")):
            reply = await self.engine.request(
                "POST",
                "/hosts",
                {
                    "name": f"h{number}",
                    "address": f"192.0.2.{number}",
                    "root_password": "x",
                    "override_iptables": True,
                    "ssh": {"port": port},
                },
                accept="application/json",
            )
            self.assertEqual(reply.status, 201, reply.body)
            self.assertEqual(reply.json()["ssh"]["port"], "2222")

    async def test_ssh_password_wins_over_the_deprecated_root_password(self) -> None:
        body = {
            "name": "h1",
            "address": "192.0.2.1",
            "root_password": "old",
            "ssh": {"user": {"user_name": "root", "password": "new"}},
        }
        await self.engine.request("POST", "/hosts", body)
        password = self.engine.network.logins[0][2]
        assert password is not None
        self.assertEqual(password.reveal_text(), "new")

    async def test_publickey_logs_in_with_the_engines_key(self) -> None:
        body = {
            "name": "h1",
            "address": "192.0.2.1",
            "ssh": {"authentication_method": SshAuthenticationMethod.PUBLIC_KEY.value},
        }
        reply = await self.engine.request("POST", "/hosts", body)
        self.assertEqual(reply.status, 201)
        self.assertTrue(self.engine.network.logins[0][3])

    async def test_no_secret_is_ever_given_back(self) -> None:
        body = SDK_ADD.format(fingerprint=HOST_KEY.fingerprint(), password=PASSWORD)
        added = await self.engine.request("POST", "/hosts", body)
        host_id = added.xml().get("id")
        self.engine.finish_deployment()
        again = await self.act(
            str(host_id), "install", f"<action><root_password>{PASSWORD}</root_password></action>"
        )
        seen = [added, again, await self.engine.get("/hosts"), await self.engine.get("/events")]
        for reply in seen:
            self.assertNotIn(PASSWORD.encode(), reply.body)
            self.assertNotIn(b"<password", reply.body)
        secrets = [str(event) for event in self.flushLoggedErrors() if PASSWORD in str(event)]
        self.assertEqual(secrets, [])

    async def test_missing_elements_are_named(self) -> None:
        for body, names in (
            ("<host/>", "name, address"),
            ("<host><name>a</name></host>", "address"),
            ("<host><name/><address>b</address></host>", "name"),
        ):
            reply = await self.engine.request("POST", "/hosts", body)
            self.assertEqual(reply.status, 400)
            self.assertEqual(
                reply.fault(), ("Incomplete parameters", f"Host [{names}] required for add.")
            )

    async def test_refusals_of_the_host_leave_no_row(self) -> None:
        for error in (
            SshAuthenticationFailed("The host refused the password."),
            HostKeyMismatch("Expected SHA256:a, found SHA256:b."),
        ):
            self.engine.network.refusal = error
            reply = await self.engine.request(
                "POST", "/hosts", {"name": "h1", "address": "192.0.2.1", "root_password": "x"}
            )
            self.assertEqual(reply.status, 409)
            self.assertEqual(reply.fault(), ("Operation Failed", str(error)))
        self.assertEqual(await self.engine.get_json("/hosts"), {"host": []})

    async def test_name_and_address_in_use_are_conflicts(self) -> None:
        await self.engine.add_host("h1")
        for body in (
            {"name": "h1", "address": "192.0.2.99", "root_password": "x"},
            {"name": "h2", "address": "192.0.2.1", "root_password": "x"},
        ):
            reply = await self.engine.request("POST", "/hosts", body)
            self.assertEqual(reply.status, 409)
            self.assertIn("already", reply.fault()[1])

    async def test_unknown_cluster_is_not_found(self) -> None:
        for cluster in ({"name": "Nowhere"}, {"id": str(uuid.uuid4())}):
            reply = await self.engine.request(
                "POST", "/hosts", {"name": "h", "address": "192.0.2.1", "cluster": cluster}
            )
            self.assertEqual(reply.status, 404)
            self.assertIn("Entity not found: Cluster", reply.fault()[1])

    async def test_malformed_values_are_named_and_nothing_is_sent_to_the_host(self) -> None:
        for ssh, expected in (
            ({"fingerprint": "SHA256:short"}, "not an SSH fingerprint"),
            ({"public_key": "ssh-rsa"}, "not an SSH public key"),
            ({"port": 0}, "'host/ssh/port'"),
            ({"port": "many"}, "'host/ssh/port'"),
            ({"authentication_method": "GSSAPI"}, "'password', 'publickey'"),
            ({"user": {"password": ["x"]}}, "'host/ssh/user/password'"),
        ):
            body = {"name": "h", "address": "192.0.2.1", "root_password": "x", "ssh": ssh}
            reply = await self.engine.request("POST", "/hosts", body)
            self.assertEqual(reply.status, 400, ssh)
            self.assertEqual(reply.fault()[0], "Invalid value")
            self.assertIn(expected, reply.fault()[1])
        self.assertEqual(self.engine.network.logins, [])


class ReadTests(HostTestCase):
    async def test_elements_that_ansible_needs_are_there(self) -> None:
        host_id = await self.engine.add_host()
        host = (await self.engine.get(f"/hosts/{host_id}")).xml()
        self.assertEqual(host.findtext("power_management/kdump_detection"), "false")
        self.assertEqual(host.findtext("spm/priority"), "5")
        # The SDK makes None of a self-closed element, and Ansible cannot split that.
        body = (await self.engine.get(f"/hosts/{host_id}")).body
        self.assertIn(b"<custom_kernel_cmdline></custom_kernel_cmdline>", body)

    async def test_both_forms_say_the_same(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        xml = (await self.engine.get(f"/hosts/{host_id}")).xml()
        json = await self.engine.get_json(f"/hosts/{host_id}")
        self.assertEqual(xml.get("id"), json["id"])
        self.assertEqual(xml.get("href"), json["href"])
        for name in ("name", "status", "port", "memory", "update_available"):
            self.assertEqual(xml.findtext(name), json[name])
        self.assertEqual(xml.findtext("cpu/name"), CAPABILITIES.cpu_model)
        self.assertEqual(json["cpu"]["name"], CAPABILITIES.cpu_model)
        self.assertEqual(
            [link.attrib for link in xml.findall("actions/link")], json["actions"]["link"]
        )

    async def test_trust_in_a_host_is_shown_with_where_its_ssh_key_came_from(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        host = await self.engine.get_json(f"/hosts/{host_id}")
        self.assertEqual(host["ssh"]["key_source"], HostKeySource.FIRST_USE.value)
        self.assertEqual(host["ssh"]["public_key"], str(HOST_KEY))
        self.assertEqual(SshFingerprint.parse(host["ssh"]["fingerprint"]), HOST_KEY.fingerprint())
        self.assertEqual((host["connection"], host["mechanism"]), ("engine-dials", "pin"))
        [key] = host["trust"]["keys"]["key"]
        self.assertEqual((key["mechanism"], key["source"]), ("pin", "deployed"))
        self.assertTrue(key["value"].startswith("sha256//"))
        self.assertLessEqual(int(key["added"]), self.engine.clock.seconds() * 1000)

    async def test_how_agents_connect_is_said_when_a_host_is_added_or_installed_and_shown(
        self,
    ) -> None:
        way = {"connection": "agent-dials", "mechanism": "sign"}
        host_id = await self.engine.add_host_that_is_up(**way)
        host = await self.engine.get_json(f"/hosts/{host_id}")
        self.assertEqual({name: host[name] for name in way}, way)
        for action, body in (
            ("deactivate", {}),
            ("install", {"ssh": {}, "connection": "engine-dials"}),
        ):
            reply = await self.engine.request("POST", f"/hosts/{host_id}/{action}", body)
            self.assertEqual(reply.status, 200, reply.body)
        host = await self.engine.get_json(f"/hosts/{host_id}")
        self.assertEqual((host["connection"], host["mechanism"]), ("engine-dials", "pin"))
        xml = (await self.engine.get(f"/hosts/{host_id}")).xml()
        self.assertEqual(xml.findtext("connection"), "engine-dials")

    async def test_a_way_that_cannot_be_gone_is_refused_in_a_sentence(self) -> None:
        for way, expected in (
            ({"mechanism": "hmac"}, "needs the connection 'agent-dials'"),
            ({"connection": "engine-dials", "mechanism": "sign"}, "'pin' proves both ends"),
            ({"connection": "agent-dials", "mechanism": "magic"}, "no mechanism 'magic'"),
            ({"connection": "pigeon"}, "'engine-dials', 'agent-dials'"),
        ):
            body = {"name": "h", "address": "192.0.2.1", "root_password": "x", **way}
            reply = await self.engine.request("POST", "/hosts", body)
            self.assertEqual(reply.status, 400, way)
            self.assertIn(expected, reply.fault()[1])
        self.assertEqual(self.engine.network.logins, [])

    async def test_the_way_that_a_host_has_may_stand_in_an_update(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        same = {"comment": "x", "connection": "engine-dials", "mechanism": "pin"}
        reply = await self.engine.request("PUT", f"/hosts/{host_id}", same)
        self.assertEqual(reply.status, 200)

    async def test_every_link_of_a_host_can_be_followed(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        host = await self.engine.get_json(f"/hosts/{host_id}")
        paths = [link["href"] for link in host["link"]] + [host["cluster"]["href"]]
        for path in paths:
            reply = await self.engine.get(path)
            self.assertEqual(reply.status, 200, path)

    async def test_host_that_does_not_exist_is_not_found_anywhere(self) -> None:
        for path in ("", "/statistics", "/nics", "/jobs"):
            reply = await self.engine.get(f"/hosts/{uuid.uuid4()}{path}")
            self.assertEqual(reply.status, 404)
            reply.fault()
        self.assertEqual((await self.engine.get("/hosts/no-uuid")).status, 404)

    async def test_search_finds_what_ansible_looks_for(self) -> None:
        for name in ("web1", "web2", "db1"):
            await self.engine.add_host(name)
        for search, names in (
            ('name="web1"', ["web1"]),
            ("name%3Dweb*+and+status+%21%3D+up+sortby+name+desc", ["web2", "web1"]),
            ("Hosts:name=DB1", ["db1"]),
            ("name=nobody", []),
            ("cluster=Default+page+1", ["db1", "web1", "web2"]),
            ("", ["db1", "web1", "web2"]),
        ):
            found = await self.engine.get_json(f"/hosts?search={search}&all_content=true&follow=")
            self.assertEqual([host["name"] for host in found["host"]], names, search)

    async def test_max_and_page_cut_the_list(self) -> None:
        for name in ("a", "b", "c"):
            await self.engine.add_host(name)
        for query, names in (
            ("max=2", ["a", "b"]),
            ("max=2&search=page+2", ["c"]),
            ("max=0", []),
            ("max=-1", ["a", "b", "c"]),
            ("search=name%3DA&case_sensitive=true", []),
        ):
            found = await self.engine.get_json(f"/hosts?{query}")
            self.assertEqual([host["name"] for host in found["host"]], names, query)

    async def test_wrong_search_and_parameters_are_refused(self) -> None:
        for query in ("search=colour%3Dred", "max=many", "max=-7", "case_sensitive=perhaps"):
            reply = await self.engine.get(f"/hosts?{query}")
            self.assertEqual(reply.status, 400, query)
            reply.fault()

    async def test_statistics_are_what_the_agent_said(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        self.engine.clock.pump([1.0] * 30)
        found = await self.engine.get_json(f"/hosts/{host_id}/statistics")
        values = {s["name"]: s["values"]["value"][0]["datum"] for s in found["statistic"]}
        self.assertEqual(values["cpu.current.user"], "12.5")
        self.assertEqual(values["memory.total"], str(16000 * 1024 * 1024))
        one = found["statistic"][0]
        again = await self.engine.get_json(one["href"])
        self.assertEqual(again["name"], one["name"])

    async def test_ssh_keys_are_shown_before_a_host_is_added(self) -> None:
        found = await self.engine.get_json("/sshkeys?address=192.0.2.9&port=2222")
        [key] = found["ssh_key"]
        self.assertEqual(key["public_key"], str(HOST_KEY))
        self.assertEqual(key["fingerprint"], str(HOST_KEY.fingerprint()))
        self.assertEqual(key["type"], "ssh-ed25519")
        for query in ("", "?address=", "?address=x&port=0", "?address=a%20b"):
            self.assertEqual((await self.engine.get(f"/sshkeys{query}")).status, 400, query)


class ChangeTests(HostTestCase):
    async def test_put_changes_only_what_it_names_and_answers_200(self) -> None:
        host_id = await self.engine.add_host_that_is_up(comment="old")
        body = "<host><name>new</name><ssh/></host>"
        reply = await self.engine.request("PUT", f"/hosts/{host_id}", body)
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.xml().findtext("name"), "new")
        self.assertEqual(reply.xml().findtext("comment"), "old")

    async def test_whole_entity_that_was_read_can_be_put_back(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        for form in ("application/xml", "application/json"):
            entity = await self.engine.get(f"/hosts/{host_id}", accept=form)
            reply = await self.engine.request(
                "PUT", f"/hosts/{host_id}", entity.body, accept=form, Content_Type=form
            )
            self.assertEqual(reply.status, 200, reply.body)
            self.assertEqual(reply.body, entity.body)

    async def test_change_that_the_status_forbids_is_a_conflict(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        reply = await self.engine.request(
            "PUT", f"/hosts/{host_id}", "<host><address>192.0.2.200</address></host>"
        )
        self.assertEqual(reply.status, 409)


class ActionTests(HostTestCase):
    async def test_life_of_a_host_through_its_actions(self) -> None:
        host_id = await self.engine.add_host()
        self.assertEqual(await self.status(host_id), "installing")
        self.engine.finish_deployment()
        self.assertEqual(await self.status(host_id), "up")

        reply = await self.act(host_id, "deactivate", "<action><reason>why</reason></action>")
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.xml().findtext("status"), "complete")
        host = await self.engine.get_json(f"/hosts/{host_id}")
        self.assertEqual((host["status"], host["status_detail"]), ("maintenance", "why"))

        reply = await self.act(
            host_id, "install", "<action><root_password>x</root_password></action>"
        )
        self.assertEqual(reply.status, 200)
        # Ansible waits for another status than this one before it waits for it.
        self.assertEqual(await self.status(host_id), "installing")
        self.engine.finish_deployment()
        self.assertEqual(await self.status(host_id), "maintenance")

        reply = await self.act(host_id, "activate", "<action><async>true</async></action>")
        self.assertEqual(reply.status, 200)
        self.engine.clock.advance(1)
        self.assertEqual(await self.status(host_id), "up")

        self.assertEqual((await self.engine.request("DELETE", f"/hosts/{host_id}")).status, 409)
        await self.act(host_id, "deactivate")
        reply = await self.engine.request("DELETE", f"/hosts/{host_id}?async=true&force=true")
        self.assertEqual(reply.status, 200)
        self.assertEqual((await self.engine.get(f"/hosts/{host_id}")).status, 404)

    async def test_install_may_ask_for_activation_in_the_body(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        await self.act(host_id, "deactivate")
        await self.act(host_id, "install", {"activate": "true"})
        self.engine.finish_deployment()
        self.assertEqual(await self.status(host_id), "up")

    async def test_action_without_a_body_is_taken(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        self.assertEqual((await self.act(host_id, "deactivate", None)).status, 200)

    async def test_refused_action_has_its_fault_inside(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        reply = await self.act(host_id, "install")
        self.assertEqual(reply.status, 409)
        self.assertEqual(reply.xml().tag, "action")
        self.assertEqual(reply.xml().findtext("status"), "failed")
        self.assertIn("Maintenance", reply.fault()[1])

    async def test_action_on_an_unknown_host_is_not_found_with_a_fault(self) -> None:
        reply = await self.act(str(uuid.uuid4()), "activate")
        self.assertEqual(reply.status, 404)
        reply.fault()

    async def test_action_leads_to_its_job_and_the_job_to_its_steps(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        await self.act(host_id, "deactivate")
        self.engine.clock.advance(1)  # jobs are told apart by when they began
        action = (await self.act(host_id, "install")).xml()
        job = action.find("job")
        assert job is not None
        path = str(job.get("href"))
        self.engine.clock.advance(1)
        [step] = (await self.engine.get_json(f"{path}/steps"))["step"]
        self.assertEqual((step["status"], step["progress"]), ("started", "40"))
        self.engine.finish_deployment()
        self.assertEqual((await self.engine.get_json(path))["status"], "finished")
        one = await self.engine.get_json(f"{path}/steps/{step['id']}")
        self.assertEqual((one["status"], one["description"]), ("finished", "Send the agent"))
        jobs = await self.engine.get_json(f"/hosts/{host_id}/jobs?max=1")
        self.assertEqual([entry["id"] for entry in jobs["job"]], [job.get("id")])

    async def test_failed_deployment_is_told_in_status_and_in_an_event_with_the_host(self) -> None:
        host_id = await self.engine.add_host("h1")
        self.engine.finish_deployment(DeploymentError("upload", "The disk is full."))
        host = await self.engine.get_json(f"/hosts/{host_id}")
        self.assertEqual(host["status"], "install_failed")
        self.assertIn("disk is full", host["status_detail"])
        found = await self.engine.get_json("/events?search=severity%3Derror")
        [event] = found["event"]
        self.assertEqual(event["host"]["name"], "h1")
        self.assertEqual(event["host"]["id"], host_id)
