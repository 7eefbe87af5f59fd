from __future__ import annotations

from pathlib import Path

from twisted.internet import defer, reactor
from twisted.trial.unittest import TestCase

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.login import Login
from pkengine.cli.rest_client import RestClient
from pkengine.keys import KeyPair, Secret
from tests.cli.fake_engine import API, PASSWORD, SILENCE, Asked, FakeEngine


class RestClientTests(TestCase):
    async def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.engine = FakeEngine(reactor, folder)
        await self.engine.start()
        self.addCleanup(lambda: defer.Deferred.fromCoroutine(self.engine.stop()))
        self.asked_for_password = 0

    def client(
        self,
        *,
        password: str = PASSWORD,
        ca_file: Path | None = None,
        origin: str | None = None,
        timeout_s: float = 30.0,
    ) -> RestClient:
        def give() -> Secret:
            self.asked_for_password += 1
            return Secret(password)

        client = RestClient(
            reactor,
            Login(
                origin or self.engine.origin,
                "admin@internal",
                give,
                self.engine.ca_file if ca_file is None else ca_file,
            ),
            timeout_s=timeout_s,
        )
        self.addCleanup(lambda: defer.Deferred.fromCoroutine(client.close()))
        return client

    async def refused(self, client: RestClient, path: str = "/hosts") -> CommandFailed:
        with self.assertRaises(CommandFailed) as caught:
            await client.get(path)
        return caught.exception

    async def test_logs_in_once_and_sends_the_token_with_each_request(self) -> None:
        self.engine.answers["GET /hosts"] = (200, {"host": [{"name": "h1"}]})
        client = self.client()
        self.assertEqual(await client.get("/hosts", search="name=h1"), {"host": [{"name": "h1"}]})
        await client.get("/hosts")
        self.assertEqual(self.engine.issued, 1)
        self.assertEqual(self.engine.asked[1].parameters, {"search": "name=h1"})

    async def test_closing_revokes_the_token(self) -> None:
        self.engine.answers["GET /hosts"] = (200, {})
        client = self.client()
        await client.get("/hosts")
        await client.close()
        self.assertEqual(self.engine.revoked, ["token-1"])

    async def test_an_expired_token_is_renewed_once_without_asking_for_the_password_again(
        self,
    ) -> None:
        self.engine.answers["GET /hosts"] = (200, {})
        client = self.client()
        await client.get("/hosts")
        self.engine.tokens.clear()
        self.assertEqual(await client.get("/hosts"), {})
        self.assertEqual((self.engine.issued, self.asked_for_password), (2, 1))

    async def test_a_request_refused_with_a_fresh_token_is_not_repeated(self) -> None:
        self.engine.answers["GET /hosts"] = (401, "")
        error = await self.refused(self.client())
        self.assertEqual(error.status, ExitStatus.NOT_AUTHORIZED)
        self.assertEqual(self.engine.paths().count(f"GET {API}/hosts"), 1)

    async def test_a_wrong_password_is_not_authorized_and_is_not_in_the_error(self) -> None:
        error = await self.refused(self.client(password="hunter2-wrong"))
        self.assertEqual(error.status, ExitStatus.NOT_AUTHORIZED)
        self.assertIn("admin@internal", str(error))
        self.assertNotIn("hunter2-wrong", str(error))

    async def test_an_engine_that_is_just_starting_says_so(self) -> None:
        self.patch(self.engine, "answer", lambda asked: (503, ""))
        error = await self.refused(self.client())
        self.assertEqual(error.status, ExitStatus.UNREACHABLE)
        self.assertIn("just starting", str(error))

    async def test_the_detail_of_a_fault_is_the_error(self) -> None:
        fault = {"reason": "Operation Failed", "detail": "[The name h1 is in use.]"}
        for code, status in ((409, ExitStatus.REFUSED), (400, ExitStatus.FAILED)):
            self.engine.answers["GET /hosts"] = (code, fault)
            error = await self.refused(self.client())
            self.assertEqual((str(error), error.status), ("The name h1 is in use.", status))

    async def test_a_page_that_is_no_fault_becomes_a_sentence_with_its_status(self) -> None:
        self.engine.answers["GET /hosts"] = (502, "<html>Bad gateway</html>")
        error = await self.refused(self.client())
        self.assertEqual(str(error), "The engine answered GET /hosts with HTTP status 502.")

    async def test_an_answer_that_is_not_json_does_not_come_from_an_engine(self) -> None:
        self.engine.answers["GET /hosts"] = (200, "<html>hello</html>")
        self.assertEqual((await self.refused(self.client())).status, ExitStatus.UNREACHABLE)

    async def test_a_certificate_that_is_not_the_one_given_gets_no_password(self) -> None:
        other = Path(self.mktemp())
        other.write_bytes(
            KeyPair.generate("other", subject_alternative_names=["127.0.0.1"]).certificate_pem()
        )
        error = await self.refused(self.client(ca_file=other))
        self.assertEqual(error.status, ExitStatus.UNREACHABLE)
        self.assertIn("certificate is not trusted", str(error))
        self.assertEqual(self.engine.asked, [])

    async def test_a_certificate_for_another_name_gets_no_password(self) -> None:
        await self.engine.stop()
        self.engine.names = ("engine.example",)
        await self.engine.start()
        error = await self.refused(self.client())
        self.assertEqual(error.status, ExitStatus.UNREACHABLE)
        self.assertIn("not for this name", str(error))
        self.assertEqual(self.engine.asked, [])

    async def test_nobody_listening_is_unreachable(self) -> None:
        origin = self.engine.origin
        await self.engine.stop()
        error = await self.refused(self.client(origin=origin))
        self.assertEqual(error.status, ExitStatus.UNREACHABLE)
        self.assertIn(origin, str(error))
        await self.engine.start()

    async def test_a_file_without_certificates_is_named(self) -> None:
        empty = Path(self.mktemp())
        empty.write_text("nothing")
        with self.assertRaises(CommandFailed) as caught:
            self.client(ca_file=empty)
        self.assertIn(str(empty), str(caught.exception))

    async def test_a_request_can_be_cancelled_while_the_engine_is_silent(self) -> None:
        arrived: defer.Deferred[None] = defer.Deferred()

        def say_nothing(asked: Asked) -> tuple[int, str]:
            arrived.callback(None)
            return SILENCE

        self.engine.answers["GET /hosts"] = say_nothing
        asking = defer.Deferred.fromCoroutine(self.client().get("/hosts"))
        await arrived
        asking.cancel()
        self.failureResultOf(asking)

    async def test_an_engine_that_never_answers_is_given_up_with_a_sentence(self) -> None:
        self.patch(self.engine, "answer", lambda asked: SILENCE)
        error = await self.refused(self.client(timeout_s=0.05))
        self.assertEqual(error.status, ExitStatus.UNREACHABLE)
        self.assertIn("no answer came within 0.05 s", str(error))
