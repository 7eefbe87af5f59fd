"""On hosts of their own: passwords by PAM, sudo, addresses that are swapped."""

from __future__ import annotations

import io

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import TestCase

from pkengine.errors import (
    HostKeyMismatch,
    HostUnreachable,
    SshAuthenticationFailed,
    SshCommandFailed,
    SudoNotAllowed,
    SudoRefused,
)
from pkengine.keys import Secret
from pkengine.ssh import HostKeyPolicy, SshConnection, SshCredentials, SshTarget, connect_ssh
from tests.hosts import open_farm


class HostTests(TestCase):
    async def connect(self, host, user: str = "root", **credentials) -> SshConnection:
        credentials.setdefault("password", host.password.get(user))
        connection = await connect_ssh(
            reactor,
            SshTarget(host.address, user=user),
            HostKeyPolicy(given=await host.fingerprint()),
            SshCredentials(**credentials),
        )
        self.addCleanup(connection.close)
        return connection

    async def test_root_logs_in_by_password(self):
        farm = await open_farm(self, reactor)
        connection = await self.connect(await farm.host("one"))
        self.assertEqual(connection.authenticated_by, "password")
        self.assertEqual(connection.judgement.source, "given_fingerprint")
        self.assertEqual((await connection.run("id -u", as_root=True)).stdout, b"0\n")

    async def test_a_wrong_password_costs_one_attempt(self):
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        attempt = self.connect(host, password=Secret("wrong"))
        error = await self.assertFailure(ensureDeferred(attempt), SshAuthenticationFailed)
        self.assertIn("Tried, once each: password.", str(error))
        log = await host.run("cat /var/log/btmp | wc -c")
        self.assertEqual(log, "384\n")  # one record

    async def test_a_host_that_asks_by_pam_alone_gets_the_password_as_an_answer(self):
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        await host.restart_sshd("PasswordAuthentication no", "KbdInteractiveAuthentication yes")
        connection = await self.connect(host)
        self.assertEqual(connection.authenticated_by, "keyboard-interactive")
        await connection.run("true")
        attempt = self.connect(host, password=Secret("wrong"))
        error = await self.assertFailure(ensureDeferred(attempt), SshAuthenticationFailed)
        self.assertIn("Tried, once each: keyboard-interactive.", str(error))

    async def test_where_root_may_not_log_in_a_user_with_sudo_does(self):
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        await host.restart_sshd("PermitRootLogin no")
        error = await self.assertFailure(
            ensureDeferred(self.connect(host)), SshAuthenticationFailed
        )
        self.assertIn("PermitRootLogin", str(error))
        connection = await self.connect(host, "admin")
        self.assertEqual((await connection.run("id -u", as_root=True)).stdout, b"0\n")

    async def test_a_user_with_sudo_becomes_root_and_input_and_files_reach_the_command(self):
        farm = await open_farm(self, reactor)
        connection = await self.connect(await farm.host("one"), "admin")
        result = await connection.run("id -u; cat", stdin=b"input\n", as_root=True)
        self.assertEqual((result.stdout, result.stderr), (b"0\ninput\n", b""))
        result = await connection.send(
            "wc -c", io.BytesIO(bytes(3_000_000)), 3_000_000, as_root=True
        )
        self.assertEqual(result.stdout, b"3000000\n")
        await self.assertFailure(
            ensureDeferred(connection.run("exit 5", as_root=True)), SshCommandFailed
        )

    async def test_sudo_without_password_requiretty_and_one_command_alone(self):
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        for line, error, words in (
            ("nosudo ALL=(ALL) NOPASSWD: ALL", None, ""),
            ("nosudo ALL=(ALL) ALL\nDefaults:nosudo requiretty", SudoRefused, "requiretty"),
            ("nosudo ALL=(ALL) /bin/ls", SudoNotAllowed, "does not allow nosudo"),
        ):
            await host.run("cat > /etc/sudoers.d/test", stdin=line.encode() + b"\n")
            connection = await self.connect(host, "nosudo")
            running = ensureDeferred(connection.run("id -u; cat", stdin=b"in\n", as_root=True))
            if error is None:
                self.assertEqual((await running).stdout, b"0\nin\n")
            else:
                self.assertIn(words, str(await self.assertFailure(running, error)))

    async def test_who_may_not_use_sudo_or_gives_it_a_wrong_password_is_told_so(self):
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        for user, password, error, words in (
            ("nosudo", None, SudoNotAllowed, "not in the host's sudoers file"),
            ("admin", Secret("wrong"), SudoRefused, "does not accept the password"),
        ):
            connection = await self.connect(host, user, sudo_password=password)
            running = ensureDeferred(connection.run("true", as_root=True))
            self.assertIn(words, str(await self.assertFailure(running, error)))

    async def test_hosts_that_swap_addresses_are_told_apart(self):
        farm = await open_farm(self, reactor)
        one, two = await farm.host("one"), await farm.host("two")
        address, before = one.address, await one.host_key()
        await farm.swap(one, two)
        attempt = connect_ssh(
            reactor,
            SshTarget(address),
            HostKeyPolicy(stored=(before,)),
            SshCredentials(one.password["root"]),
        )
        error = await self.assertFailure(ensureDeferred(attempt), HostKeyMismatch)
        self.assertIn(str((await two.host_key()).fingerprint()), str(error))
        self.assertIn(str(before.fingerprint()), str(error))

    async def test_a_host_that_is_cut_off_is_unreachable_at_the_deadline(self):
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        await host.cut()
        attempt = connect_ssh(
            reactor, SshTarget(host.address), HostKeyPolicy(), SshCredentials(), timeout_s=1
        )
        await self.assertFailure(ensureDeferred(attempt), HostUnreachable)
