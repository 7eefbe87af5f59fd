"""What hangs below hosts, what ``follow`` puts into answers, and waiting for the end of jobs."""

from __future__ import annotations

import uuid
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import ADMIN
from pkengine.engine.rest.call import LONGEST_WAIT_S
from pkengine.engine.rest.host_elements import EMPTY_COLLECTIONS
from pkengine.errors import DeploymentError
from tests.engine.rest.served import Reply, ServedEngine

#: As oVirt's API has them below a host.
OVIRT_COLLECTIONS = (
    *("affinitylabels", "cpuunits", "devices", "externalnetworkproviderconfigurations"),
    *("fenceagents", "hooks", "katelloerrata", "networkattachments", "nics", "numanodes"),
    *("permissions", "statistics", "storage", "storageconnectionextensions", "tags"),
    "unmanagednetworks",
)
#: What the engine does not do: its SDK must not take the answer for a success.
ABSENT_ACTIONS = (
    *("commitnetconfig", "copyhostnetworks", "discoveriscsi", "forceselectspm"),
    *("iscsidiscover", "iscsilogin", "setupnetworks", "syncallnetworks"),
    "unregisteredstoragedomainsdiscover",
)


class LinksTestCase(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)


class CollectionTests(LinksTestCase):
    async def test_every_collection_of_ovirt_is_there_in_both_forms(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        for name in OVIRT_COLLECTIONS:
            reply = await self.engine.get(f"/hosts/{host_id}/{name}")
            self.assertEqual(reply.status, 200, name)
            if name in EMPTY_COLLECTIONS:
                self.assertEqual(len(reply.xml()), 0, name)
            [items] = (await self.engine.get_json(f"/hosts/{host_id}/{name}")).values()
            self.assertEqual(len(items), len(reply.xml()))
            reply = await self.engine.get(f"/hosts/{uuid.uuid4()}/{name}")
            self.assertEqual(reply.status, 404)
            reply.fault()

    async def test_nothing_is_found_where_there_is_nothing(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        for name in OVIRT_COLLECTIONS:
            for item_id in (uuid.uuid4(), "x"):
                reply = await self.engine.get(f"/hosts/{host_id}/{name}/{item_id}")
                self.assertEqual(reply.status, 404, name)
                reply.fault()
        for name in ABSENT_ACTIONS:
            reply = await self.engine.request("POST", f"/hosts/{host_id}/{name}", "<action/>")
            self.assertEqual(reply.status, 404, name)
            reply.fault()

    async def test_interfaces_are_those_that_the_agent_reports(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        [eth0, lo] = (await self.engine.get_json(f"/hosts/{host_id}/nics"))["host_nic"]
        self.assertEqual(
            {name: eth0[name] for name in ("name", "mac", "ip", "ipv6", "status", "speed")},
            {
                "name": "eth0",
                "mac": {"address": "52:54:00:00:00:01"},
                "ip": {"address": "192.0.2.1", "version": "v4"},
                "ipv6": {"address": "fe80::1", "version": "v6"},
                "status": "up",
                "speed": "1000000000",
            },
        )
        self.assertEqual(lo["status"], "down")
        self.assertEqual(await self.engine.get_json(eth0["href"]), eth0)

    async def test_host_that_does_not_answer_has_no_interfaces_and_statistics(self) -> None:
        host_id = await self.engine.add_host()
        for name in ("nics", "statistics"):
            [items] = (await self.engine.get_json(f"/hosts/{host_id}/{name}")).values()
            self.assertEqual(items, [])

    async def test_permissions_are_the_roles_of_the_users(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        path = f"/hosts/{host_id}/permissions"
        [permission] = (await self.engine.get_json(path))["permission"]
        self.assertEqual(permission["role"]["name"], "administrator")
        self.assertEqual(permission["user"]["user_name"], ADMIN)
        for link in ("role", "user", "host"):
            reply = await self.engine.get(permission[link]["href"])
            self.assertEqual(reply.status, 200, link)
        self.assertEqual(await self.engine.get_json(permission["href"]), permission)


class FollowTests(LinksTestCase):
    async def follow(self, path: str, what: str) -> Any:
        return await self.engine.get_json(f"{path}?follow={what}")

    async def test_what_is_followed_is_in_the_answer_and_no_link_any_more(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        plain = await self.engine.get_json(f"/hosts/{host_id}")
        host = await self.follow(f"/hosts/{host_id}", "cluster,nics,tags")
        self.assertEqual(host["cluster"]["name"], "Default")
        self.assertEqual([nic["name"] for nic in host["nics"]["host_nic"]], ["eth0", "lo"])
        self.assertEqual(host["tags"], {"tag": []})
        rels = {link["rel"] for link in host["link"]}
        self.assertEqual({link["rel"] for link in plain["link"]} - rels, {"nics", "tags"})
        for name in ("cluster", "nics", "tags", "link"):
            host.pop(name)
            plain.pop(name, None)
        self.assertEqual(host, plain)

    async def test_lists_are_followed_too_and_further_down(self) -> None:
        for name in ("h1", "h2"):
            await self.engine.add_host_that_is_up(name)
        hosts = (await self.follow("/hosts", "cluster.data_center"))["host"]
        self.assertEqual(
            [host["cluster"]["data_center"]["name"] for host in hosts], ["Default"] * 2
        )
        xml = (await self.engine.get("/hosts?follow=cluster.data_center,statistics")).xml()
        self.assertEqual(xml[0].findtext("cluster/data_center/name"), "Default")
        self.assertEqual(len(xml[0].findall("statistics/statistic")), 12)

    async def test_everything_that_a_host_has_can_be_followed(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        everything = ",".join([*OVIRT_COLLECTIONS, "cluster"])
        reply = await self.engine.get(f"/hosts/{host_id}?follow={everything}")
        self.assertEqual(reply.status, 200)
        self.assertEqual(len(reply.xml().findall("permissions/permission/user")), 1)

    async def test_steps_of_jobs_are_followed(self) -> None:
        await self.engine.add_host_that_is_up()
        [job] = (await self.follow("/jobs", "steps"))["job"]
        self.assertEqual(job["steps"]["step"][0]["name"], "upload")

    async def test_empty_follow_is_none_and_an_unknown_link_is_refused_by_name(self) -> None:
        self.assertEqual((await self.engine.get("/hosts?follow=")).status, 200)
        for path, what in (
            ("/hosts", "clustre"),
            ("/hosts", "cluster.hosts"),
            ("/hosts", "cluster.data_center.x.y"),
            ("/events", "host"),
            ("/hosts", "a," * 300),
        ):
            reply = await self.engine.get(f"{path}?follow={what}")
            self.assertEqual(reply.status, 400, what)
            self.assertIn("follow", reply.fault()[1])

    async def test_all_content_is_a_boolean_that_hides_nothing(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        bodies = [
            (await self.engine.get(f"/hosts/{host_id}{query}", All_Content=value)).body
            for query, value in (("", ""), ("?all_content=true", "true"), ("", "false"))
        ]
        self.assertEqual(len(set(bodies)), 1)
        self.assertEqual((await self.engine.get("/hosts?all_content=maybe")).status, 400)


class WaitingTests(LinksTestCase):
    def begin(self, *args: Any, **options: Any) -> list[Reply]:
        """Send a request; what comes back is there when it is answered."""
        replies: list[Reply] = []
        answer = Deferred.fromCoroutine(self.engine.request(*args, **options))
        answer.addCallback(replies.append)
        return replies

    BODY = {"name": "h1", "address": "192.0.2.1", "root_password": "x"}

    async def test_who_expects_a_created_host_waits_until_it_is_installed(self) -> None:
        for header in ("Expect", "X_Ovirt_Expect"):
            body = {**self.BODY, "name": header, "address": header.replace("_", "-")}
            replies = self.begin("POST", "/hosts", body, **{header: "201-created"})
            self.assertEqual(replies, [])
            self.engine.finish_deployment()
            self.engine.flush()
            [reply] = replies
            self.assertEqual((reply.status, reply.xml().findtext("status")), (201, "up"))

    async def test_who_expects_an_accepted_host_is_told_at_once(self) -> None:
        reply = await self.engine.request("POST", "/hosts", self.BODY, Expect="202-accepted")
        self.assertEqual((reply.status, reply.xml().findtext("status")), (202, "installing"))

    async def test_other_expectations_fail(self) -> None:
        reply = await self.engine.request("POST", "/hosts", self.BODY, Expect="203-magic")
        self.assertEqual(reply.status, 417)
        reply.fault()

    async def test_action_that_is_not_async_is_answered_at_its_end(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        await self.engine.request("POST", f"/hosts/{host_id}/deactivate")
        self.engine.clock.advance(1)
        for query, body in (("", {"async": False}), ("?async=false", None)):
            replies = self.begin("POST", f"/hosts/{host_id}/install{query}", body)
            self.assertEqual(replies, [])
            self.engine.finish_deployment()
            self.engine.flush()
            [reply] = replies
            self.assertEqual((reply.status, reply.xml().findtext("status")), (200, "complete"))

    async def test_action_that_fails_while_somebody_waits_is_a_fault(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        await self.engine.request("POST", f"/hosts/{host_id}/deactivate")
        self.engine.clock.advance(1)
        replies = self.begin("POST", f"/hosts/{host_id}/install?async=false")
        self.engine.finish_deployment(DeploymentError("upload", "the disk is full."))
        self.engine.flush()
        [reply] = replies
        self.assertEqual(reply.status, 409)
        self.assertIn("the disk is full.", reply.fault()[1])

    async def test_nobody_waits_for_ever(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        await self.engine.request("POST", f"/hosts/{host_id}/deactivate")
        self.engine.clock.advance(1)
        replies = self.begin("POST", f"/hosts/{host_id}/install?async=false")
        self.engine.clock.advance(LONGEST_WAIT_S)
        self.engine.flush()
        [reply] = replies
        self.assertEqual((reply.status, reply.xml().findtext("status")), (202, "in_progress"))
        self.engine.finish_deployment()
