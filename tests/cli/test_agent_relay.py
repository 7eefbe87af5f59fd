"""What an administrator's ssh-agent is let sign, and what not."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pkengine.cli.agent_relay import Expected, NotSigned, inspect
from pkengine.ssh.login_signature import LoginRequest
from tests.ssh.server import host_key, public

HOST, OTHER_HOST = host_key("ssh-ed25519"), host_key("ssh-ed25519", 2)
KEY, OTHER_KEY = public(host_key("ssh-ed25519", 3)), public(host_key("ssh-ed25519", 4))
EXPECTED = Expected({"root"}, (public(HOST).fingerprint(),))
REQUEST = LoginRequest(b"session", "root", "ssh-ed25519", KEY)


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def wanted(request: LoginRequest = REQUEST, host: Any = HOST, **more: Any) -> dict[str, Any]:
    return {
        "data": _text(request.to_sign()),
        "host_key": str(public(host)),
        "host_signature": _text(host.sign(b"session")),
        **more,
    }


class InspectTests(SynchronousTestCase):
    def refused(self, request: dict[str, Any], expected: Expected = EXPECTED) -> str:
        return str(self.assertRaises(NotSigned, inspect, request, (KEY,), expected))

    def test_the_login_that_was_asked_for_is_signed(self) -> None:
        request, binding = inspect(wanted(), (KEY,), EXPECTED)
        self.assertEqual((request, binding.key), (REQUEST, public(HOST)))

    def test_a_host_whose_key_is_left_to_the_engine_may_have_any(self) -> None:
        inspect(wanted(host=OTHER_HOST), (KEY,), Expected({"root"}, (None,)))

    def test_a_login_at_another_host_is_not_signed(self) -> None:
        said = self.refused(wanted(host=OTHER_HOST))
        self.assertIn(f"at a host with the key {public(OTHER_HOST).fingerprint()}", said)

    def test_a_session_of_which_the_host_proved_nothing_is_not_signed(self) -> None:
        # An engine that has been taken over may only pass off another session as the host's.
        forged = wanted(host_signature=_text(OTHER_HOST.sign(b"session")))
        self.assertIn("no host has proved", self.refused(forged))
        elsewhere = wanted(replace(REQUEST, session_id=b"another"))
        self.assertIn("no host has proved", self.refused(elsewhere))

    def test_another_user_or_key_is_not_signed_for(self) -> None:
        self.assertIn("login as 'eve'", self.refused(wanted(replace(REQUEST, user="eve"))))
        self.assertIn("no key of this", self.refused(wanted(replace(REQUEST, key=OTHER_KEY))))

    def test_what_is_no_login_is_not_signed(self) -> None:
        for more in (
            {"data": _text(b"SSHSIG\0\0\0\3git")},
            {"data": "not base64!"},
            {"data": None},
            {"host_key": "nonsense"},
            {"host_signature": ""},
        ):
            self.assertIn("is no login", self.refused(wanted(**more)))
