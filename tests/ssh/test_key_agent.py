"""Logging in with the keys of a real ssh-agent, and what else may listen at its socket."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.protocol import Factory, Protocol

from pkengine.errors import KeyAgentError, SshAuthenticationFailed
from pkengine.keys import Secret, SshPublicKey
from pkengine.ssh import connect_key_agent
from pkengine.ssh.login_signature import LoginRequest, SessionBinding
from pkengine.ssh.wire import string
from tests.ssh.clock import ClockedReactor
from tests.ssh.ssh_agent import SshAgent, is_available
from tests.ssh.test_openssh import OpenSshTestCase


class SecurityKey:
    """What a FIDO token does behind an agent (OpenSSH's PROTOCOL.u2f), in software."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key().public_bytes_raw()
        key_type = "sk-ssh-ed25519@openssh.com"
        blob = string(key_type.encode()) + string(public) + string(b"ssh:")
        self.keys = (SshPublicKey(key_type, blob),)

    def sign(
        self, key: SshPublicKey, signed: bytes, algorithm: str, binding: SessionBinding
    ) -> Deferred[bytes]:
        assert binding.is_genuine()
        assert LoginRequest.parse(signed).session_id == binding.session_id
        assert algorithm == key.key_type
        touched = b"\1" + (7).to_bytes(4, "big")
        digests = sha256(b"ssh:").digest() + touched + sha256(signed).digest()
        return succeed(string(algorithm.encode()) + string(self._key.sign(digests)) + touched)


class KeyAgentTests(OpenSshTestCase):
    if not is_available():
        skip = "ssh-agent is not installed (Debian: openssh-client)"

    def setUp(self):
        super().setUp()
        self.agent_process = SshAgent()
        self.addCleanup(lambda: ensureDeferred(self.agent_process.stop()))
        self.socket = self.agent_process.socket

    async def start_agent(self, *kinds: tuple[str, ...]) -> list[SshPublicKey]:
        await self.agent_process.start()
        return [self.agent_process.add_key(*kind) for kind in kinds]

    async def agent(self, **options):
        agent = await connect_key_agent(reactor, self.socket, **options)
        self.addCleanup(agent.close)
        return agent

    async def log_in(self, authorized: SshPublicKey, agent, *options: str, **credentials):
        server = self.serve(*options, name=f"sshd-{len(list(self.directory.iterdir()))}")
        server.authorized_keys.write_text(f"{authorized}\n")
        credentials.setdefault("keys", ())
        return server, self.connect(server, agent=agent, **credentials)

    async def test_keys_of_every_type_log_in(self):
        keys = await self.start_agent(
            ("-t", "ed25519"), ("-t", "ecdsa"), ("-t", "rsa", "-b", "2048")
        )
        agent = await self.agent()
        self.assertEqual(agent.keys, tuple(keys))
        for key in keys:
            _, attempt = await self.log_in(key, agent)
            connection = await attempt
            self.assertEqual(connection.authenticated_by, "publickey")
            await connection.run("true")
        _, attempt = await self.log_in(keys[-1], agent, "PubkeyAcceptedAlgorithms rsa-sha2-512")
        await attempt

    async def test_the_engines_key_comes_before_those_of_the_agent(self):
        await self.start_agent(("-t", "ed25519"))
        server, attempt = await self.log_in(
            self.identity.public, await self.agent(), keys=(self.identity.private_key,)
        )
        await attempt
        self.assertEqual(server.log.count(b"Failed publickey"), 0)

    async def test_many_keys_do_not_use_up_the_hosts_patience(self):
        keys = await self.start_agent(*[("-t", "ed25519")] * 9)
        agent = await self.agent()
        stranger = self.identity.public
        _, attempt = await self.log_in(stranger, agent, password=Secret("not sent"))
        error = await self.assertFailure(ensureDeferred(attempt), SshAuthenticationFailed)
        self.assertIn("publickey with 4 keys", str(error))
        self.assertIn("does not accept the keys", str(error))
        agent = await self.agent(only=keys[-1].fingerprint())
        self.assertEqual(agent.keys, (keys[-1],))
        _, attempt = await self.log_in(keys[-1], agent)
        await attempt

    async def test_a_security_key_logs_in(self):
        key = SecurityKey()
        _, attempt = await self.log_in(key.keys[0], key)
        self.assertEqual((await attempt).authenticated_by, "publickey")

    async def test_an_agent_that_does_not_sign_is_told_of(self):
        (key,) = await self.start_agent(("-t", "ed25519"))
        agent = await self.agent()
        subprocess.run(["ssh-add", "-q", "-D"], check=True, env={"SSH_AUTH_SOCK": self.socket})
        _, attempt = await self.log_in(key, agent)
        error = await self.assertFailure(ensureDeferred(attempt), SshAuthenticationFailed)
        self.assertIn(f"the ssh-agent does not sign with {key.fingerprint()}", str(error))

    async def test_an_agent_that_goes_away_is_told_of(self):
        (key,) = await self.start_agent(("-t", "ed25519"))
        agent = await self.agent()
        await self.agent_process.stop()
        signing = agent.sign(key, b"data", "ssh-ed25519")
        await self.assertFailure(signing, KeyAgentError)

    async def test_an_empty_agent_and_a_missing_one_are_told(self):
        await self.start_agent()
        error = await self.assertFailure(ensureDeferred(self.agent()), KeyAgentError)
        self.assertIn("has no key. Add it with 'ssh-add'", str(error))
        for path in (self.socket + "-missing", self.socket * 9):
            missing = connect_key_agent(reactor, path)
            await self.assertFailure(ensureDeferred(missing), KeyAgentError)
        self.patch(os, "environ", {})
        error = await self.assertFailure(ensureDeferred(connect_key_agent(reactor)), KeyAgentError)
        self.assertIn("SSH_AUTH_SOCK is not set", str(error))

    def listen(self, answer: bytes | None) -> Deferred:
        asked: Deferred = Deferred()

        class Fake(Protocol):
            def dataReceived(self, data):
                if answer is not None:
                    self.transport.write(answer)
                asked.callback(None)

        factory = Factory.forProtocol(Fake)
        factory.noisy = False
        port = reactor.listenUNIX(self.socket, factory)
        self.addCleanup(port.stopListening)
        return asked

    async def test_what_is_no_agent_is_told(self):
        self.listen(b"\0\0\0\x05\x05AAAA")
        error = await self.assertFailure(ensureDeferred(self.agent()), KeyAgentError)
        self.assertIn("is no ssh-agent", str(error))

    async def test_an_agent_that_says_nothing_is_left_at_the_deadline(self):
        asked, clock = self.listen(None), ClockedReactor()
        connecting = ensureDeferred(connect_key_agent(clock, self.socket, timeout_s=5))
        await asked
        clock.advance(5)
        await self.assertFailure(connecting, KeyAgentError)
