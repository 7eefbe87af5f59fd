"""The API behind a real HTTPS listener: limits on the wire, curl, and oVirt's own SDK."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import StringTransport
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import eventAsText, globalLogPublisher
from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import ADMIN
from pkengine.engine.events import EventCode
from pkengine.engine.https import listen_https
from pkengine.engine.rest import HttpServer
from pkengine.engine.rest.request import LARGEST_BODY
from pkengine.engine.store import hosts as queries
from pkengine.engine.trusted_proxies import TrustedProxies
from pkengine.errors import StoreError
from pkengine.keys import KeyPair
from tests.engine.hosts.agent_answers import CAPABILITIES
from tests.engine.rest.served import HOST_KEY, ServedEngine

HERE = Path(__file__).parent


class BoundedBodyTests(TestCase):
    """The HTTP protocol fed with octets."""

    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        self.server = HttpServer(self.engine.root, self.engine.clock)
        self.server.startFactory()
        self.addCleanup(self.server.stopFactory)
        self.connect()

    def connect(self) -> None:
        self.protocol = self.server.buildProtocol(None)
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)
        self.addCleanup(self.protocol.connectionLost, None)

    def send(self, *lines: str, host: str = "engine") -> None:
        head = "\r\n".join([*lines, f"Host: {host}", "", ""])
        self.protocol.dataReceived(head.encode("latin-1"))

    def sent(self) -> bytes:
        return self.transport.value()

    def test_declared_length_that_is_too_large_is_answered_before_the_body(self) -> None:
        for accept, word in (("application/xml", b"<fault>"), ("application/json", b'"reason"')):
            self.connect()
            self.send(
                "POST /ovirt-engine/api/hosts HTTP/1.1",
                f"Content-Length: {100 * 2**20}",
                f"Accept: {accept}",
                "Expect: 100-continue",
            )
            self.assertTrue(self.sent().startswith(b"HTTP/1.1 413 "), self.sent()[:80])
            self.assertIn(word, self.sent())
            self.assertNotIn(b"100 Continue", self.sent())
            self.assertTrue(self.transport.disconnecting)

    def test_who_is_given_what_it_asks_for_waits_behind_no_crowd_from_then_on(self) -> None:
        for path, code, is_hastened in (
            ("/ovirt-engine/api", b"401", False),
            ("/pkengine", b"404", False),
            ("/ovirt-engine/api/openapi.json", b"200", True),
        ):
            self.connect()
            hastened: list[bool] = []
            self.transport.hasten = lambda hastened=hastened: hastened.append(True)
            self.send(f"GET {path} HTTP/1.1")
            self.assertEqual(self.sent().split()[1], code)
            self.assertEqual(bool(hastened), is_hastened, path)

    def test_body_of_no_declared_length_is_not_kept_beyond_the_limit(self) -> None:
        self.send("POST /ovirt-engine/sso/oauth/token HTTP/1.1", "Transfer-Encoding: chunked")
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(3 * LARGEST_BODY // 65536):
            self.protocol.dataReceived(chunk)
        request = self.protocol.requests[0]
        self.assertLessEqual(request.content.tell(), LARGEST_BODY)
        self.protocol.dataReceived(b"0\r\n\r\n")
        self.assertTrue(self.sent().startswith(b"HTTP/1.1 413 "), self.sent()[:80])

    def test_connection_that_says_nothing_is_closed(self) -> None:
        self.engine.clock.advance(61)
        self.assertTrue(self.transport.disconnecting)

    def test_thousand_silent_and_slow_connections_hinder_nobody_and_are_closed(self) -> None:
        idle = []
        for number in range(1000):
            self.connect()
            if number % 2:  # half a request, and then nothing
                self.protocol.dataReceived(b"GET /ovirt-engine/api/hosts HTTP/1.1\r\nHost: e")
            idle.append(self.transport)
        self.connect()
        self.send("GET /ovirt-engine/api/hosts HTTP/1.1")
        self.assertTrue(self.sent().startswith(b"HTTP/1.1 401 "))
        self.engine.clock.advance(61)
        self.assertTrue(all(transport.disconnecting for transport in idle))

    def test_request_that_is_sent_drop_by_drop_does_not_live_on_by_that(self) -> None:
        self.protocol.dataReceived(b"GET /ovirt-engine/api/hosts HTTP/1.1\r\nX: ")
        for _ in range(20):
            self.engine.clock.advance(10)
            if self.transport.disconnecting:
                return
            self.protocol.dataReceived(b"x")
        self.fail("The connection lived on.")

    def test_headers_and_parameters_cannot_inject_headers(self) -> None:
        injected = "%0d%0aSet-Cookie:%20a=b"
        for path in (
            f"/api/hosts?correlation_id=x{injected}",
            f"/api/hosts{injected}",
            f"/services/pki-resource?resource=ca-certificate&alias=x{injected}",
        ):
            self.connect()
            self.send(
                f"GET /ovirt-engine{path} HTTP/1.1",
                "Correlation-Id: a\tb",
                "Accept: application/json",
            )
            head = self.sent().partition(b"\r\n\r\n")[0]
            self.assertRegex(head, b"^HTTP/1.1 ")
            self.assertNotIn(b"Set-Cookie", head)

    def test_addresses_that_cannot_be_are_faults_everywhere(self) -> None:
        for path in ("/api/hosts", "/sso/oauth/token", "/services/pki-resource", "/", ""):
            for start, host in (
                (f"/ovirt-engine{path}", "a..b"),
                (f"/ovirt-engine{path}", "x" * 300),
                (f"/ovirt-engine{path}", "\xff"),
                (f"/ovirt-engine{path}/%ff", "engine"),
                (f"{path}%ff", "engine:8443"),
            ):
                self.connect()
                self.send(f"GET {start} HTTP/1.1", host=host)
                self.assertRegex(self.sent(), b"^HTTP/1.1 40[04] ", (start, host))
                self.assertIn(b"<fault>", self.sent(), (start, host))

    def test_log_has_no_query(self) -> None:
        seen: list[str] = []

        def observe(event: dict[str, Any]) -> None:
            seen.append(eventAsText(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.send("GET /ovirt-engine/api/hosts?password=s3cr3t HTTP/1.1")
        self.assertTrue(any("/ovirt-engine/api/hosts" in line for line in seen), seen)
        self.assertFalse(any("s3cr3t" in line for line in seen), seen)


class AddressTests(TestCase):
    """Where requests seem to come from, by what proxies and others say."""

    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        self.server = HttpServer(
            self.engine.root, self.engine.clock, TrustedProxies.parse("192.0.2.7")
        )
        self.server.startFactory()
        self.addCleanup(self.server.stopFactory)

    def send(self, peer: str, forwarded_for: str, line: str, *more: str) -> bytes:
        """Make a request over a connection of its own; give the line of status."""
        protocol = self.server.buildProtocol(None)
        transport = StringTransport(peerAddress=IPv4Address("TCP", peer, 40000))
        protocol.makeConnection(transport)
        head = [f"{line} HTTP/1.1", "Host: engine", f"X-Forwarded-For: {forwarded_for}"]
        protocol.dataReceived("\r\n".join([*head, *more]).encode())
        protocol.connectionLost(None)
        return transport.value().partition(b"\r\n")[0]

    def log_in(self, peer: str, forwarded_for: str, password: str = "wrong") -> bytes:
        pair = base64.b64encode(f"{ADMIN}:{password}".encode()).decode()
        authorization = f"Authorization: Basic {pair}"
        return self.send(peer, forwarded_for, "GET /ovirt-engine/api", authorization, "", "")

    def guess(self, peer: str, forwarded_for: str) -> None:
        """Ask for a token in vain."""
        form = f"grant_type=password&scope=ovirt-app-api&username={ADMIN}&password=wrong"
        self.send(
            peer,
            forwarded_for,
            "POST /ovirt-engine/sso/oauth/token",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(form)}",
            "",
            form,
        )

    async def addresses(self) -> list[str]:
        """Give the addresses of the wrong logins in the audit log."""
        events = await self.engine.events.list(limit=None, newest_first=False)
        return [event.address for event in events if event.code == EventCode.USER_LOGIN_FAILED]

    async def test_the_audit_log_has_what_a_trusted_proxy_says_and_nobody_else(self) -> None:
        self.guess("192.0.2.7", "127.0.0.1, 198.51.100.1")
        self.guess("192.0.2.7", "2001:db8::9")
        self.guess("203.0.113.9", "127.0.0.1, 198.51.100.1")
        self.guess("192.0.2.7", "nonsense")
        self.assertEqual(
            await self.addresses(), ["198.51.100.1", "2001:db8::9", "203.0.113.9", "192.0.2.7"]
        )

    async def test_guessing_is_slowed_down_by_client_and_not_by_proxy(self) -> None:
        for _ in range(5):
            self.assertIn(b" 401 ", self.log_in("192.0.2.7", "198.51.100.1"))
        right = self.engine.password
        self.assertIn(b" 429 ", self.log_in("192.0.2.7", "198.51.100.1", right))
        self.assertIn(b" 200 ", self.log_in("192.0.2.7", "198.51.100.2", right))

    async def test_who_claims_another_address_each_time_is_slowed_down_all_the_same(self) -> None:
        for number in range(5):
            self.assertIn(b" 401 ", self.log_in("203.0.113.9", f"198.51.100.{number}"))
        self.assertIn(b" 429 ", self.log_in("203.0.113.9", "198.51.100.9", self.engine.password))
        for number in range(5):
            claim = f"198.51.100.{number}, 203.0.113.10"
            self.assertIn(b" 401 ", self.log_in("192.0.2.7", claim))
        self.assertIn(b" 429 ", self.log_in("192.0.2.7", "203.0.113.10", self.engine.password))


class HttpsTestCase(TestCase):
    """An engine behind TLS on the loopback interface."""

    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        pair = KeyPair.generate("localhost", subject_alternative_names=["localhost", "127.0.0.1"])
        port = listen_https(
            reactor,
            "tcp:0:interface=127.0.0.1",
            pair,
            HttpServer(self.engine.root, reactor),
        )
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        self.origin = f"https://127.0.0.1:{port.getHost().port}"
        self.ca_file = Path(self.mktemp())
        self.ca_file.write_bytes(pair.certificate_pem())

    async def run_program(self, *command: str) -> tuple[bytes, bytes, int]:
        result: tuple[bytes, bytes, int] = await getProcessOutputAndValue(
            command[0], command[1:], env=os.environ
        )
        return result

    async def curl(self, path: str, *options: str) -> bytes:
        output, errors, status = await self.run_program(
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--cacert",
            str(self.ca_file),
            *options,
            self.origin + path,
        )
        self.assertEqual((errors, status), (b"", 0))
        return output


class CurlTests(HttpsTestCase):
    if shutil.which("curl") is None:
        skip = "curl is missing: apt-get install curl"

    async def test_a_request_line_or_header_that_is_too_long_is_answered(self) -> None:
        for status, path, *options in (
            (b"414", "/ovirt-engine/api/events?search=" + "a" * 33_000),
            (b"414", "/ovirt-engine/api/events?search=" + "a" * 60_000),
            (b"431", "/ovirt-engine/api", "--header", "X-Long: " + "a" * 33_000),
        ):
            found = await self.curl(path, *options, "--write-out", "%{http_code}")
            self.assertEqual(found, status)

    async def test_user_of_curl_logs_in_by_name_and_password(self) -> None:
        user = f"{ADMIN}:{self.engine.password}"
        xml = await self.curl("/ovirt-engine/api/hosts", "--user", user)
        self.assertEqual(xml, b"<hosts></hosts>")
        answer = await self.curl(
            "/ovirt-engine/api/", "--user", user, "--header", "Accept: application/json"
        )
        self.assertIn("product_info", json.loads(answer))

    async def test_long_list_arrives_whole_plain_and_compressed(self) -> None:
        for number in range(300):
            await self.engine.add_host(f"h{number:03}")
        bearer = f"Authorization: {self.engine.authorization}"
        for form in ("application/xml", "application/json"):
            headers = ("--header", bearer, "--header", f"Accept: {form}")
            plain = await self.curl("/ovirt-engine/api/hosts", *headers)
            packed = await self.curl(
                "/ovirt-engine/api/hosts", *headers, "--header", "Accept-Encoding: gzip"
            )
            self.assertEqual(plain.count(b"install_failed") + plain.count(b"installing"), 300)
            self.assertEqual(gzip.decompress(packed), plain)
            self.assertLess(len(packed) * 5, len(plain))

    async def test_answer_that_breaks_off_is_not_taken_for_a_whole_one(self) -> None:
        for number in range(250):
            await self.engine.add_host(f"h{number:03}")
        pages = 0
        read = self.engine.store.read

        async def fail_later(query: Any, *args: Any, **options: Any) -> Any:
            nonlocal pages
            pages += query is queries.hosts_by_ids
            if pages == 3:
                raise StoreError("The database cannot be used: disk I/O error.")
            return await read(query, *args, **options)

        self.patch(self.engine.store, "read", fail_later)
        _, errors, status = await self.run_program(
            "curl",
            *("--silent", "--show-error", "--cacert", str(self.ca_file)),
            *("--header", f"Authorization: {self.engine.authorization}"),
            f"{self.origin}/ovirt-engine/api/hosts",
        )
        self.assertNotEqual(status, 0, errors)
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 1)

    async def test_upload_that_is_too_large_is_answered_and_others_meanwhile(self) -> None:
        large = Path(self.mktemp())
        with large.open("wb") as stream:
            stream.truncate(100 * 2**20)
        upload = Deferred.fromCoroutine(
            self.curl(
                "/ovirt-engine/api/hosts",
                "--header",
                "Content-Type: application/xml",
                "--data-binary",
                f"@{large}",
                "--write-out",
                "%{http_code}",
            )
        )
        keys = await self.curl(
            "/ovirt-engine/services/pki-resource?resource=engine-certificate&format=OPENSSH-PUBKEY"
        )
        self.assertTrue(keys.startswith(b"ssh-ed25519 "))
        answer = await upload
        self.assertTrue(answer.endswith(b"413"), answer)


class SdkTests(HttpsTestCase):
    if importlib.util.find_spec("ovirtsdk4") is None:
        skip = "oVirt's SDK is missing: pip install 'pkengine[ovirt]' (needs gcc, libxml2-dev)"

    async def test_ovirt_sdk_leads_a_host_through_its_whole_life(self) -> None:
        self.engine.let_time_pass_for_clients(reactor)
        output, errors, status = await self.run_program(
            sys.executable,
            str(HERE / "ovirt_client.py"),
            f"{self.origin}/ovirt-engine/api",
            str(self.ca_file),
            ADMIN,
            str(self.engine.password_file),
        )
        self.assertEqual(status, 0, errors.decode())
        found: dict[str, Any] = json.loads(output)
        self.assertEqual(found["major"], 4)
        self.assertEqual((found["hosts_before"], found["hosts_after"]), (0, 0))
        self.assertEqual(found["data_center"], "Default")
        self.assertEqual(found["added_status"], "installing")
        self.assertEqual(
            found["read"],
            {
                "name": "sdk1",
                "fingerprint": str(HOST_KEY.fingerprint()),
                "public_key": str(HOST_KEY),
                "port": 54321,
                "memory": CAPABILITIES.mem_size * 2**20,
                "cores": 4,
                "cmdline": "",
                "kdump_detection": False,
                "priority": 5,
                "update_available": False,
                "cluster": "Default",
                "nics": 2,
                "statistics": 12,
                "tags": 0,
                "permissions": 1,
            },
        )
        self.assertEqual(found["searched"], ["sdk1"])
        self.assertEqual(
            found["followed"],
            ["Default", ["eth0", "lo"], ["52:54:00:00:00:01"], ["administrator"]],
        )
        filled = {name: count for name, count in found["collections"].items() if count}
        self.assertEqual(filled, {"nics": 2, "permissions": 1, "statistics": 12})
        self.assertEqual(found["power"], "on")
        self.assertEqual(found["no_power_management"][:2], ["Error", 400])
        self.assertEqual(found["not_pending"][:2], ["Error", 409])
        self.assertEqual(found["absent_action"][:2], ["NotFoundError", 404])
        self.assertEqual(found["unknown_host"][:2], ["NotFoundError", 404])
        self.assertTrue(found["update_available"])
        self.assertEqual(found["upgraded"], [[842, "sdk1"]])
        self.assertEqual(self.engine.network.restarts, ["sdk1"])
        self.assertEqual(found["updated"], "changed")
        self.assertEqual(found["wrong_status"][:2], ["Error", 409])
        self.assertEqual(found["status_detail"], "by the SDK")
        self.assertEqual(found["status_after_install"], "installing")
        self.assertEqual(found["job_statuses"], ["finished"])
        self.assertEqual(found["steps"], [["Send the agent", "finished"]])
        self.assertEqual(found["removed"][:2], ["NotFoundError", 404])
        self.assertEqual(found["pending"], ["sdk2", "pending_approval"])
        self.assertEqual(found["not_approved"][:2], ["Error", 409])
        self.assertEqual(found["approved"], [[498, ADMIN]])
        self.assertLessEqual({42, 504, 15, 44}, {code for code, _ in found["events"]})
        self.assertEqual(found["correlated"], [42, 504, 509])
        self.assertEqual(found["unknown_cluster"][:2], ["NotFoundError", 404])
        self.assertEqual(found["incomplete"], ["Error", 400, "Host [address] required for add."])
        self.assertEqual(found["wrong_password"][0], "AuthError")
