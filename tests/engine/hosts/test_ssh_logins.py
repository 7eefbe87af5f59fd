"""With what the engine logs in: its own key, and those of an ssh-agent, to a real sshd."""

from __future__ import annotations

from unittest import skipUnless

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred

from pkengine.engine.hosts.ssh_logins import SshLogins
from pkengine.errors import SshAuthenticationFailed
from pkengine.keys import SshPublicKey
from pkengine.ssh import HostKeyPolicy, SshConnection, SshKeyRing, SshTarget
from tests.ssh.openssh import USER, OpenSshServer
from tests.ssh.ssh_agent import SshAgent, is_available
from tests.ssh.test_openssh import OpenSshTestCase


@skipUnless(is_available(), "ssh-agent is not installed (Debian: openssh-client)")
class AgentTests(OpenSshTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.agent = SshAgent()
        self.addCleanup(lambda: ensureDeferred(self.agent.stop()))

    async def serve_to(self, *keys: SshPublicKey) -> OpenSshServer:
        server = OpenSshServer(self.directory / "sshd").start(*map(str, keys))
        self.addCleanup(lambda: ensureDeferred(server.stop()))
        return server

    async def log_in(self, server: OpenSshServer) -> SshConnection:
        keys = SshKeyRing(self.directory / "keys")
        connection = await SshLogins(reactor, keys, agent_socket=self.agent.socket).log_in(
            SshTarget("127.0.0.1", server.port, USER),
            HostKeyPolicy(given=server.host_key()),
            password=None,
            use_key=True,
        )
        self.addCleanup(connection.close)
        return connection

    async def test_a_key_that_is_in_the_agent_alone_lets_the_engine_in(self) -> None:
        await self.agent.start()
        server = await self.serve_to(self.agent.add_key("-t", "ed25519"))
        connection = await self.log_in(server)
        self.assertEqual(connection.authenticated_by, "publickey")
        await self.check(connection)

    async def test_without_the_agent_the_own_key_does_and_a_refusal_says_what_is_missing(
        self,
    ) -> None:
        own = SshKeyRing(self.directory / "keys").newest.public
        server = await self.serve_to(own)
        await self.check(await self.log_in(server))
        server.authorized_keys.write_text("")
        error = await self.assertFailure(
            ensureDeferred(self.log_in(server)), SshAuthenticationFailed
        )
        self.assertIn("Also, No ssh-agent can be reached at", str(error))
