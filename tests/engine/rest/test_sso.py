"""Logging in and out, and the engine's public keys."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import ADMIN
from pkengine.engine.tokens import IDLE_LIFETIME
from pkengine.keys import SshPublicKey
from tests.engine.rest.served import Reply, ServedEngine

TOKEN = "/ovirt-engine/sso/oauth/token"
TOKEN_INFO = "/ovirt-engine/sso/oauth/token-info"
REVOKE = "/ovirt-engine/sso/oauth/revoke"
LOGOUT = "/ovirt-engine/services/sso-logout"


class SignOnTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)

    async def ask(self, **changes: str) -> Reply:
        form = {
            "grant_type": "password",
            "scope": "ovirt-app-api",
            "username": ADMIN,
            "password": self.engine.password,
        }
        return await self.engine.post_form(TOKEN, **{**form, **changes})

    async def test_token_comes_with_what_the_sdk_reads(self) -> None:
        reply = await self.ask()
        self.assertEqual((reply.status, reply.headers["content-type"]), (200, "application/json"))
        answer = reply.json()
        self.assertEqual(set(answer), {"access_token", "scope", "exp", "token_type"})
        self.assertEqual((answer["scope"], answer["token_type"]), ("ovirt-app-api", "bearer"))
        lifetime_ms = IDLE_LIFETIME.total_seconds() * 1000
        self.assertEqual(int(answer["exp"]), self.engine.clock.seconds() * 1000 + lifetime_ms)
        bearer = f"Bearer {answer['access_token']}"
        self.assertEqual((await self.engine.get("", authorization=bearer)).status, 200)

    async def test_wrong_login_is_denied_in_json_and_tells_nothing_else(self) -> None:
        for changes in ({"password": "wrong"}, {"username": "nobody@internal"}, {"password": ""}):
            reply = await self.ask(**changes)
            self.assertEqual(reply.status, 400)
            answer = reply.json()
            self.assertEqual(answer["error"], "access_denied")
            self.assertIn("user name or password is incorrect", answer["error_description"])
            self.assertNotIn("access_token", answer)

    async def test_wrong_login_is_an_event_without_the_password(self) -> None:
        await self.ask(password="my-bank-password")
        [event] = (await self.engine.get_json("/events?search=type%3D114"))["event"]
        self.assertEqual(event["severity"], "error")
        self.assertNotIn("my-bank-password", str(event))

    async def test_too_many_wrong_logins_have_to_wait(self) -> None:
        for _ in range(5):
            await self.ask(password="wrong")
        reply = await self.ask()
        self.assertEqual((reply.status, reply.headers["retry-after"]), (429, "1"))
        self.assertEqual(reply.json()["error"], "invalid_request")

    async def test_other_grants_and_methods_are_refused_in_json(self) -> None:
        reply = await self.ask(grant_type="client_credentials")
        self.assertEqual((reply.status, reply.json()["error"]), (400, "unsupported_grant_type"))
        reply = await self.engine.request("GET", "/ovirt-engine/sso/oauth/token")
        self.assertEqual((reply.status, reply.json()["error"]), (405, "invalid_request"))
        reply = await self.engine.request("GET", "/ovirt-engine/sso")
        self.assertEqual((reply.status, reply.json()["error"]), (404, "invalid_request"))

    async def test_password_in_the_address_does_not_count(self) -> None:
        path = f"{TOKEN}?grant_type=password&username={ADMIN}&password={self.engine.password}"
        reply = await self.engine.post_form(path, scope="ovirt-app-api")
        self.assertEqual(reply.status, 400)

    async def test_body_must_be_a_form_from_the_same_site(self) -> None:
        reply = await self.engine.request(
            "POST", "/ovirt-engine/sso/oauth/token", {"grant_type": "password"}
        )
        self.assertEqual(reply.status, 415)
        reply = await self.engine.request(
            "POST",
            "/ovirt-engine/sso/oauth/token",
            b"grant_type=password",
            Content_Type="application/x-www-form-urlencoded",
            Origin="https://evil.example",
        )
        self.assertEqual(reply.status, 403)

    async def test_token_info_tells_whose_token_it_is(self) -> None:
        token = (await self.ask()).json()["access_token"]
        info = (await self.engine.post_form(TOKEN_INFO, token=token)).json()
        self.assertEqual((info["active"], info["user_id"]), (True, ADMIN))
        info = (await self.engine.post_form(TOKEN_INFO, token="unknown")).json()
        self.assertEqual(info, {"active": False})

    async def test_logout_and_revoke_end_the_token_at_once(self) -> None:
        for path in (LOGOUT, REVOKE):
            token = (await self.ask()).json()["access_token"]
            bearer = f"Bearer {token}"
            self.assertEqual((await self.engine.get("", authorization=bearer)).status, 200)
            reply = await self.engine.post_form(path, scope="ovirt-app-api", token=token)
            self.assertEqual((reply.status, reply.json()), (200, {}))
            self.assertEqual((await self.engine.get("", authorization=bearer)).status, 401)


class PkiTests(TestCase):
    async def setUp(self) -> None:
        self.engine = await ServedEngine.start(self)

    async def pki(self, query: str) -> Reply:
        return await self.engine.get(
            f"/ovirt-engine/services/pki-resource?{query}", authorization=" ", accept="*/*"
        )

    async def test_engines_ssh_key_is_there_for_everybody(self) -> None:
        reply = await self.pki("resource=engine-certificate&format=OPENSSH-PUBKEY")
        self.assertEqual((reply.status, reply.headers["content-type"]), (200, "text/plain"))
        line = reply.body.decode()
        self.assertEqual(SshPublicKey.parse(line), self.engine.ssh_keys.newest.public)
        self.assertTrue(line.endswith(" ovirt-engine\n"))
        reply = await self.pki("resource=engine-certificate&format=OPENSSH-PUBKEY&alias=me")
        self.assertTrue(reply.body.endswith(b" me\n"))

    async def test_certificates_are_there_for_everybody(self) -> None:
        for query, pair in (
            ("resource=ca-certificate&format=X509-PEM-CA", self.engine.https_key_pair),
            ("resource=ca-certificate", self.engine.https_key_pair),
            ("resource=engine-certificate&format=X509-PEM", self.engine.key_pair),
        ):
            reply = await self.pki(query)
            self.assertEqual((reply.status, reply.body), (200, pair.certificate_pem()))
            self.assertIn("x509", reply.headers["content-type"])

    async def test_everything_else_is_refused(self) -> None:
        for query in (
            "",
            "resource=engine-key",
            "resource=ca-certificate&format=OPENSSH-PUBKEY",
            "resource=engine-certificate&format=PKCS12",
            "resource=engine-certificate&format=OPENSSH-PUBKEY&alias=a%0Assh-rsa%20AAAA",
        ):
            reply = await self.pki(query)
            self.assertEqual(reply.status, 400, query)
            reply.fault()
