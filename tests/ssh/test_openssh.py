"""Against OpenSSH's own sshd, in several configurations."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, ensureDeferred, gatherResults
from twisted.trial.unittest import TestCase

from pkengine.errors import (
    HostKeyMismatch,
    HostKeyTypeUnavailable,
    HostUnreachable,
    SshAuthenticationFailed,
    SshCommandFailed,
)
from pkengine.keys import Secret, SshPublicKey
from pkengine.ssh import (
    HostKeyPolicy,
    SshConnection,
    SshCredentials,
    SshIdentity,
    SshTarget,
    connect_ssh,
    fetch_host_keys,
    transport,
)
from pkengine.ssh.ciphers import AEAD_CIPHERS
from pkengine.ssh.key_exchange import METHODS
from pkengine.ssh.transport import SshTransport
from tests.ssh.openssh import USER, OpenSshServer, is_available

ALL_TYPES = ("ed25519", "ecdsa", "rsa")
HARDENED = (
    "Ciphers aes256-gcm@openssh.com,aes128-gcm@openssh.com",
    "MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
    "KexAlgorithms curve25519-sha256",
    "HostKeyAlgorithms ssh-ed25519",
    "PubkeyAcceptedAlgorithms ssh-ed25519",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
)


class OpenSshTestCase(TestCase):
    if not is_available():
        skip = "OpenSSH's sshd is not installed (Debian: openssh-server)"

    def setUp(self):
        self.directory = Path(self.mktemp()).absolute()
        self.identity = SshIdentity.load_or_create(self.directory / "engine")

    def serve(
        self, *options: str, host_key_types: tuple[str, ...] = ("ed25519",), name: str = "sshd"
    ) -> OpenSshServer:
        server = OpenSshServer(
            self.directory / name, host_key_types=host_key_types, options=options
        ).start(self.identity.authorized_keys_line)
        self.addCleanup(lambda: ensureDeferred(server.stop()))
        return server

    async def connect(
        self, server: OpenSshServer, policy: HostKeyPolicy | None = None, **credentials
    ) -> SshConnection:
        credentials.setdefault("keys", (self.identity.private_key,))
        connection = await connect_ssh(
            reactor,
            SshTarget("127.0.0.1", server.port, USER),
            policy or HostKeyPolicy(),
            SshCredentials(**credentials),
        )
        self.addCleanup(connection.close)
        return connection

    async def check(self, connection: SshConnection) -> None:
        """Move more than a window in both directions."""
        content = os.urandom(3_000_000)
        result = await connection.send("sha256sum", io.BytesIO(content), len(content))
        self.assertEqual(result.stdout.split()[0].decode(), hashlib.sha256(content).hexdigest())
        result = await connection.run(
            "head -c 3000000 /dev/zero; echo err >&2; exit 3", check=False
        )
        self.assertEqual(
            (len(result.stdout), result.stderr, result.exit_status), (3000000, b"err\n", 3)
        )


class OpenSshTests(OpenSshTestCase):
    async def test_debians_own_configuration(self):
        server = self.serve()
        connection = await self.connect(server)
        self.assertEqual(connection.authenticated_by, "publickey")
        self.assertEqual(connection.judgement.key, server.host_key())
        await self.check(connection)

    async def test_a_hardened_server(self):
        await self.check(await self.connect(self.serve(*HARDENED)))

    async def test_every_cipher_and_mac_that_is_offered(self):
        for cipher in AEAD_CIPHERS:  # whatever MACs the host has: none is needed
            await self.check_only(f"Ciphers {cipher}", "MACs umac-128-etm@openssh.com")
        for cipher, mac in (
            ("aes128-ctr", "hmac-sha2-256-etm@openssh.com"),
            ("aes192-ctr", "hmac-sha2-512-etm@openssh.com"),
            ("aes256-ctr", "hmac-sha2-256"),
            ("aes128-ctr", "hmac-sha2-512"),
        ):
            await self.check_only(f"Ciphers {cipher}", f"MACs {mac}")

    async def test_every_key_exchange_that_is_offered(self):
        known = subprocess.check_output(["ssh", "-Q", "kex"], text=True).split()
        for name in set(METHODS).intersection(known):
            await self.check_only(f"KexAlgorithms {name}")

    async def check_only(self, *options: str) -> None:
        self.directory = Path(self.mktemp()).absolute()
        server = self.serve(*options)
        connection = await self.connect(server)
        await self.check(connection)
        await connection.close()

    async def test_new_keys_are_exchanged_in_the_middle_of_a_transfer(self):
        exchanges = []
        new_keys = SshTransport.ssh_NEWKEYS

        def counted(connection, packet):
            exchanges.append(connection)
            new_keys(connection, packet)

        self.patch(SshTransport, "ssh_NEWKEYS", counted)
        for cipher in ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"):
            exchanges.clear()
            await self.check_only("RekeyLimit 256K", f"Ciphers {cipher}")
            self.assertGreater(len(exchanges), 5)
        self.patch(transport, "REKEY_OCTETS", 256 * 1024)
        for cipher in ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"):
            exchanges.clear()
            await self.check_only(f"Ciphers {cipher}")
            self.assertGreater(len(exchanges), 5)

    async def test_keys_of_all_types_are_fetched_and_each_fingerprint_matches(self):
        server = self.serve(host_key_types=ALL_TYPES)
        keys = await fetch_host_keys(reactor, "127.0.0.1", server.port)
        self.assertEqual(keys, [server.host_key(key_type) for key_type in ALL_TYPES])
        self.assertNotIn(USER.encode(), server.log)
        for key in keys:
            connection = await self.connect(server, HostKeyPolicy(given=key.fingerprint()))
            self.assertEqual(connection.judgement.key, key)

    async def test_a_server_with_an_rsa_key_alone(self):
        server = self.serve(host_key_types=("rsa",))
        connection = await self.connect(server, HostKeyPolicy(given=server.host_key("rsa")))
        await self.check(connection)

    async def test_a_changed_key_and_a_missing_type_are_refused(self):
        server = self.serve()
        before = server.host_key()
        server.make_host_key("ed25519")
        for policy in (
            HostKeyPolicy(stored=(before,)),
            HostKeyPolicy(given=before.fingerprint()),
        ):
            await self.assertFailure(ensureDeferred(self.connect(server, policy)), HostKeyMismatch)
        rsa = SshPublicKey("ssh-rsa", b"\0\0\0\7ssh-rsa\0\0\0\1x")
        await self.assertFailure(
            ensureDeferred(self.connect(server, HostKeyPolicy(stored=(rsa,)))),
            HostKeyTypeUnavailable,
        )
        self.assertNotIn(b"userauth", server.log)

    async def test_a_key_that_is_not_authorized_is_refused_in_one_sentence(self):
        server = self.serve("Banner " + str(self._banner()))
        stranger = SshIdentity.load_or_create(self.directory / "stranger")
        attempt = self.connect(server, keys=(stranger.private_key,), password=Secret("not sent"))
        error = await self.assertFailure(ensureDeferred(attempt), SshAuthenticationFailed)
        for words in (USER, "publickey", "authorized machines of ACME only"):
            self.assertIn(words, str(error))

    def _banner(self) -> Path:
        path = self.directory / "banner"
        path.write_text("authorized machines\nof ACME only\n")
        return path

    async def test_algorithms_that_do_not_meet_are_listed_for_both_sides(self):
        server = self.serve("Ciphers aes128-ctr", "MACs umac-64@openssh.com")
        error = await self.assertFailure(ensureDeferred(self.connect(server)), HostUnreachable)
        self.assertIn("share no MAC: the host offers umac-64@openssh.com", str(error))
        self.assertIn("this side offers hmac-sha2-256-etm@openssh.com", str(error))

    async def test_a_cancelled_command_loses_its_output_and_the_connection_goes_on(self):
        connection = await self.connect(self.serve())
        ended = self.directory / "ended"
        # sshd passes signals on for other users than root only; so it notices by its output.
        script = f"trap 'echo > {ended}' EXIT; while echo; do sleep 0.01; done"
        running = ensureDeferred(connection.run(script))
        await connection.run("true")
        running.cancel()
        await self.assertFailure(running, CancelledError)
        await connection.run(f"until [ -e {ended} ]; do sleep 0.01; done")

    async def test_ten_commands_at_once_and_the_eleventh_is_told_of_the_limit(self):
        connection = await self.connect(self.serve("MaxSessions 10"))
        held = [ensureDeferred(connection.run("cat; echo done")) for _ in range(10)]
        results = await gatherResults(held)
        self.assertEqual({result.stdout for result in results}, {b"done\n"})
        blocked = [
            ensureDeferred(connection.run("while sleep 0.01 && echo; do :; done"))
            for _ in range(10)
        ]
        error = await self.assertFailure(ensureDeferred(connection.run("true")), Exception)
        self.assertIn("MaxSessions", str(error))
        for running in blocked:
            running.cancel()
            running.addErrback(lambda _: None)

    async def test_exit_signal_and_failure_are_told(self):
        connection = await self.connect(self.serve())
        result = await connection.run("kill -KILL $$", check=False)
        self.assertEqual((result.exit_status, result.exit_signal), (None, "KILL"))
        await self.assertFailure(
            ensureDeferred(connection.run("no-such-command")), SshCommandFailed
        )
