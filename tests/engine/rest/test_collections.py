"""The root of the API, clusters, users, events and jobs."""

from __future__ import annotations

import uuid

from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import ADMIN
from pkengine.engine.model import Severity
from tests.engine.rest.served import ServedEngine


class RootTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)

    async def test_root_tells_version_counts_and_user(self) -> None:
        await self.engine.add_host_that_is_up("h1")
        await self.engine.add_host("h2")
        api = await self.engine.get_json("")
        self.assertEqual(api["product_info"]["version"]["major"], "4")
        self.assertEqual(api["summary"]["hosts"], {"active": "1", "total": "2"})
        self.assertEqual(api["authenticated_user"]["user_name"], ADMIN)
        self.assertEqual(api["time"], int(self.engine.clock.seconds() * 1000))

    async def test_every_link_of_the_root_can_be_followed(self) -> None:
        api = await self.engine.get_json("")
        for link in api["link"]:
            path = link["href"]
            if link["rel"] == "sshkeys":
                path += "?address=192.0.2.1"
            self.assertEqual((await self.engine.get(path)).status, 200, path)
        user = api["authenticated_user"]["href"]
        self.assertEqual((await self.engine.get_json(user))["role"], "administrator")
        self.assertEqual((await self.engine.get(f"/users/{uuid.uuid4()}")).status, 404)

    async def test_default_cluster_is_found_and_leads_to_its_data_center(self) -> None:
        [cluster] = (await self.engine.get_json("/clusters?search=name%3DDefault"))["cluster"]
        self.assertEqual(cluster["version"], {"major": "4", "minor": "5"})
        for href in (cluster["href"], cluster["data_center"]["href"]):
            found = await self.engine.get_json(href)
            self.assertEqual(found["name"], "Default")
        self.assertEqual(
            await self.engine.get_json("/clusters?search=name%3DOther"), {"cluster": []}
        )
        for path in ("clusters", "datacenters"):
            self.assertEqual((await self.engine.get(f"/{path}/{uuid.uuid4()}")).status, 404)

    async def test_head_is_answered_without_a_body(self) -> None:
        reply = await self.engine.request("HEAD", "/hosts")
        self.assertEqual((reply.status, reply.body), (200, b""))


class EventTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)

    async def test_event_list_of_a_new_engine_is_not_empty(self) -> None:
        event = (await self.engine.get("/events?max=1")).xml()[0]
        self.assertEqual(event.get("id"), event.findtext("index"))
        self.assertGreater(int(str(event.findtext("index"))), 0)
        self.assertRegex(str(event.findtext("time")), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")

    async def test_newest_come_first_and_from_is_exclusive(self) -> None:
        newest = int((await self.engine.get_json("/events?max=1"))["event"][0]["index"])
        for number in range(3):
            await self.engine.events.add(900 + number, Severity.WARNING, f"e{number}")
        found = (await self.engine.get_json(f"/events?from={newest}"))["event"]
        self.assertEqual([event["description"] for event in found], ["e2", "e1", "e0"])
        self.assertEqual([int(e["index"]) - newest for e in found], [3, 2, 1])
        found = (await self.engine.get_json(f"/events?from={newest}&max=2"))["event"]
        self.assertEqual(len(found), 2)

    async def test_one_event_can_be_read_again(self) -> None:
        [event] = (await self.engine.get_json("/events?max=1"))["event"]
        again = await self.engine.get_json(f"/events/{event['id']}")
        self.assertEqual(again, event)
        self.assertEqual((await self.engine.get("/events/999999")).status, 404)
        self.assertEqual((await self.engine.get("/events/x")).status, 404)

    async def test_search_by_type_severity_and_host(self) -> None:
        await self.engine.add_host_that_is_up("h1")
        await self.engine.add_host_that_is_up("h2")
        for search, codes in (
            ("type%3D842+or+type%3D504", {"504"}),
            ("host.name%3Dh1+and+type%3D42", {"42"}),
            ("severity%3Dalert", set()),
        ):
            found = (await self.engine.get_json(f"/events?search={search}"))["event"]
            self.assertEqual({event["code"] for event in found}, codes, search)
        found = (await self.engine.get_json("/events?search=host.name%3Dh1"))["event"]
        self.assertEqual({event["host"]["name"] for event in found}, {"h1"})

    async def test_unknown_jobs_and_steps_are_not_found(self) -> None:
        await self.engine.add_host_that_is_up()
        job = (await self.engine.get_json("/jobs"))["job"][0]["id"]
        for path in (f"/jobs/{uuid.uuid4()}", f"/jobs/{job}/steps/{uuid.uuid4()}"):
            self.assertEqual((await self.engine.get(path)).status, 404)
