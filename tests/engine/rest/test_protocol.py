"""What holds for every request: login, forms, limits, faults."""

from __future__ import annotations

import uuid

from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import ADMIN
from pkengine.engine.rest.request import LARGEST_BODY
from pkengine.engine.store import schema
from pkengine.engine.tokens import IDLE_LIFETIME
from pkengine.errors import StoreError
from tests.engine.rest.served import ServedEngine

BOMB = """<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<host><name>&b;</name></host>"""
EXTERNAL = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><host><name>&e;</name></host>'


class ProtocolTestCase(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)


class LoginTests(ProtocolTestCase):
    async def test_nobody_gets_a_challenge_and_a_fault_in_the_form_that_was_asked_for(
        self,
    ) -> None:
        for accept in ("application/xml", "application/json"):
            for authorization in ("", "Bearer nonsense", "Basic !!", "Digest x", "Bearer"):
                reply = await self.engine.get(
                    "/hosts", accept=accept, authorization=authorization or "x"
                )
                self.assertEqual(reply.status, 401, authorization)
                self.assertIn("Bearer", reply.headers["www-authenticate"])
                self.assertTrue(reply.headers["content-type"].startswith(accept))
                self.assertEqual(reply.fault()[0], "Access denied")

    async def test_password_in_a_basic_header_is_enough(self) -> None:
        basic = self.engine.basic(ADMIN, self.engine.password)
        self.assertEqual((await self.engine.get("/hosts", authorization=basic)).status, 200)
        wrong = self.engine.basic(ADMIN, "wrong")
        self.assertEqual((await self.engine.get("/hosts", authorization=wrong)).status, 401)

    async def test_too_many_wrong_passwords_are_told_when_to_come_back(self) -> None:
        wrong = self.engine.basic(ADMIN, "wrong")
        for _ in range(5):
            await self.engine.get("/hosts", authorization=wrong)
        reply = await self.engine.get("/hosts", authorization=wrong)
        self.assertEqual(reply.status, 429)
        self.assertEqual(reply.headers["retry-after"], "1")

    async def test_expired_token_is_refused(self) -> None:
        self.engine.clock.advance(IDLE_LIFETIME.total_seconds())
        self.assertEqual((await self.engine.get("/hosts")).status, 401)

    async def test_viewer_reads_and_operator_does_not_decide_whom_to_trust(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        expected = {
            "viewer": {"list": 200, "deactivate": 403, "remove": 403, "keys": 403},
            "operator": {"list": 200, "deactivate": 200, "remove": 403, "keys": 403},
            "administrator": {"list": 200, "deactivate": 409, "remove": 200, "keys": 200},
        }
        for role, statuses in expected.items():
            change = schema.users.update().values(role=role)
            await self.engine.store.write(lambda c, change=change: c.execute(change))
            await self.engine.log_in()
            requests = {
                "list": ("GET", "/hosts", None),
                "deactivate": ("POST", f"/hosts/{host_id}/deactivate", "<action/>"),
                "remove": ("DELETE", f"/hosts/{host_id}", None),
                "keys": ("GET", "/sshkeys?address=192.0.2.1", None),
            }
            for name, (method, path, body) in requests.items():
                reply = await self.engine.request(method, path, body)
                self.assertEqual(reply.status, statuses[name], (role, name))


class FormTests(ProtocolTestCase):
    async def test_form_of_the_answer_follows_accept(self) -> None:
        for accept, expected in (
            ("", "application/xml;charset=UTF-8"),
            ("*/*", "application/xml;charset=UTF-8"),
            ("application/json", "application/json"),
            ("text/xml", "application/xml;charset=UTF-8"),
            ("application/xml;q=0.5, application/json", "application/json"),
            ("application/*;q=0.8, application/json;q=0.1", "application/xml;charset=UTF-8"),
            ("text/html, application/json;version=4;q=0.9, */*;q=0.1", "application/json"),
        ):
            reply = await self.engine.get("/hosts", accept=accept)
            self.assertEqual((reply.status, reply.headers["content-type"]), (200, expected))

    async def test_form_that_is_not_made_is_not_acceptable(self) -> None:
        for accept in ("text/html", "application/xml;q=0", "application/xml;q=x"):
            reply = await self.engine.get("/hosts", accept=accept)
            self.assertEqual(reply.status, 406, accept)
            reply.fault()

    async def test_body_of_another_type_is_not_read(self) -> None:
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "x"):
            reply = await self.engine.request(
                "POST", "/hosts", "<host/>", Content_Type=content_type
            )
            self.assertEqual(reply.status, 415, content_type)
        reply = await self.engine.request(
            "POST", "/hosts", "<host/>", Content_Type="application/xml; charset=utf-16"
        )
        self.assertEqual(reply.status, 415)

    async def test_bodies_that_are_no_host_are_refused_with_a_sentence(self) -> None:
        for content_type, body in (
            ("application/xml", "<host>"),
            ("application/xml", "not xml"),
            ("application/xml", b"\xff\xfe\x00"),
            ("application/xml", '<?xml version="1.0" encoding="x-unknown"?><host/>'),
            ("application/xml", BOMB),
            ("application/xml", EXTERNAL),
            ("application/xml", "<hosts/>"),
            ("application/xml", "<host><nmae>h</nmae></host>"),
            ("application/xml", "<host><name><b/></name></host>"),
            ("application/xml", "<host><ssh><prot>1</prot></ssh></host>"),
            ("application/xml", '<h:host xmlns:h="urn:h"/>'),
            ("application/xml", "<a>" * 100_000),
            ("application/json", "{"),
            ("application/json", "[]"),
            ("application/json", "null"),
            ("application/json", b'{"name": "\xff"}'),
            ("application/json", '{"nmae": "h"}'),
            ("application/json", '{"name": {"a": 1}}'),
            ("application/json", '{"name": 1.5, "address": "a"}'),
            ("application/json", '{"ssh": "x"}'),
            ("application/json", "[" * 100_000),
            ("application/json", '{"ignored": ' + '{"a":' * 50_000),
        ):
            for accept in ("application/xml", "application/json"):
                reply = await self.engine.request(
                    "POST", "/hosts", body, Content_Type=content_type, accept=accept
                )
                self.assertEqual(reply.status, 400, body[:60])
                self.assertTrue(reply.fault()[1].endswith("."), reply.fault())

    async def test_unknown_element_is_named(self) -> None:
        reply = await self.engine.request("POST", "/hosts", "<host><nmae>h</nmae></host>")
        self.assertEqual(reply.fault()[1], "Unknown element 'nmae' in 'host'.")

    async def test_secret_that_is_malformed_is_not_repeated(self) -> None:
        body = {"name": "h", "address": "a", "root_password": "s3cr3t" * 300}
        reply = await self.engine.request("POST", "/hosts", body)
        self.assertEqual(reply.status, 400)
        self.assertNotIn(b"s3cr3t", reply.body)

    async def test_body_that_is_too_large_is_refused(self) -> None:
        reply = await self.engine.request("POST", "/hosts", b" " * (LARGEST_BODY + 1))
        self.assertEqual(reply.status, 413)
        reply.fault()

    async def test_control_characters_cannot_break_the_xml(self) -> None:
        await self.engine.add_host_that_is_up("h1", comment="a\x01<b>&\ud7ff\r\n\x7f")
        host = (await self.engine.get("/hosts")).xml()[0]
        self.assertEqual(host.findtext("comment"), "a\N{REPLACEMENT CHARACTER}<b>&\ud7ff\r\n\x7f")


class HeaderTests(ProtocolTestCase):
    async def test_correlation_id_comes_back_and_stands_in_the_events(self) -> None:
        await self.engine.request(
            "POST",
            "/hosts",
            {"name": "h1", "address": "192.0.2.1", "root_password": "x"},
            Correlation_Id="my-task 1\t<x>",
        )
        found = await self.engine.get_json("/events?search=correlation_id%3Dmy-task1x")
        self.assertIn("42", [event["code"] for event in found["event"]])
        reply = await self.engine.get("/hosts?correlation_id=from-query")
        self.assertEqual(reply.headers["correlation-id"], "from-query")

    async def test_request_without_a_correlation_id_gets_one(self) -> None:
        uuid.UUID((await self.engine.get("/hosts")).headers["correlation-id"])

    async def test_version_in_the_path_stays_in_the_links(self) -> None:
        for path, base in (("", "/ovirt-engine/api"), ("/v4", "/ovirt-engine/api/v4")):
            for slash in ("", "/"):
                reply = await self.engine.get(f"{path}{slash}")
                self.assertEqual(reply.status, 200)
                self.assertEqual(reply.xml().get("href"), base)
                link = reply.xml().find("link")
                assert link is not None
                self.assertTrue(str(link.get("href")).startswith(base + "/"))

    async def test_other_versions_are_refused(self) -> None:
        self.assertEqual((await self.engine.get("/hosts", Version="4")).status, 200)
        self.assertEqual((await self.engine.get("/hosts", Version="3")).status, 400)
        self.assertEqual((await self.engine.get("/v3/hosts")).status, 404)

    async def test_pages_of_other_sites_cannot_act(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        for header in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec_Fetch_Site": "cross-site"},
        ):
            reply = await self.engine.request("POST", f"/hosts/{host_id}/deactivate", **header)
            self.assertEqual(reply.status, 403, header)
        own = await self.engine.request(
            "POST",
            f"/hosts/{host_id}/deactivate",
            Origin="https://engine.example:8443",
            Sec_Fetch_Site="same-origin",
        )
        self.assertEqual(own.status, 200)

    async def test_answers_are_kept_by_no_cache(self) -> None:
        self.assertEqual((await self.engine.get("/hosts")).headers["cache-control"], "no-store")


class FaultTests(ProtocolTestCase):
    async def test_unknown_paths_are_faults_and_no_pages(self) -> None:
        for path in ("/nothing", "/hosts/x/y/z", "/hosts//x", "/hosts/%ff", "/../..", "/v4/v4"):
            reply = await self.engine.get(path)
            self.assertIn(reply.status, (400, 404), path)
            reply.fault()

    async def test_unknown_folders_are_faults_too(self) -> None:
        for path in (
            "/ovirt-engine/",
            "/ovirt-engine/services/nothing",
            "/ovirt-engine/web",
        ):
            reply = await self.engine.get(path, accept="application/json")
            self.assertEqual(reply.status, 404, path)
            reply.fault()

    async def test_wrong_method_is_told_which_ones_there_are(self) -> None:
        reply = await self.engine.request("PATCH", "/hosts")
        self.assertEqual(reply.status, 405)
        self.assertEqual(reply.headers["allow"], "GET, HEAD, POST")
        reply.fault()

    async def test_bug_is_answered_with_a_reference_that_is_in_the_log(self) -> None:
        def fail(*args: object) -> None:
            raise ZeroDivisionError("a secret of the engine")

        self.patch(self.engine.hosts, "find", fail)
        for accept in ("application/xml", "application/json"):
            reply = await self.engine.get("/hosts", accept=accept)
            self.assertEqual(reply.status, 500)
            reason, detail = reply.fault()
            self.assertEqual(reason, "Internal error")
            self.assertNotIn(b"secret", reply.body)
            reference = detail.rpartition(" ")[2].rstrip(".")
            [failure] = self.flushLoggedErrors(ZeroDivisionError)
            self.assertEqual(len(reference), 12)
            self.assertIn("ZeroDivisionError", str(failure))

    async def test_database_that_fails_is_unavailable(self) -> None:
        def fail(*args: object) -> None:
            raise StoreError("The database cannot be used: disk I/O error.")

        self.patch(self.engine.hosts, "find", fail)
        self.assertEqual((await self.engine.get("/hosts")).status, 503)

    async def test_parameters_that_are_no_text_or_too_many_are_refused(self) -> None:
        for query in ("a=%ff", "&".join(f"p{n}=1" for n in range(200))):
            self.assertEqual((await self.engine.get(f"/hosts?{query}")).status, 400)
