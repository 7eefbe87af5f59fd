"""Hosts that are reached through another one."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.protocol import Factory, Protocol

from pkengine.errors import (
    HostKeyMismatch,
    HostUnreachable,
    SshConnectionLost,
)
from pkengine.ssh import (
    HostKeyPolicy,
    SshConnection,
    SshCredentials,
    SshTarget,
    connect_ssh,
    fetch_host_keys,
)
from tests.ssh.clock import ClockedReactor
from tests.ssh.openssh import USER
from tests.ssh.server import ECDH_INIT, SshServer, host_key, public
from tests.ssh.test_openssh import OpenSshTestCase

OTHER = public(host_key("ssh-ed25519", 2))


class Sender(Protocol):
    def __init__(self) -> None:
        self.met: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.met.callback(None)


class Receiver(Protocol):
    TOTAL = 1024 * 1024

    def __init__(self) -> None:
        self.received = 0
        self.complete: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        if self.received == self.TOTAL:
            self.complete.callback(None)

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class JumpTests(OpenSshTestCase):
    async def bastion(self, *options: str, name: str = "bastion", **how) -> SshConnection:
        """Log in to a new host that is to be gone through."""
        server = self.serve(*options, name=name)
        return await self.login(server, **how)

    async def login(self, server, *, through=None, on=reactor, **policy) -> SshConnection:
        target = SshTarget("127.0.0.1", server.port, USER)
        credentials = SshCredentials(keys=(self.identity.private_key,))
        connection = await connect_ssh(
            on, target, HostKeyPolicy(**policy), credentials, through=through
        )
        self.addCleanup(connection.close)
        return connection

    async def test_both_keys_are_judged_and_files_go_through(self):
        host = self.serve(name="host")
        bastion = await self.bastion()
        connection = await self.login(host, through=bastion, stored=(host.host_key(),))
        self.assertEqual(connection.judgement.key, host.host_key())
        self.assertIs(connection.through, bastion)
        await self.check(connection)
        await connection.close()
        self.assertIsNone(await bastion.closed)

    async def test_two_hosts_on_the_way(self):
        first = await self.bastion(name="first")
        second = await self.bastion(name="second", through=first)
        host = await self.login(self.serve(name="host"), through=second)
        await self.check(host)
        await host.close()
        self.assertIsNone(await first.closed)

    async def test_a_wrong_key_behind_it_leaves_the_way_to_be_closed(self):
        host, bastion = self.serve(name="host"), await self.bastion()
        attempt = ensureDeferred(self.login(host, through=bastion, stored=(OTHER,)))
        error = await self.assertFailure(attempt, HostKeyMismatch)
        self.assertIn(f"port {host.port}", str(error))
        self.assertNotIn(b"userauth", host.log)
        await self.check(bastion)

    async def test_a_fingerprint_of_any_type_matches_through_it(self):
        bastion = await self.bastion()
        host = self.serve(name="host", host_key_types=("ed25519", "ecdsa", "rsa"))
        keys = await fetch_host_keys(reactor, "127.0.0.1", host.port, through=bastion)
        self.assertEqual(len(keys), 3)
        given = keys[-1].fingerprint()
        connection = await self.login(host, through=bastion, given=given)
        self.assertEqual(connection.judgement.key, keys[-1])

    async def test_a_host_that_forbids_it_is_named(self):
        bastion = await self.bastion("AllowTcpForwarding no")
        attempt = ensureDeferred(self.login(self.serve(name="host"), through=bastion))
        error = await self.assertFailure(attempt, HostUnreachable)
        self.assertIn(f"{bastion.target}, on the way, does not allow", str(error))
        self.assertIn("AllowTcpForwarding", str(error))

    async def test_a_port_that_nobody_listens_on_is_told_by_the_host_on_the_way(self):
        bastion = await self.bastion()
        listening = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        port = listening.getHost().port
        await listening.stopListening()
        attempt = fetch_host_keys(reactor, "127.0.0.1", port, through=bastion)
        error = await self.assertFailure(ensureDeferred(attempt), HostUnreachable)
        self.assertIn(f"127.0.0.1 port {port} cannot be reached", str(error))
        self.assertIn("cannot connect to it: 'Connection refused'", str(error))

    async def test_the_end_of_the_host_on_the_way_is_the_end_of_both(self):
        bastion = await self.bastion()
        connection = await self.login(self.serve(name="host"), through=bastion)
        bastion._transport.end(SshConnectionLost("cut"))
        self.assertIsInstance(await connection.closed, SshConnectionLost)

    async def test_who_pauses_is_sent_no_more_than_the_window_and_then_all_of_it(self):
        bastion = await self.bastion()
        sender = Sender()
        listening = reactor.listenTCP(
            0, Factory.forProtocol(lambda: sender), interface="127.0.0.1"
        )
        self.addCleanup(listening.stopListening)
        receiver = Receiver()
        endpoint = bastion.endpoint("127.0.0.1", listening.getHost().port)
        await connectProtocol(endpoint, receiver)
        transport = receiver.transport
        transport.pauseProducing()
        await sender.met
        sender.transport.write(b"x" * Receiver.TOTAL)
        # The host has sent all that it may as soon as it answers something else.
        while transport.localWindowLeft > 0:
            await bastion.run("true")
        self.assertEqual(receiver.received, 0)
        transport.resumeProducing()
        await receiver.complete
        self.assertEqual(receiver.received, Receiver.TOTAL)
        transport.loseConnection()
        await receiver.lost

    def stalling(self) -> SshServer:
        server = SshServer(host_key("ssh-ed25519")).listen("127.0.0.1")
        self.addCleanup(lambda: ensureDeferred(server.stop()))
        return server

    async def test_a_host_that_stalls_behind_it_is_left_at_the_deadline(self):
        clock = ClockedReactor()
        bastion, host = await self.bastion(on=clock), self.stalling()
        stalled = host.stall_at(ECDH_INIT)
        attempt = ensureDeferred(self.login(host, through=bastion, on=clock))
        await stalled
        clock.advance(20)
        await self.assertFailure(attempt, HostUnreachable)
        await bastion.close()
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_an_attempt_that_is_cancelled_leaves_nothing(self):
        bastion, host = await self.bastion(), self.stalling()
        stalled = host.stall_at(ECDH_INIT)
        attempt = ensureDeferred(self.login(host, through=bastion))
        await stalled
        attempt.cancel()
        await self.assertFailure(attempt, CancelledError)
