"""That the demo's checks can fail."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from pkengine.agent.control_verbs import Connection, DialledStatus, ListeningAddress, Status
from pkengine.auth import TrustedPeer, format_trust_line
from pkengine.auth.shared_key import SharedKey, SharedKeyFolder
from pkengine.cli.demo import verification
from pkengine.cli.demo.dial_in_verification import check_way
from pkengine.cli.demo.ssh_host import ThrowAwayHost, Visit
from pkengine.cli.demo.stage import Setting, Stage
from pkengine.keys import KeyPair


class VerificationTests(SynchronousTestCase):
    def setUp(self) -> None:
        root = Path(self.mktemp())
        root.mkdir(mode=0o700)
        self.engine, self.agent = root / "engine", root / "agent"
        self.engine_pin = KeyPair.load_or_create(self.engine, "engine").pin
        self.agent_pin = KeyPair.load_or_create(self.agent, "agent").pin
        (root / "host").mkdir()
        self.host = ThrowAwayHost(reactor, root / "host")
        self.log = root / "log"
        self.log.write_text("nothing\n")

    def pins(self, trusted: list[str], *lines: str) -> list[bool]:
        (self.agent / "authorized_engines").write_text("\n".join(lines))
        entity = {"trust": {"keys": {"key": [{"value": pin} for pin in trusted]}}}
        return [
            check.is_right for check in verification.check_keys(entity, self.engine, self.agent)
        ]

    def test_pins_are_right_only_when_each_side_trusts_the_other_and_nobody_else(self) -> None:
        line = format_trust_line(TrustedPeer("engine", self.engine_pin))
        other = format_trust_line(TrustedPeer("other", self.agent_pin))
        self.assertEqual(self.pins([str(self.agent_pin)], line), [True, True])
        self.assertEqual(self.pins([str(self.engine_pin)], line), [False, True])
        self.assertEqual(self.pins([str(self.agent_pin)], line, other), [True, False])
        self.assertEqual(self.pins([], ""), [False, False])

    def test_a_host_key_that_was_taken_on_trust_is_not_right(self) -> None:
        fingerprint = str(self.host.public_key.fingerprint())
        for source, is_right in (("given_fingerprint", True), ("first_use", False)):
            entity = {"ssh": {"fingerprint": fingerprint, "key_source": source}}
            check = verification.check_host_key(entity, self.host)
            self.assertEqual(check.is_right, is_right)

    def test_secrets_are_found_wherever_the_engine_wrote_them(self) -> None:
        def is_right() -> bool:
            found = verification.check_secrets(
                self.host.password, self.engine, self.agent, self.log
            )
            self.assertNotIn(self.host.password.reveal_text(), found.found)
            return found.is_right

        self.assertTrue(is_right())
        self.log.write_bytes(b"login with " + self.host.password.reveal())
        self.assertFalse(is_right())
        self.log.write_bytes(b"")
        (self.engine / "deep").mkdir()
        (self.engine / "deep" / "copy").write_bytes((self.agent / "agent.key").read_bytes())
        self.assertFalse(is_right())

    def refusal(self, reason: str | None, visits: list[Visit], hosts: int = 1) -> list[bool]:
        entities = [{"name": "h"}] * hosts
        return [check.is_right for check in verification.check_refusal(reason, visits, entities)]

    def test_a_refusal_counts_only_if_the_host_saw_a_connection_without_a_login(self) -> None:
        self.assertEqual(self.refusal("no", [Visit()]), [True, True, True])
        self.assertEqual(self.refusal(None, [Visit()]), [False, True, True])
        self.assertEqual(self.refusal("no", [Visit(["password"])]), [True, False, True])
        self.assertEqual(self.refusal("no", []), [True, False, True])
        self.assertEqual(self.refusal("no", [Visit()], hosts=2), [True, True, False])

    def test_keys_that_are_shared_are_right_only_when_both_ends_trust_the_same(self) -> None:
        ours = SharedKey.generate("hmac", local="host", peer="engine")
        other = SharedKey.generate("hmac", local="host", peer="engine")
        SharedKeyFolder(self.agent / "secrets").add(ours)
        mechanisms = frozenset({"hmac"})
        line, another = (
            format_trust_line(TrustedPeer("engine", key.key_id, mechanisms))
            for key in (ours, other)
        )
        self.assertEqual(self.pins([str(ours.key_id)], line), [True, True])
        self.assertEqual(self.pins([str(other.key_id)], line), [False, True])
        self.assertEqual(self.pins([str(ours.key_id)], another), [True, False])
        (self.engine / "copy").write_bytes(ours.encode())
        found = verification.check_secrets(None, self.engine, self.agent, self.log)
        self.assertFalse(found.is_right)


class WayTests(SynchronousTestCase):
    def checks(self, **said: Any) -> list[bool]:
        url = "wss://localhost:1/pkengine/agent"
        stage = Stage(reactor, Path(self.mktemp()), Setting("hmac"))
        stage.agent_url = url
        now = datetime.datetime.now(datetime.timezone.utc)
        dialled = DialledStatus("engine", said.get("url", url), "hmac", "connected", now)
        mechanism = said.get("mechanism", "hmac")
        status = Status(
            pin="sha256//",
            uuid="",
            version="",
            bundle="",
            pid=1,
            started=now,
            state="",
            listening=said.get("listening", []),
            engines=[],
            connections=[Connection("engine", "kid//", mechanism, "127.0.0.1", now)],
            dialled=[dialled],
        )
        entity = {"mechanism": "hmac", "trust": {"tls_path": said.get("path", "direct")}}
        return [check.is_right for check in check_way(entity, status, stage)]

    def test_the_way_is_right_only_as_both_ends_say_and_as_it_was_set_up(self) -> None:
        self.assertEqual(self.checks(), [True, True, True])
        self.assertEqual(self.checks(url="wss://elsewhere/"), [False, True, True])
        listening = [ListeningAddress("127.0.0.1", 54321)]
        self.assertEqual(self.checks(listening=listening), [False, True, True])
        self.assertEqual(self.checks(mechanism="pin"), [True, False, True])
        self.assertEqual(self.checks(path="proxied"), [True, True, False])
        self.assertEqual(self.checks(path="unknown"), [True, True, False])
