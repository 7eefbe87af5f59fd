"""Host keys that are rotated while sshd runs, and servers that lie about theirs."""

from __future__ import annotations

import os
import subprocess

from twisted.internet.defer import ensureDeferred

from pkengine.errors import HostKeyMismatch, HostKeyRefused, SshConnectionLost, SshError
from pkengine.keys import Secret
from pkengine.ssh import HostKeyPolicy, SshCredentials, SshTarget, connect_ssh
from pkengine.ssh.certificate import CERTIFICATE_SUFFIX
from pkengine.ssh.wire import string
from tests.ssh.clock import ClockedReactor
from tests.ssh.server import PASSWORD, USER, host_key, public
from tests.ssh.test_client import ClientTestCase
from tests.ssh.test_openssh import OpenSshTestCase

ED25519, NEXT = host_key("ssh-ed25519"), host_key("ssh-ed25519", 2)


class OpenSshRotationTests(OpenSshTestCase):
    async def test_all_keys_that_the_host_has_are_proved(self):
        server = self.serve(host_key_types=("ed25519", "ecdsa", "rsa"))
        connection = await self.connect(server, HostKeyPolicy(stored=(server.host_key(),)))
        update = await connection.prove_host_keys()
        self.assertEqual(set(update.added), {server.host_key("ecdsa"), server.host_key("rsa")})
        self.assertEqual(set(update.keys), {server.host_key(), *update.added})
        self.assertEqual(update.removed, ())
        await connection.run("true")

    async def test_a_rotation_is_learnt_from_the_old_key(self):
        server = self.serve(host_key_types=("ed25519", "ecdsa"))
        ed25519, ecdsa = server.host_key(), server.host_key("ecdsa")
        known = HostKeyPolicy(stored=(ed25519, ecdsa))
        connection = await self.connect(server, known)
        self.assertFalse(await connection.prove_host_keys())
        # One key is replaced; the other one proves that it is the same host.
        server.make_host_key("ed25519")
        connection = await self.connect(server, HostKeyPolicy(given=ecdsa, stored=known.stored))
        update = await connection.prove_host_keys()
        self.assertEqual(update.added, (server.host_key(),))
        self.assertEqual(update.removed, (ed25519,))
        connection = await self.connect(server, HostKeyPolicy(stored=update.keys))
        self.assertFalse(await connection.prove_host_keys())
        server.make_host_key("ed25519")
        server.make_host_key("ecdsa")
        attempt = self.connect(server, HostKeyPolicy(stored=update.keys))
        await self.assertFailure(ensureDeferred(attempt), HostKeyMismatch)

    async def test_a_host_shows_its_certificate(self):
        server = self.serve()
        authority = self.directory / "ca"
        path = server.directory / "ssh_host_ed25519_key.pub"
        for arguments in (
            ("-t", "ed25519", "-N", "", "-f", str(authority)),
            ("-s", str(authority), "-I", "x", "-h", "-n", "127.0.0.1", str(path)),
        ):
            subprocess.run(["ssh-keygen", "-q", *arguments], check=True, stdin=subprocess.DEVNULL)
        certificate = str(path).replace(".pub", "-cert.pub")
        with server.configuration.open("a") as configuration:
            configuration.write(f"HostCertificate {certificate}\n")
        key = type(server.host_key()).parse(authority.with_suffix(".pub").read_text())
        connection = await self.connect(server, HostKeyPolicy(authorities=(key,)))
        self.assertEqual(connection.judgement.source, "certificate")
        self.assertEqual(connection.judgement.key, server.host_key())
        self.assertNotIn(CERTIFICATE_SUFFIX, connection.judgement.key.key_type)
        await self.check(connection)


class HostileRotationTests(ClientTestCase):
    async def announced(self, *keys, reactor=None):
        server = self.serve(ED25519)
        if reactor is None:
            connection = await self.connect(server)
        else:
            target = SshTarget("127.0.0.1", server.port, USER)
            credentials = SshCredentials(Secret(PASSWORD))
            connection = await connect_ssh(reactor, target, HostKeyPolicy(), credentials)
            self.addCleanup(connection.close)
        payload = b"".join(string(public(key).blob) for key in keys)
        message = string(b"hostkeys-00@openssh.com") + b"\0" + payload
        server.connections[0].sendPacket(80, message)
        await connection.run("true")
        return server, connection

    def answer(self, server, answer: bytes) -> None:
        def behave(transport):
            transport.sendPacket(81, answer)
            return False

        server.behaviours[80] = behave

    async def test_a_key_without_proof_is_refused(self):
        for forged in (NEXT.sign(b"something else"), ED25519.sign(b"x")):
            server, connection = await self.announced(ED25519, NEXT)
            self.answer(server, string(forged))
            await self.refused(HostKeyRefused, connection.prove_host_keys())
        for garbage in (b"", string(b""), string(b"x" * 8)):
            server, connection = await self.announced(ED25519, NEXT)
            self.answer(server, garbage)
            await self.refused(HostKeyRefused, connection.prove_host_keys())

    async def test_a_proof_for_another_connection_is_refused(self):
        server, connection = await self.announced(ED25519, NEXT)
        signed = (
            string(b"hostkeys-prove-00@openssh.com")
            + string(os.urandom(32))
            + string(public(NEXT).blob)
        )
        self.answer(server, string(NEXT.sign(signed)))
        text = await self.refused(HostKeyRefused, connection.prove_host_keys())
        self.assertIn(str(public(NEXT).fingerprint()), text)

    async def test_a_host_that_refuses_to_prove_is_told_of(self):
        _, connection = await self.announced(ED25519, NEXT)
        await self.refused(HostKeyRefused, connection.prove_host_keys())

    async def test_a_genuine_proof_is_accepted(self):
        server, connection = await self.announced(ED25519, NEXT)
        signed = (
            string(b"hostkeys-prove-00@openssh.com")
            + string(server.connections[0].sessionID)
            + string(public(NEXT).blob)
        )
        self.answer(server, string(NEXT.sign(signed)))
        update = await connection.prove_host_keys()
        self.assertEqual(update.added, (public(NEXT),))

    async def test_a_host_that_names_no_keys_tells_nothing(self):
        connection = await self.connect(self.serve(ED25519))
        self.assertIsNone(await connection.prove_host_keys())

    async def test_a_revoked_key_is_not_learnt_and_the_own_one_not_lost(self):
        server = self.serve(ED25519)
        policy = HostKeyPolicy(stored=(public(ED25519),), revoked=(public(NEXT),))
        connection = await self.connect(server, policy)
        message = string(b"hostkeys-00@openssh.com") + b"\0" + string(public(NEXT).blob)
        server.connections[0].sendPacket(80, message)
        await connection.run("true")
        update = await connection.prove_host_keys()
        self.assertEqual((update.keys, update.added), ((public(ED25519),), ()))
        self.assertFalse(update)

    async def test_an_announcement_that_is_none_ends_the_connection(self):
        server = self.serve(ED25519)
        connection = await self.connect(server)
        message = string(b"hostkeys-00@openssh.com") + b"\0" + string(b"x")
        server.connections[0].sendPacket(80, message)
        self.assertIsInstance(await connection.closed, SshConnectionLost)

    async def test_a_host_that_never_answers_is_left_at_the_deadline(self):
        clock = ClockedReactor()
        server, connection = await self.announced(ED25519, NEXT, reactor=clock)
        stalled = server.stall_at(80)
        asking = ensureDeferred(connection.prove_host_keys(timeout_s=5))
        await stalled
        clock.advance(5)
        await self.assertFailure(asking, SshError)
