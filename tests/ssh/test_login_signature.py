"""What is signed to log in, and for which host."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.ssh.login_signature import LoginRequest, SessionBinding
from pkengine.ssh.wire import MalformedMessage, string
from tests.ssh.server import host_key, public

HOST = host_key("ssh-ed25519")
KEY = public(host_key("ssh-ed25519", 2))
REQUEST = LoginRequest(b"session", "root", "ssh-ed25519", KEY)


class LoginRequestTests(SynchronousTestCase):
    def test_it_is_read_as_it_was_written(self) -> None:
        self.assertEqual(LoginRequest.parse(REQUEST.to_sign()), REQUEST)

    def test_anything_else_is_no_login(self) -> None:
        signed = REQUEST.to_sign()
        for other in (
            b"",
            signed[:-1],
            signed + b"x",
            signed.replace(b"publickey", b"passwords"),
            signed.replace(b"ssh-connection", b"ssh-connectiox"),
            string(b"session") + b"\x33" + signed[len(string(b"session")) + 1 :],
            b"SSHSIG" + signed,
            signed.replace(b"\x01" + string(b"ssh-ed25519"), b"\x00" + string(b"ssh-ed25519")),
        ):
            self.assertRaises(MalformedMessage, LoginRequest.parse, other)

    @given(st.binary(max_size=200))
    def test_whatever_comes_is_read_or_refused(self, octets: bytes) -> None:
        try:
            request = LoginRequest.parse(octets)
        except MalformedMessage:
            return
        self.assertEqual(request.to_sign(), octets)


class SessionBindingTests(SynchronousTestCase):
    def test_only_the_hosts_signature_of_that_session_proves_it(self) -> None:
        signature = HOST.sign(b"session")
        shown = public(HOST)
        self.assertTrue(SessionBinding(shown, b"session", signature).is_genuine())
        self.assertFalse(SessionBinding(shown, b"another", signature).is_genuine())
        self.assertFalse(SessionBinding(KEY, b"session", signature).is_genuine())
