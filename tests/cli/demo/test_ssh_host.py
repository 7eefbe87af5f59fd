from __future__ import annotations

import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pkengine.cli.demo.ssh_host import USER, ThrowAwayHost
from pkengine.errors import HostKeyMismatch, SshAuthenticationFailed
from pkengine.keys import Secret, SshPublicKey
from pkengine.ssh import HostKeyPolicy, SshCredentials, SshTarget, connect_ssh


class ThrowAwayHostTests(TestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.folder = folder.resolve()
        self.host = ThrowAwayHost(reactor, self.folder)
        self.host.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.host.stop()))

    async def run_command(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        password: Secret | None = None,
        key: ed25519.Ed25519PrivateKey | None = None,
        expected: SshPublicKey | None = None,
    ) -> str:
        if password is None and key is None:
            password = self.host.password
        connection = await connect_ssh(
            reactor,
            SshTarget("127.0.0.1", self.host.port, USER),
            HostKeyPolicy((expected or self.host.public_key).fingerprint()),
            SshCredentials(password=password, keys=() if key is None else (key,)),
        )
        result = await connection.run(command, stdin=stdin)
        await connection.close()
        return result.stdout.decode()

    async def test_commands_are_real_and_at_home_in_the_folder(self) -> None:
        output = await self.run_command("pwd; echo ~; id -u")
        home = str(self.folder / "home")
        self.assertEqual(output.split(), [home, home, str(os.getuid())])

    async def test_a_command_gets_its_standard_input_to_the_end(self) -> None:
        size = 3_000_000
        self.assertEqual((await self.run_command("wc -c", stdin=b"x" * size)).strip(), str(size))

    async def test_python3_is_this_interpreter_outside_its_virtual_environment(self) -> None:
        output = await self.run_command(
            "python3 -c 'import sys; print(*sys.version_info[:2], sys.prefix == sys.base_prefix)'"
        )
        self.assertEqual(
            output.split(), [str(sys.version_info[0]), str(sys.version_info[1]), "True"]
        )

    async def test_nobody_becomes_root_here(self) -> None:
        output = await self.run_command("sudo -n id 2>&1 || echo refused")
        self.assertIn("refused", output)

    async def test_a_wrong_password_is_refused_and_noted(self) -> None:
        with self.assertRaises(SshAuthenticationFailed):
            await self.run_command("true", password=Secret("wrong"))
        self.assertIn("password", self.host.visits[-1].methods)
        self.assertEqual(self.host.visits[-1].commands, 0)

    async def test_a_client_that_leaves_at_the_host_key_is_noted_without_a_method(self) -> None:
        other = Key(ed25519.Ed25519PrivateKey.generate()).public()
        with self.assertRaises(HostKeyMismatch):
            await self.run_command("true", expected=SshPublicKey.from_blob(other.blob()))
        self.assertEqual(self.host.visits[-1].methods, [])

    async def test_a_key_in_authorized_keys_logs_in(self) -> None:
        key = ed25519.Ed25519PrivateKey.generate()
        with self.assertRaises(SshAuthenticationFailed):
            await self.run_command("true", key=key)
        folder = self.host.home / ".ssh"
        folder.mkdir()
        line = Key(key).public().toString("OPENSSH")
        (folder / "authorized_keys").write_bytes(line + b"\n")
        self.assertEqual(await self.run_command("echo in", key=key), "in\n")
