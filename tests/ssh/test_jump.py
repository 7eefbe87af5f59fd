"""Hosts that are reached through another one."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.protocol import Factory

from pkengine.errors import (
    HostKeyMismatch,
    HostUnreachable,
    SshAuthenticationFailed,
    SshConnectionLost,
)
from pkengine.ssh import (
    HostKeyPolicy,
    SshConnection,
    SshCredentials,
    SshJump,
    SshTarget,
    connect_ssh,
    fetch_host_keys,
)
from tests.ssh.clock import ClockedReactor
from tests.ssh.openssh import USER, OpenSshServer
from tests.ssh.server import ECDH_INIT, host_key, public
from tests.ssh.test_client import ClientTestCase
from tests.ssh.test_openssh import OpenSshTestCase

OTHER = public(host_key("ssh-ed25519", 2))


class JumpTests(OpenSshTestCase):
    def jump(self, server: OpenSshServer, policy: HostKeyPolicy | None = None) -> SshJump:
        credentials = SshCredentials(key=self.identity.private_key)
        target = SshTarget("127.0.0.1", server.port, USER)
        policy = policy or HostKeyPolicy(stored=(server.host_key(),))
        return SshJump(target, policy, credentials)

    async def through(self, jump: SshJump, server, *, on=reactor, **policy) -> SshConnection:
        target = SshTarget("127.0.0.1", server.port, USER, jump)
        connection = await connect_ssh(on, target, HostKeyPolicy(**policy), jump.credentials)
        self.addCleanup(connection.close)
        return connection

    async def test_both_keys_are_judged_and_files_go_through(self):
        bastion, host = self.serve(name="bastion"), self.serve(name="host")
        connection = await self.through(self.jump(bastion), host, stored=(host.host_key(),))
        self.assertEqual(connection.judgement.key, host.host_key())
        self.assertEqual(connection.through.judgement.key, bastion.host_key())
        await self.check(connection)
        through = connection.through
        await connection.close()
        self.assertIsNone(await through.closed)

    async def test_two_hosts_on_the_way(self):
        servers = [self.serve(name=name) for name in ("first", "second", "host")]
        first = self.jump(servers[0])
        target = SshTarget("127.0.0.1", servers[1].port, USER, first)
        second = SshJump(target, HostKeyPolicy(), first.credentials)
        await self.check(await self.through(second, servers[2]))

    async def test_a_wrong_key_on_the_way_ends_it_before_any_credential(self):
        bastion, host = self.serve(name="bastion"), self.serve(name="host")
        jump = self.jump(bastion, HostKeyPolicy(stored=(OTHER,)))
        error = await self.assertFailure(ensureDeferred(self.through(jump, host)), HostKeyMismatch)
        self.assertIn(f"port {bastion.port}", str(error))
        self.assertEqual(host.connections, 0)

    async def test_a_wrong_key_behind_it_closes_both_connections(self):
        bastion, host = self.serve(name="bastion"), self.serve(name="host")
        attempt = ensureDeferred(self.through(self.jump(bastion), host, stored=(OTHER,)))
        error = await self.assertFailure(attempt, HostKeyMismatch)
        self.assertIn(f"port {host.port}", str(error))
        self.assertNotIn(b"userauth", host.log)

    async def test_a_fingerprint_of_any_type_matches_through_it(self):
        bastion = self.serve(name="bastion")
        host = self.serve(name="host", host_key_types=("ed25519", "ecdsa", "rsa"))
        keys = await fetch_host_keys(reactor, "127.0.0.1", host.port, jump=self.jump(bastion))
        self.assertEqual(len(keys), 3)
        given = keys[-1].fingerprint()
        connection = await self.through(self.jump(bastion), host, given=given)
        self.assertEqual(connection.judgement.key, keys[-1])

    async def test_a_host_that_forbids_it_is_named(self):
        bastion = self.serve("AllowTcpForwarding no", name="bastion")
        host = self.serve(name="host")
        attempt = ensureDeferred(self.through(self.jump(bastion), host))
        error = await self.assertFailure(attempt, HostUnreachable)
        self.assertIn(f"127.0.0.1 port {bastion.port}, on the way, does not allow", str(error))
        self.assertIn("AllowTcpForwarding", str(error))

    async def test_a_port_that_nobody_listens_on_is_told_by_the_host_on_the_way(self):
        bastion = self.serve(name="bastion")
        listening = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        port = listening.getHost().port
        await listening.stopListening()
        attempt = fetch_host_keys(reactor, "127.0.0.1", port, jump=self.jump(bastion))
        error = await self.assertFailure(ensureDeferred(attempt), HostUnreachable)
        self.assertIn(f"127.0.0.1 port {port} cannot be reached", str(error))
        self.assertIn("cannot connect to it: 'Connection refused'", str(error))

    async def test_a_login_that_is_refused_on_the_way_is_its_own_error(self):
        bastion, host = self.serve("AllowUsers nobody", name="bastion"), self.serve(name="host")
        attempt = ensureDeferred(self.through(self.jump(bastion), host))
        error = await self.assertFailure(attempt, SshAuthenticationFailed)
        self.assertIn(f"port {bastion.port}", str(error))

    async def test_the_end_of_the_host_on_the_way_is_the_end_of_both(self):
        bastion, host = self.serve(name="bastion"), self.serve(name="host")
        connection = await self.through(self.jump(bastion), host)
        connection.through._transport.end(SshConnectionLost("cut"))
        self.assertIsInstance(await connection.closed, SshConnectionLost)


class StallTests(ClientTestCase, OpenSshTestCase):
    serve_openssh = OpenSshTestCase.serve
    serve = ClientTestCase.serve

    async def test_a_host_that_stalls_behind_it_is_left_at_the_deadline(self):
        bastion, host = self.serve_openssh(name="bastion"), self.serve()
        stalled = host.stall_at(ECDH_INIT)
        clock = ClockedReactor()
        credentials = SshCredentials(key=self.identity.private_key)
        jump = SshJump(SshTarget("127.0.0.1", bastion.port, USER), HostKeyPolicy(), credentials)
        target = SshTarget("127.0.0.1", host.port, USER, jump)
        attempt = ensureDeferred(connect_ssh(clock, target, HostKeyPolicy(), credentials))
        await stalled
        clock.advance(20)
        await self.assertFailure(attempt, HostUnreachable)
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_an_attempt_that_is_cancelled_leaves_nothing(self):
        bastion, host = self.serve_openssh(name="bastion"), self.serve()
        stalled = host.stall_at(ECDH_INIT)
        credentials = SshCredentials(key=self.identity.private_key)
        jump = SshJump(SshTarget("127.0.0.1", bastion.port, USER), HostKeyPolicy(), credentials)
        target = SshTarget("127.0.0.1", host.port, USER, jump)
        attempt = ensureDeferred(connect_ssh(reactor, target, HostKeyPolicy(), credentials))
        await stalled
        attempt.cancel()
        await self.assertFailure(attempt, CancelledError)
