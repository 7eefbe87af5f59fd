"""What a server may do wrong: every ending is one clear sentence, in bounded time and memory."""

from __future__ import annotations

import os
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import HostUnreachable, SshConnectionLost, SshError
from pkengine.keys import Secret, SshPublicKey
from pkengine.ssh import HostKeyPolicy, SshCredentials, SshTarget, connect_ssh, fetch_host_keys
from pkengine.ssh.ciphers import Plain
from pkengine.ssh.host_keys import HostKeyVerifier
from pkengine.ssh.signature import SIGNATURE_ALGORITHMS
from pkengine.ssh.transport import REKEY_S, REKEY_TIMEOUT_S, SshTransport
from pkengine.ssh.version import MAX_GREETING
from pkengine.ssh.wire import MalformedMessage, name_list, string
from tests.ssh.clock import ClockedReactor
from tests.ssh.server import (
    CHANNEL_DATA,
    CHANNEL_OPEN,
    CHANNEL_REQUEST,
    ECDH_INIT,
    KEXINIT,
    NEWKEYS,
    PASSWORD,
    SERVICE_REQUEST,
    USER,
    USERAUTH_REQUEST,
    Login,
    LongRsaKey,
    RecordingTransport,
)
from tests.ssh.test_client import ClientTestCase

CREDENTIALS = SshCredentials(Secret(PASSWORD))


class StallTests(ClientTestCase):
    """A server that falls silent; time passes only when the test says so."""

    def attempt(self, port: int) -> tuple[Deferred, ClockedReactor]:
        clock = ClockedReactor()
        target = SshTarget("127.0.0.1", port, USER)
        return ensureDeferred(
            connect_ssh(clock, target, HostKeyPolicy(), CREDENTIALS, timeout_s=20)
        ), clock

    async def test_a_server_that_stalls_is_left_at_the_deadline_and_the_step_is_named(self):
        for message, error, step in (
            (ECDH_INIT, HostUnreachable, "its key exchange"),
            (SERVICE_REQUEST, SshConnectionLost, "its consent to a login"),
            (USERAUTH_REQUEST, SshConnectionLost, "its decision on the login"),
        ):
            server = self.serve()
            stalled = server.stall_at(message)
            attempt, clock = self.attempt(server.port)
            await stalled
            clock.advance(19.9)
            self.assertNoResult(attempt)
            clock.advance(0.2)
            text = str(await self.assertFailure(attempt, error))
            self.assertIn(f"not send {step} within 20 s", text)
            await server.connections[0].lost
            self.assertEqual(clock.getDelayedCalls(), [])

    async def test_a_port_that_accepts_and_says_nothing_is_left_at_the_deadline(self):
        accepted = Deferred()
        factory = Factory.forProtocol(_Silent)
        factory.accepted = accepted
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        attempt, clock = self.attempt(port.getHost().port)
        silent = await accepted
        await silent.heard
        clock.advance(20)
        text = str(await self.assertFailure(attempt, HostUnreachable))
        self.assertIn("accepted the connection, but did not send its SSH version string", text)
        await silent.lost

    async def test_a_server_that_says_its_version_and_no_more_is_left_at_the_deadline(self):
        accepted = Deferred()
        factory = Factory.forProtocol(_Silent)
        factory.accepted = accepted
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        attempt, clock = self.attempt(port.getHost().port)
        silent = await accepted
        silent.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n" + bytes((0, 0, 1)))  # and half a length
        silent.transport.loseWriteConnection()
        text = str(await self.assertFailure(attempt, HostUnreachable))
        self.assertIn("closed the connection while its key exchange was awaited", text)
        self.assertEqual(clock.getDelayedCalls(), [])
        await silent.lost

    async def test_fetching_keys_has_a_deadline_too(self):
        server = self.serve()
        stalled = server.stall_at(ECDH_INIT)
        clock = ClockedReactor()
        fetching = ensureDeferred(fetch_host_keys(clock, "127.0.0.1", server.port, timeout_s=5))
        await stalled
        clock.advance(5)
        await self.assertFailure(fetching, HostUnreachable)


class _Silent(Protocol):
    def connectionMade(self):
        self.heard, self.lost = Deferred(), Deferred()
        self.factory.accepted.callback(self)

    def dataReceived(self, data):
        if not self.heard.called:
            self.heard.callback(None)

    def connectionLost(self, reason):
        self.lost.callback(None)


class EndingTests(ClientTestCase):
    async def test_a_server_that_hangs_up_is_named_with_the_step(self):
        for message, error in (
            (KEXINIT, HostUnreachable),
            (ECDH_INIT, HostUnreachable),
            (SERVICE_REQUEST, SshConnectionLost),
        ):
            server = self.serve()
            server.close_at(message)
            text = await self.refused(error, self.connect(server))
            self.assertIn("the host closed the connection", text)
            self.assertEqual(server.passwords, [])

    async def test_a_server_that_hangs_up_at_any_message_is_a_sentence(self):
        for message in (
            *(KEXINIT, ECDH_INIT, NEWKEYS, SERVICE_REQUEST, USERAUTH_REQUEST),
            *(CHANNEL_OPEN, CHANNEL_REQUEST, CHANNEL_DATA),
        ):
            server = self.serve()
            server.close_at(message)
            attempt = ensureDeferred(self._log_in_and_run(server))
            error = await self.assertFailure(attempt, HostUnreachable, SshConnectionLost)
            self.assertRegex(str(error), r"127\.0\.0\.1 port \d+.* closed the connection")

    async def _log_in_and_run(self, server):
        connection = await self.connect(server)
        await connection.run("cat", stdin=b"x")

    async def test_algorithms_that_do_not_meet_are_listed_for_both_sides_whatever_the_kind(self):
        for attribute, theirs, what, ours in (
            (
                "supportedKeyExchanges",
                [b"diffie-hellman-group14-sha1"],
                "key exchange method",
                "mlkem768x25519-sha256, ",
            ),
            ("supportedCiphers", [b"3des-cbc", b"arcfour"], "cipher", "aes128-gcm@openssh.com, "),
            ("supportedMACs", [b"hmac-md5"], "MAC", "hmac-sha2-256-etm@openssh.com, "),
            ("supportedCompressions", [b"zlib"], "compression", "none"),
        ):
            patch = self.patch(RecordingTransport, attribute, theirs)
            text = await self.refused(HostUnreachable, self.connect(self.serve()))
            patch.restore()
            self.assertIn(f"and this side share no {what}: ", text)
            self.assertIn(f"the host offers {theirs[0].decode()}", text)
            self.assertIn(f"this side offers {ours}", text)

    async def test_an_rsa_key_of_16_kbit_is_verified_and_a_longer_one_is_not(self):
        server = self.serve()
        long, too_long = LongRsaKey(16), LongRsaKey(17)
        server.use_keys(long)
        self.assertEqual(
            await fetch_host_keys(reactor, "127.0.0.1", server.port),
            [SshPublicKey.from_blob(long.blob())],
        )
        server.use_keys(too_long)
        text = await self.refused(HostUnreachable, self.connect(server))
        self.assertRegex(text, r"an RSA key of 17\d{3} bits")
        self.assertEqual(server.passwords, [])

    async def test_a_banner_of_a_megabyte_is_survived(self):
        login = Login(banner=b"long words " * 3000, banners=32)
        connection = await self.connect(self.serve(login=login))
        self.assertEqual((await connection.run("echo hi")).stdout, b"hi\n")

    async def test_a_server_that_goes_on_about_the_login_is_cut_off(self):
        server = self.serve()

        def repeat(transport):
            for _ in range(1000):
                transport.sendPacket(51, name_list(["publickey"]) + b"\0")
            return False

        server.behaviours[USERAUTH_REQUEST] = repeat
        await self.refused(SshError, self.connect(server))
        self.assertEqual(server.passwords, [])

    async def test_a_second_service_accept_does_not_start_the_login_again(self):
        server = self.serve()

        def accept_again(transport):
            transport.sendPacket(6, string(b"ssh-userauth"))
            return True

        server.behaviours[USERAUTH_REQUEST] = accept_again
        await self.refused(SshError, self.connect(server, password="wrong"))
        self.assertLessEqual(len(server.passwords), 1)

    async def test_success_before_the_key_exchange_is_not_believed(self):
        server = self.serve()

        def succeed(transport):
            transport.transport.write(Plain().seal(0, bytes((52,))))
            return False

        server.behaviours[ECDH_INIT] = succeed
        text = await self.refused(HostUnreachable, self.connect(server))
        self.assertIn("message 52 before any service", text)

    async def test_messages_that_make_no_sense_end_the_connection(self):
        for number, payload in (
            (90, b""),  # a channel is opened, with nothing said about it
            (94, struct.pack(">II", 77, 3) + b"abc"),  # data for a channel that is not there
            (81, b""),  # the answer to a question that was not asked
            (98, struct.pack(">I", 0)),
            (31, b"\0\0\0\1x"),
            (NEWKEYS, b""),
            (6, string(b"ssh-connection")),
        ):
            server = self.serve()
            connection = await self.connect(server)
            server.connections[0].sendPacket(number, payload)
            reason = await connection.closed
            self.assertIsInstance(reason, SshConnectionLost)
            self.assertIn("the SSH protocol was broken", str(reason))

    async def test_a_host_may_not_open_channels_or_ask_for_much(self):
        server = self.serve()
        connection = await self.connect(server)
        server.behaviours[92] = server.behaviours[82] = lambda transport: False
        opened = string(b"forwarded-tcpip") + struct.pack(">III", 5, 1000, 1000)
        server.connections[0].sendPacket(90, opened)
        server.connections[0].sendPacket(80, string(b"keepalive@openssh.com") + b"\1")
        await connection.run("true")
        numbers = server.connections[0].numbers
        self.assertIn(92, numbers)
        self.assertIn(82, numbers)

    async def test_a_flood_of_unknown_messages_ends_the_connection(self):
        server = self.serve()
        connection = await self.connect(server)
        for _ in range(100):
            server.connections[0].sendPacket(200, b"")
        await connection.closed
        await server.connections[0].lost
        self.assertLess(server.connections[0].numbers.count(3), 20)

    async def test_a_key_that_changes_within_a_connection_ends_it(self):
        server = self.serve()
        connection = await self.connect(server)
        other = self.serve()
        other.use_keys(_another_key())
        server.publicKeys, server.privateKeys = other.publicKeys, other.privateKeys
        server.connections[0].sendKexInit()
        reason = await connection.closed
        self.assertIn("changed its key within the connection", str(reason))


class RekeyTests(ClientTestCase):
    """When new keys are made, and what a server may do meanwhile."""

    async def test_old_keys_are_replaced_before_the_next_message(self):
        server, clock = self.serve(), ClockedReactor()
        target = SshTarget("127.0.0.1", server.port, USER)
        connection = await connect_ssh(clock, target, HostKeyPolicy(), CREDENTIALS)
        self.addCleanup(connection.close)
        numbers = server.connections[0].numbers
        await connection.run("true")
        self.assertEqual(numbers.count(NEWKEYS), 1)
        clock.advance(REKEY_S)
        self.assertEqual((await connection.run("echo hi")).stdout, b"hi\n")
        numbers = server.connections[0].numbers
        self.assertEqual(numbers.count(NEWKEYS), 2)
        opens = [at for at, number in enumerate(numbers) if number == CHANNEL_OPEN]
        self.assertLess(numbers.index(NEWKEYS, numbers.index(CHANNEL_OPEN)), opens[1])
        await connection.run("true")
        self.assertEqual(server.connections[0].numbers.count(NEWKEYS), 2)

    async def test_an_idle_connection_gets_new_keys_too(self):
        server, clock = self.serve(), ClockedReactor()
        target = SshTarget("127.0.0.1", server.port, USER)
        connection = await connect_ssh(clock, target, HostKeyPolicy(), CREDENTIALS)
        self.addCleanup(connection.close)
        for times in (2, 3):
            renewed: Deferred[None] = Deferred()
            server.behaviours[NEWKEYS] = lambda _, renewed=renewed: renewed.callback(None) or True
            clock.advance(REKEY_S)
            await renewed
            self.assertEqual(server.connections[0].numbers.count(NEWKEYS), times)
            # The host's own NEWKEYS is on its way: whatever is answered comes behind it.
            self.assertEqual((await connection.run("echo hi")).stdout, b"hi\n")

    async def test_a_server_that_gives_no_new_keys_is_left(self):
        server, clock = self.serve(), ClockedReactor()
        target = SshTarget("127.0.0.1", server.port, USER)
        connection = await connect_ssh(clock, target, HostKeyPolicy(), CREDENTIALS)
        stalled = server.stall_at(KEXINIT)
        clock.advance(REKEY_S)
        await stalled
        clock.advance(REKEY_TIMEOUT_S)
        self.assertIn("no new keys were agreed within 300 s", str(await connection.closed))
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_a_server_that_asks_on_and_on_instead_of_new_keys_is_cut_off(self):
        server, clock = self.serve(), ClockedReactor()
        target = SshTarget("127.0.0.1", server.port, USER)
        connection = await connect_ssh(clock, target, HostKeyPolicy(), CREDENTIALS)
        asked = Deferred()
        server.behaviours[KEXINIT] = lambda transport: asked.callback(transport)
        clock.advance(REKEY_S)
        running = ensureDeferred(connection.run("true"))
        (await asked)._keyExchangeState = SSHServerTransport._KEY_EXCHANGE_NONE
        for _ in range(200):
            server.connections[0].sendPacket(80, string(b"keepalive@openssh.com") + b"\1")
        text = str(await self.assertFailure(running, SshConnectionLost))
        self.assertIn("requests without end", text)

    async def test_a_key_exchange_within_another_ends_the_connection(self):
        server = self.serve()

        def repeat(transport):
            transport.transport.write(Plain().seal(0, transport.ourKexInitPayload))
            return False

        server.behaviours[ECDH_INIT] = repeat
        text = await self.refused(HostUnreachable, self.connect(server))
        self.assertIn("a key exchange within another", text)


def _another_key():
    from tests.ssh.server import host_key

    return host_key("ssh-ed25519", 99)


class GarbageTests(SynchronousTestCase):
    """What comes before the key exchange, byte by byte and without a network."""

    def transport(self) -> tuple[SshTransport, StringTransport]:
        network = _AbortableTransport()
        transport = SshTransport("node1", HostKeyVerifier("node1", HostKeyPolicy()), Clock())
        transport.makeConnection(network)
        return transport, network

    def test_the_version_is_found_behind_a_greeting_however_it_is_split(self):
        greeting = b"Welcome\r\nto\nnode1\r\nSSH-2.0-OpenSSH_9.2p1 Debian\r\n"
        for size in (1, 3, len(greeting)):
            transport, _ = self.transport()
            for start in range(0, len(greeting), size):
                transport.dataReceived(greeting[start : start + size])
            self.assertEqual(transport.otherVersionString, b"SSH-2.0-OpenSSH_9.2p1 Debian")
            self.assertIsNone(transport.ended_by)

    def test_a_greeting_without_end_is_cut_off(self):
        for chunk in (b"x" * 1000, b"line\r\n" * 100):
            transport, network = self.transport()
            sent = 0
            while transport.ended_by is None:
                transport.dataReceived(chunk)
                sent += len(chunk)
            self.assertLessEqual(sent, MAX_GREETING + 2 * len(chunk))
            self.assertTrue(network.aborted)
            self.assertIn("is not SSH", str(transport.ended_by))

    def test_another_protocol_version_is_named(self):
        for version in (b"SSH-1.5-OpenSSH_3\n", b"SSH-2.0-" + b"x" * 300 + b"\n", b"SSH-\n"):
            transport, network = self.transport()
            transport.dataReceived(version)
            self.assertIsInstance(transport.ended_by, HostUnreachable)
            self.assertTrue(network.aborted)

    def test_a_web_server_is_not_taken_for_ssh(self):
        transport, _network = self.transport()
        transport.dataReceived(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        transport.connectionLost()
        text = str(self.failureResultOf(transport.secured, HostUnreachable).value)
        self.assertIn("closed the connection while its SSH version string was awaited", text)

    @settings(deadline=None)
    @given(st.binary(max_size=200), st.booleans())
    def test_garbage_gives_no_exception_and_no_credential(self, garbage, is_framed):
        transport, network = self.transport()
        transport.dataReceived(b"SSH-2.0-x\r\n")
        before = network.value()
        packet = Plain().seal(0, garbage) if is_framed and garbage else garbage
        transport.dataReceived(packet)
        transport.dataReceived(packet)
        self.assertNotIn(b"ssh-userauth", network.value()[len(before) :])
        self.assertFalse(transport.secured.called)

    @settings(deadline=None)
    @given(st.data())
    def test_a_kexinit_of_any_lists_ends_in_a_sentence_or_a_key_exchange(self, data):
        names = st.lists(
            st.sampled_from(
                [
                    "curve25519-sha256", "kex-strict-s-v00@openssh.com", "ext-info-s", "none",
                    "ssh-ed25519", "aes128-ctr", "hmac-sha2-256", "zlib", "", "é",
                    *SIGNATURE_ALGORITHMS,
                ]
            ),
            max_size=4,
        )  # fmt: skip
        lists = [data.draw(names) for _ in range(10)]
        transport, _network = self.transport()
        body = os.urandom(16) + b"".join(string(",".join(names).encode()) for names in lists)
        transport.dataReceived(b"SSH-2.0-x\r\n")
        transport.dataReceived(Plain().seal(0, bytes((KEXINIT,)) + body + bytes(5)))
        if transport.ended_by is None:
            self.assertIn("curve25519-sha256", lists[0])
        else:
            self.assertIsInstance(transport.ended_by, SshError)
            self.assertIn("node1", str(transport.ended_by))

    def test_requests_without_end_end_the_connection_only_while_no_answer_is_taken_in(self):
        transport, _ = self.transport()
        for _ in range(1000):
            transport.bear_request()
        transport.pauseProducing()
        for _ in range(64):
            transport.bear_request()
        transport.resumeProducing()
        transport.pauseProducing()
        for _ in range(64):
            transport.bear_request()
        self.assertRaises(MalformedMessage, transport.bear_request)

    def kexinit(self, *exchanges: str) -> bytes:
        lists = [exchanges, ["ssh-ed25519"], *[["aes128-ctr"]] * 2, *[["hmac-sha2-256"]] * 2]
        lists += [["none"], ["none"], [], []]
        return bytes((KEXINIT,)) + bytes(16) + b"".join(map(name_list, lists)) + bytes(5)

    def test_strict_key_exchange_allows_nothing_in_between(self):
        strict = self.kexinit("curve25519-sha256", "kex-strict-s-v00@openssh.com")
        ignored = bytes((2,)) + string(b"filler")
        for packets, is_ended in (
            ((strict, ignored), True),
            ((ignored, strict), True),
            ((strict,), False),
            ((self.kexinit("curve25519-sha256"), ignored), False),
        ):
            transport, network = self.transport()
            transport.dataReceived(b"SSH-2.0-x\r\n")
            for packet in packets:
                transport.dataReceived(Plain().seal(0, packet))
            self.assertEqual(transport.ended_by is not None, is_ended, packets)
            self.assertEqual(network.aborted, is_ended)


class _AbortableTransport(StringTransport):
    aborted = False

    def abortConnection(self):
        self.aborted = True
