"""The description of the API, and schemathesis, which holds the engine to it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from pkengine.engine import login_throttle
from pkengine.engine.rest import host_elements
from pkengine.engine.rest.schema import SecretText
from tests.engine.rest.served import ServedEngine
from tests.engine.rest.test_server import HttpsTestCase as HttpsCase

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
)


class DescriptionTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)
        reply = await self.engine.get("/openapi.json", authorization=" ")
        self.assertEqual((reply.status, reply.headers["content-type"]), (200, "application/json"))
        self.found: dict[str, Any] = reply.json()

    def operations(self) -> list[tuple[str, str, Any]]:
        return [
            (method, path, operation)
            for path, item in self.found["paths"].items()
            for method, operation in item.items()
        ]

    def test_it_is_openapi_3_1_and_every_operation_has_a_name_of_its_own(self) -> None:
        self.assertEqual(self.found["openapi"], "3.1.0")
        names = [operation["operationId"] for _, _, operation in self.operations()]
        self.assertEqual(len(names), len(set(names)))
        self.assertGreater(len(names), 40)

    def test_every_operation_says_what_it_does_and_gives_an_entity(self) -> None:
        for method, path, operation in self.operations():
            self.assertRegex(operation["summary"], r"^[A-Z].*", (method, path))
            if method == "get":
                text = json.dumps(operation["responses"]["200"])
                self.assertNotIn("schemas/action", text, path)

    async def test_every_collection_that_is_described_is_served(self) -> None:
        host_id = await self.engine.add_host_that_is_up()
        for method, path, operation in self.operations():
            path = path.replace("{host_id}", host_id)
            is_list = '"items"' in json.dumps(operation["responses"].get("200", {}))
            if method == "get" and "{" not in path and is_list:
                query = "?address=192.0.2.1" if path == "/sshkeys" else ""
                reply = await self.engine.get(path + query)
                self.assertEqual(reply.status, 200, path)

    def test_references_lead_somewhere(self) -> None:
        for reference in set(re.findall(r'"#/([^"]+)"', json.dumps(self.found))):
            found = self.found
            for part in reference.split("/"):
                found = found[part]

    def test_secrets_are_in_requests_only(self) -> None:
        host = self.found["components"]["schemas"]["host"]["properties"]
        self.assertNotIn("root_password", host)
        operation = self.found["paths"]["/hosts"]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        self.assertTrue(body["properties"]["root_password"]["writeOnly"])
        self.assertIsInstance(host_elements.HOST.by_name["root_password"].type, SecretText)

    async def test_examples_are_accepted(self) -> None:
        operation = self.found["paths"]["/hosts"]["post"]
        content = operation["requestBody"]["content"]
        reply = await self.engine.request("POST", "/hosts", content["application/json"]["example"])
        self.assertEqual(reply.status, 201)
        again = content["application/xml"]["example"].replace("web1", "web2")
        self.assertEqual((await self.engine.request("POST", "/hosts", again)).status, 201)


class AtOnce(list[Deferred[None]]):
    """Ends each deployment as soon as it has begun."""

    def append(self, release: Deferred[None]) -> None:
        reactor.callLater(0, release.callback, None)


class SchemathesisTests(HttpsCase):
    timeout = 400
    if importlib.util.find_spec("schemathesis") is None:
        skip = "schemathesis is missing: pip install 'pkengine[test]'"

    async def setUp(self) -> None:
        await super().setUp()
        self.host_id = await self.engine.add_host_that_is_up()
        self.engine.network.deployments = AtOnce()
        # It tries wrong passwords on purpose, and wants to be told that they are wrong.
        for name in ("FREE_FOR_USER", "FREE_FOR_ADDRESS"):
            self.patch(login_throttle, name, 10**6)

    async def run_phases(self, phases: str, *options: str) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        parameters = f'[parameters]\n"path.host_id" = "{self.host_id}"\n'
        (folder / "schemathesis.toml").write_text(parameters)
        output, errors, status = await getProcessOutputAndValue(
            sys.executable,
            (
                *("-m", "schemathesis.cli"),
                *("run", f"{self.origin}/ovirt-engine/api/openapi.json"),
                *("--tls-verify", str(self.ca_file.absolute())),
                *("--header", f"Authorization: {self.engine.authorization}"),
                *("--header", "Accept: application/json"),
                *("--checks", ",".join(CHECKS)),
                *("--phases", phases, *options),
                # The same each time, so that each run of the tests tells the same.
                *("--generation-deterministic", "--workers", "1"),
                *("--request-timeout", "20", "--max-time", "60"),
                *("--no-color", "--warnings", "off", "--continue-on-failure"),
            ),
            env=os.environ,
            path=str(folder),
        )
        self.assertEqual(status, 0, (output + errors).decode(errors="replace")[-60_000:])
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_engine_keeps_to_its_description(self) -> None:
        await self.run_phases("examples,coverage")

    async def test_engine_keeps_to_it_whatever_is_sent(self) -> None:
        await self.run_phases("fuzzing", "--max-examples", "3")
