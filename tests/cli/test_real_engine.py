"""The commands against a real engine, and hosts with real agents."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import psutil
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from pkengine.cli.demo.engine_process import EngineProcess
from pkengine.cli.demo.proxy import free_port
from pkengine.cli.demo.ssh_host import USER, ThrowAwayHost
from pkengine.keys import SshPublicKey
from tests.cli.running import Ended, environment, pkengine
from tests.ssh.ssh_agent import SshAgent, is_available

OTHER = "SHA256:irHeg88RepKvs+ZpOgfV1WRlhQDwlLdkI+71yGHIzKE"


class RealEngineTests(TestCase):
    timeout = 300

    async def setUp(self) -> None:
        # The path of a UNIX socket is short, so this is not below trial's folder.
        self.scratch = tempfile.TemporaryDirectory(prefix="pkengine-cli-")
        self.addCleanup(self.scratch.cleanup)
        self.folder = Path(self.scratch.name)
        (self.folder / "host").mkdir()
        self.host = ThrowAwayHost(reactor, self.folder / "host")
        self.host.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.host.stop()))
        self.addCleanup(lambda: deferToThread(self.stop_agent))
        self.engine = EngineProcess(reactor, self.folder, environment())
        self.addCleanup(lambda: Deferred.fromCoroutine(self.engine.stop()))
        await self.engine.start()
        self.password_file = self.folder / "password"
        self.password_file.write_bytes(self.host.password.reveal())
        self.fingerprint = str(self.host.public_key.fingerprint())

    def stop_agent(self) -> None:
        pid_file = self.host.home / ".local/share/pkagent/state/pkagent.pid"
        if pid_file.exists():
            agent = psutil.Process(int(pid_file.read_text()))
            agent.send_signal(signal.SIGTERM)
            psutil.wait_procs([agent], timeout=30)

    async def run_command(self, *arguments: str, **how: Any) -> Ended:
        return await pkengine("--state", str(self.engine.state), *arguments, **how)

    async def add(self, name: str, address: str, *arguments: str, **how: Any) -> Ended:
        return await self.run_command(
            *("host", "add", name, address, "--ssh-user", USER, "--ssh-port", str(self.host.port)),
            *("--port", str(free_port()), *arguments),
            **how,
        )

    async def names(self) -> list[str]:
        return [host["name"] for host in (await self.run_command("host", "list", "--json")).json()]

    async def test_a_host_from_its_fingerprint_to_its_removal(self) -> None:
        shown = await self.run_command(
            "host", "fingerprint", "127.0.0.1", "--port", str(self.host.port)
        )
        self.assertEqual(shown.out, f"{self.fingerprint} 127.0.0.1 (ED25519)\n", shown.err)
        added = await self.add(
            *("h1", "127.0.0.1", "--fingerprint", self.fingerprint),
            *("--password-file", str(self.password_file)),
        )
        self.assertEqual((added.status, added.out), (0, "Host h1 is up.\n"), added.err)
        self.assertIn("✓", added.err)
        host = (await self.run_command("host", "show", "h1", "--json")).json()
        self.assertEqual(host["ssh"]["key_source"], "given_fingerprint")

        refused = await self.run_command("host", "remove", "h1")
        self.assertEqual(refused.status, 6)
        for command, outcome in (
            (("deactivate", "h1", "--reason", "a test"), "Host h1 is in maintenance.\n"),
            (("activate", host["id"]), "Host h1 is up.\n"),
            (("deactivate", "h1"), "Host h1 is in maintenance.\n"),
            (("install", "h1", "--no-activate"), "Host h1 is in maintenance.\n"),
            (("remove", "h1"), "Host h1 is removed.\n"),
        ):
            ended = await self.run_command("host", *command)
            self.assertEqual((ended.status, ended.out), (0, outcome), ended.err)
        self.assertEqual(await self.names(), [])
        events = await self.run_command("events", "--max", "50")
        for text in ("Host h1 was added", "a test", "Host h1 was removed"):
            self.assertIn(text, events.out)
        self.assertNotIn(self.host.password.reveal_text(), events.out)

    async def test_the_engines_own_key_lets_it_in_without_a_password(self) -> None:
        line = (await self.run_command("ssh-key")).out
        SshPublicKey.parse(line)
        folder = self.host.home / ".ssh"
        folder.mkdir(mode=0o700)
        (folder / "authorized_keys").write_text(line)
        added = await self.add("h2", "127.0.0.1", "--trust-on-first-use", "--use-engine-key")
        self.assertEqual(added.status, 0, added.err)
        host = (await self.run_command("host", "show", "h2", "--json")).json()
        self.assertEqual(host["ssh"]["key_source"], "first_use")
        self.assertEqual(host["ssh"]["public_key"], str(self.host.public_key))

    async def test_the_engines_key_is_rotated_and_the_hosts_that_are_left_are_shown(self) -> None:
        await self.add(
            *("h1", "127.0.0.1", "--fingerprint", self.fingerprint),
            *("--password-file", str(self.password_file)),
        )
        authorized = self.host.home / ".ssh/authorized_keys"
        before = authorized.read_text()
        rotated = await self.run_command("ssh-key", "rotate")
        self.assertEqual(0, rotated.status, rotated.err)
        self.assertIn("✓ Host h1", rotated.err)
        (after,) = authorized.read_text().splitlines()
        self.assertNotEqual(before, after)
        self.assertIn((await self.run_command("ssh-key")).out.split()[1], after)

        authorized.write_text("")
        rotated = await self.run_command("ssh-key", "rotate", "--type", "rsa")
        self.assertEqual(1, rotated.status)
        self.assertIn("was not brought to 1 of 1 hosts", rotated.err)
        status = await self.run_command("ssh-key", "status")
        self.assertEqual(0, status.status)
        self.assertIn("both are valid", status.out)
        self.assertRegex(status.out, r"h1 +failed .*does not accept the keys")
        ended = await self.run_command("ssh-key", "rotate", "--discard-old")
        self.assertEqual(0, ended.status, ended.err)
        self.assertRegex(ended.out, r"\AThe SSH key of the engine is ssh-rsa SHA256:\S+\.\n\Z")

    async def test_a_key_that_is_in_the_users_ssh_agent_alone_lets_the_engine_in(self) -> None:
        if not is_available():
            raise SkipTest("ssh-agent is not installed (Debian: openssh-client)")
        agent = SshAgent()
        self.addCleanup(lambda: Deferred.fromCoroutine(agent.stop()))
        await agent.start()
        key = agent.add_key("-t", "ed25519")
        (self.host.home / ".ssh").mkdir(mode=0o700)
        (self.host.home / ".ssh/authorized_keys").write_text(f"{key}\n")
        options = ("--ssh-agent", "--fingerprint", self.fingerprint)

        without = await self.add(
            "h4", "127.0.0.1", *options, environ=environment(SSH_AUTH_SOCK="")
        )
        self.assertEqual(without.status, 2, without.err)
        self.assertIn("There is no ssh-agent", without.err)

        added = await self.add(
            "h4", "127.0.0.1", *options, environ=environment(SSH_AUTH_SOCK=agent.socket)
        )
        self.assertEqual((added.status, added.out), (0, "Host h4 is up.\n"), added.err)
        self.assertIn(
            f"Signing the login as {USER} at the host with the key {self.fingerprint}, by "
            f"{key.fingerprint()}.\n",
            added.err,
        )
        self.assertEqual(added.err.count("Signing"), 1)
        # From now on the engine's own key does.
        await self.run_command("host", "deactivate", "h4")
        again = await self.run_command("host", "install", "h4")
        self.assertEqual(again.status, 0, again.err)

    async def test_what_the_engine_refuses_leaves_no_host(self) -> None:
        wrong_password = self.folder / "wrong"
        wrong_password.write_text("not the password")
        for arguments, sentence in (
            (("--fingerprint", OTHER, "--password-file", str(self.password_file)), OTHER),
            (
                ("--fingerprint", self.fingerprint, "--password-file", str(wrong_password)),
                "password",
            ),
        ):
            ended = await self.add("h3", "127.0.0.1", *arguments)
            self.assertEqual((ended.status, ended.out), (6, ""), ended.err)
            self.assertTrue(ended.err.startswith("pkengine: "), ended.err)
            self.assertEqual(len(ended.err.splitlines()), 1)
            self.assertIn(sentence, ended.err)
            self.assertNotIn("not the password", ended.err)
        self.assertEqual(await self.names(), [])
        wrong_fingerprint, _ = self.host.visits
        self.assertEqual(wrong_fingerprint.methods, [])
        self.assertFalse(os.path.exists(self.host.home / ".local/share/pkagent/current"))
