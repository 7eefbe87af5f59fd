"""The steps of a deployment, performed by real commands in a home of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.trial import unittest

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.trust import MemoryTrustStore, format_trust_line
from pkengine.channel import connect_channel
from pkengine.channel.verbs import GET_VERSION, AgentVersion
from pkengine.engine.deployment.bundle import AgentBundle
from pkengine.engine.deployment.deployment import (
    DeployedAgent,
    DeploymentPlan,
    Exchange,
    StepReport,
    deploy,
    undeploy,
)
from pkengine.engine.deployment.layout import OWN_FOLDER, Layout
from pkengine.engine.model import StepStatus
from pkengine.errors import (
    AuthenticationError,
    DeploymentError,
    SshAuthenticationFailed,
    SudoRefused,
)
from pkengine.keys import KeyPair, Pin
from pkengine.on_host.processes import Agent, agents
from pkengine.platform import Platform
from tests.engine.deployment.agent import PIN, pack, proving, small_bundle
from tests.engine.deployment.ssh_host import (
    LocalConnection,
    end_agents,
    free_port,
    make_home,
    shared_bundle,
)

ENGINE = TrustedPeer("engine-1", Pin(b"e" * 32))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmvk pkengine@engine-1"
STEPS = ["probe", "upload", "check", "install", "init", "authorize", "start", "verify"]


class DeploymentTestCase(unittest.TestCase):
    def setUp(self) -> None:
        # Short, because a socket is in it.
        self.folder = Path(tempfile.mkdtemp(prefix="pkengine-test-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.home = make_home(self.folder)
        self.prefix = self.home / OWN_FOLDER
        self.state = self.prefix / "state"
        self.port = free_port()
        self.reports: list[StepReport] = []
        self.verified: list[Pin] = []
        self.addCleanup(end_agents, self.prefix)

    def plan(self, bundle: AgentBundle | None = None, **changes: Any) -> DeploymentPlan:
        plan = DeploymentPlan(
            bundle=bundle or self.bundle(),
            authorized_key=KEY,
            agent_port=self.port,
        )
        return replace(plan, **changes)

    def bundle(self, version: str = "1", **settings: Any) -> AgentBundle:
        return small_bundle(self.folder / "bundles", version, **settings)

    async def deploy(
        self, plan: DeploymentPlan | None = None, connection: LocalConnection | None = None
    ) -> DeployedAgent:
        self.reports.clear()

        async def verify(pin: Pin) -> None:
            self.verified.append(pin)

        return await deploy(
            connection or LocalConnection(self.home),  # type: ignore[arg-type]
            plan or self.plan(),
            Exchange((ENGINE,)),
            report=self.reports.append,
            expect=proving(verify),
        )

    async def refusal(
        self, plan: DeploymentPlan | None = None, connection: LocalConnection | None = None
    ) -> DeploymentError:
        """Deploy, and give the error; nothing may have been trusted."""
        before = len(self.verified)
        with self.assertRaises(DeploymentError) as caught:
            await self.deploy(plan, connection)
        self.assertEqual(before, len(self.verified))
        last = self.reports[-1]
        self.assertEqual((caught.exception.step, StepStatus.FAILED), (last.name, last.status))
        self.assertIn(last.detail, str(caught.exception))
        return caught.exception

    def running(self) -> list[Agent]:
        return agents(str(self.prefix), str(self.state))

    def versions(self) -> set[str]:
        return {path.name for path in (self.prefix / "versions").iterdir()}

    def finished(self) -> list[str]:
        return [r.name for r in self.reports if r.status is StepStatus.FINISHED]


class FreshHostTests(DeploymentTestCase):
    async def test_the_real_agent_answers_by_the_pin_that_came_home(self) -> None:
        engine = KeyPair.generate("engine")
        answered: list[AgentVersion] = []

        async def verify(pin: Pin) -> None:
            trust = MemoryTrustStore([TrustedPeer("host", pin)])
            channel = await connect_channel(
                reactor,
                TCP4ClientEndpoint(reactor, "127.0.0.1", self.port),
                PinAuthenticator(engine, trust),
                expected="host",
            )
            answered.append(await channel.call(GET_VERSION, result_type=AgentVersion))
            channel.close()
            await channel.closed

        deployed = await deploy(
            LocalConnection(self.home),  # type: ignore[arg-type]
            self.plan(shared_bundle()),
            Exchange((TrustedPeer("engine", engine.pin),)),
            report=self.reports.append,
            expect=proving(verify),
        )
        (version,) = answered
        self.assertEqual(deployed.bundle, version.bundle)
        self.assertEqual(deployed.version, version.version)
        self.assertEqual([agent.pid for agent in self.running()], [version.pid])
        self.assertEqual("twistd", deployed.service)
        self.assertEqual(0o600, (self.state / "agent.key").stat().st_mode & 0o777)
        self.assertEqual(0o700, self.state.stat().st_mode & 0o777)

    async def test_every_step_is_reported_from_its_start_to_its_end(self) -> None:
        await self.deploy()
        self.assertEqual(STEPS, self.finished())
        names = [report.name for report in self.reports]
        self.assertEqual(STEPS, sorted(set(names), key=names.index))
        progress = [
            r.progress for r in self.reports if r.name == "upload" and r.progress is not None
        ]
        self.assertEqual(100, progress[-1])
        self.assertEqual(sorted(progress), progress)

    async def test_it_leaves_the_version_the_keys_and_a_running_agent(self) -> None:
        plan = self.plan()
        deployed = await self.deploy(plan)
        self.assertEqual(PIN, deployed.pin)
        self.assertEqual([PIN], self.verified)
        self.assertEqual({plan.bundle.hash}, self.versions())
        self.assertEqual(f"versions/{plan.bundle.hash}", os.readlink(self.prefix / "current"))
        self.assertEqual(
            format_trust_line(ENGINE) + "\n", (self.state / "authorized_engines").read_text()
        )
        (agent,) = self.running()
        self.assertEqual((plan.bundle.hash, str(self.port)), (agent.bundle, agent.listen))

    async def test_a_fresh_host_takes_three_commands(self) -> None:
        connection = LocalConnection(self.home)
        await self.deploy(connection=connection)
        self.assertEqual(3, len(connection.commands))

    async def test_the_python_of_the_users_environment_does_not_get_in(self) -> None:
        (self.home / "json.py").write_text("raise SystemExit('mine')")
        connection = LocalConnection(self.home)
        connection.environment |= {"PYTHONPATH": str(self.home), "PYTHONSTARTUP": "/nowhere"}
        self.assertEqual(PIN, (await self.deploy(connection=connection)).pin)


class AgainTests(DeploymentTestCase):
    async def test_the_second_time_changes_nothing(self) -> None:
        plan = self.plan()
        first = await self.deploy(plan)
        (agent,) = self.running()
        before = {
            path: path.lstat().st_mtime_ns
            for path in self.home.rglob("*")
            if path.name != "authorized_engines" and not path.is_dir()
        }
        second = await self.deploy(plan)
        self.assertEqual(first, second)
        self.assertEqual([name for name in STEPS if name != "upload"], self.finished())
        self.assertEqual([agent.pid], [agent.pid for agent in self.running()])
        for path, mtime in before.items():
            self.assertEqual(mtime, path.lstat().st_mtime_ns, path)

    async def test_a_new_version_takes_over_and_the_one_before_it_is_kept(self) -> None:
        one, two, three = (self.plan(self.bundle(version)) for version in "123")
        await self.deploy(one)
        await self.deploy(two)
        self.assertEqual({one.bundle.hash, two.bundle.hash}, self.versions())
        await self.deploy(three)
        self.assertEqual({two.bundle.hash, three.bundle.hash}, self.versions())
        self.assertEqual(f"versions/{two.bundle.hash}", os.readlink(self.prefix / "previous"))
        self.assertEqual([three.bundle.hash], [agent.bundle for agent in self.running()])

    async def test_another_port_starts_the_agent_anew(self) -> None:
        plan = self.plan()
        await self.deploy(plan)
        (before,) = self.running()
        await self.deploy(replace(plan, agent_port=free_port()))
        (after,) = self.running()
        self.assertNotEqual((before.pid, before.listen), (after.pid, after.listen))

    async def test_an_agent_that_ended_is_started_in_spite_of_its_pid_file(self) -> None:
        plan = self.plan()
        await self.deploy(plan)
        end_agents(self.prefix)
        (self.state / "pkagent.pid").write_text(f"{os.getpid()}")  # reused by another program
        await self.deploy(plan)
        self.assertEqual(1, len(self.running()))

    async def test_a_damaged_version_is_removed_and_the_next_time_sent_anew(self) -> None:
        plan = self.plan()
        await self.deploy(plan)
        (self.prefix / "current/lib/__main__.py").unlink()
        error = await self.refusal(plan)
        self.assertEqual("check", error.step)
        self.assertIn("was removed again", str(error))
        await self.deploy(plan)
        self.assertEqual(STEPS, self.finished())


class InterruptedTests(DeploymentTestCase):
    async def assert_completed(self, plan: DeploymentPlan) -> None:
        """Run it again; the end is that of a deployment that nothing interrupted."""
        await self.deploy(plan)
        self.assertEqual([PIN], self.verified)
        self.assertEqual({plan.bundle.hash}, self.versions())
        self.assertEqual(1, len(self.running()))
        self.assertEqual([KEY], (self.home / ".ssh/authorized_keys").read_text().splitlines())
        self.assertEqual([], list(self.prefix.glob("**/.*.partial-*")))

    async def test_a_connection_that_ends_before_any_command_is_no_loss(self) -> None:
        plan = self.plan()
        for number, step in enumerate(("probe", "upload", "start")):
            connection = LocalConnection(self.home)
            connection.break_before = number
            error = await self.refusal(plan, connection)
            self.assertEqual(step, error.step)
            self.assertIn("Install the host again", str(error))
        await self.assert_completed(plan)

    async def test_an_upload_that_is_cut_off_anywhere_leaves_no_part(self) -> None:
        padding = {"lib/padding": os.urandom(300_000)}
        plan = self.plan(self._padded(padding))
        for cut in (0, 100, 30_000, 50_000, 200_000, plan.bundle.size):
            connection = LocalConnection(self.home)
            connection.break_after = cut
            error = await self.refusal(plan, connection)
            self.assertEqual("upload", error.step)
            self.assertEqual(
                set(), self.versions() if self.prefix.joinpath("versions").exists() else set()
            )
        await self.assert_completed(plan)

    def _padded(self, more: dict[str, bytes]) -> AgentBundle:
        with tarfile.open(self.bundle().path) as archive:
            content = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
        return pack(self.folder / "bundles", content | more, Platform.of_this_process(), "1")

    def _remove_versions(self) -> None:
        subprocess.run(
            ["rm", "-rf", self.prefix / "versions", self.prefix / "current"], check=True
        )

    async def test_what_a_power_cut_left_of_an_upload_is_removed(self) -> None:
        plan = self.plan()
        partial = self.prefix / f"versions/.{plan.bundle.hash}.partial-abc"
        partial.mkdir(parents=True)
        (partial / "file").write_text("half")
        await self.deploy(plan)
        self.assertEqual({plan.bundle.hash}, self.versions())

    async def test_an_archive_that_arrives_damaged_is_not_installed(self) -> None:
        bundle = self.bundle()
        for damaged in (replace(bundle, sha256="0" * 64), replace(bundle, size=bundle.size)):
            octets = bytearray(bundle.path.read_bytes())
            if damaged.sha256 == bundle.sha256:
                octets[len(octets) // 2] ^= 1
                bundle.path.write_bytes(octets)
            error = await self.refusal(self.plan(damaged))
            self.assertIn("arrived damaged", str(error))
            self.assertEqual(set(), self.versions())

    async def test_an_archive_that_reaches_out_of_its_folder_is_not_unpacked(self) -> None:
        bundle = pack(
            self.folder / "bundles", {"../../evil": b"x"}, Platform.of_this_process(), "1"
        )
        self.assertIn("no plain file", str(await self.refusal(self.plan(bundle))))
        self.assertFalse((self.prefix / "evil").exists())
        self.assertEqual(set(), self.versions())

    async def test_a_verification_that_fails_is_the_last_step(self) -> None:
        async def verify(pin: Pin) -> None:
            raise AuthenticationError("it is another agent.")

        with self.assertRaisesRegex(DeploymentError, "it is another agent"):
            await deploy(
                LocalConnection(self.home),  # type: ignore[arg-type]
                self.plan(),
                Exchange((ENGINE,)),
                report=self.reports.append,
                expect=proving(verify),
            )
        self.assertEqual(
            ("verify", StepStatus.FAILED), (self.reports[-1].name, self.reports[-1].status)
        )

    async def test_giving_up_is_reported_and_passed_on(self) -> None:
        waiting: Deferred[None] = Deferred()

        async def verify(pin: Pin) -> None:
            await waiting

        deployment = Deferred.fromCoroutine(
            deploy(
                LocalConnection(self.home),  # type: ignore[arg-type]
                self.plan(),
                Exchange((ENGINE,)),
                report=self.reports.append,
                expect=proving(verify),
            )
        )
        deployment.cancel()
        self.failureResultOf(deployment, CancelledError)
        self.assertEqual(StepStatus.ABORTED, self.reports[-1].status)


class RefusedTests(DeploymentTestCase):
    async def test_a_platform_that_does_not_fit_is_refused_before_anything_is_sent(self) -> None:
        other = self.bundle(platform=Platform("cpython-310-sparc64-linux-gnu", "2.17"))
        error = await self.refusal(self.plan(other))
        self.assertEqual("probe", error.step)
        self.assertIn("needs CPython 3.10 on sparc64 with glibc 2.17, but there is", str(error))
        self.assertFalse((self.prefix / "versions").exists())

    async def test_a_host_that_has_no_room_is_refused_before_anything_is_sent(self) -> None:
        error = await self.refusal(self.plan(replace(self.bundle(), installed_size=1 << 60)))
        self.assertEqual("probe", error.step)
        self.assertIn(f"no room for the agent at {self.prefix}", str(error))
        self.assertRegex(str(error), r"\d+ MiB are free")

    async def test_a_disk_that_gets_full_is_a_sentence_and_leaves_no_part(self) -> None:
        room = Path("/dev/shm") / f"pkengine-test-{os.getpid()}"
        if os.geteuid() != 0:
            raise unittest.SkipTest("mounting a small file system needs root")
        room.mkdir()
        self.addCleanup(room.rmdir)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "pkengine", room], check=True)
        self.addCleanup(subprocess.run, ["umount", room], check=True)
        home = make_home(room)
        content = {"bin/pkagent": os.urandom(1 << 20)}
        big = pack(self.folder / "bundles", content, Platform.of_this_process(), "1")
        self.patch(  # the room is judged beforehand: here something else takes it meanwhile
            __import__("pkengine.engine.deployment.deployment", fromlist=["_ROOM_FOR_BLOCKS"]),
            "_ROOM_FOR_BLOCKS",
            -(1 << 20),
        )
        error = await self.refusal(self.plan(big), LocalConnection(home))
        self.assertEqual("upload", error.step)
        self.assertIn("there is no room left on the host", str(error))
        self.assertEqual([], list((home / OWN_FOLDER / "versions").iterdir()))

    async def test_a_version_that_does_not_load_is_removed_and_the_old_one_runs_on(self) -> None:
        good = self.plan(self.bundle("1"))
        await self.deploy(good)
        (agent,) = self.running()
        bad = self.plan(self.bundle("2", check="raise ImportError('libffi.so.8 is missing')"))
        error = await self.refusal(bad)
        self.assertEqual("check", error.step)
        self.assertIn("libffi.so.8 is missing", str(error))
        self.assertEqual({good.bundle.hash}, self.versions())
        self.assertEqual([agent.pid], [agent.pid for agent in self.running()])
        self.assertEqual(f"versions/{good.bundle.hash}", os.readlink(self.prefix / "current"))

    async def test_a_version_that_does_not_start_gives_way_to_the_one_before(self) -> None:
        good = self.plan(self.bundle("1"))
        await self.deploy(good)
        bad = self.plan(self.bundle("2", start="sys.exit('pkagent: I cannot.')"))
        error = await self.refusal(bad)
        self.assertEqual("start", error.step)
        self.assertIn("I cannot. The version that ran before runs again.", str(error))
        self.assertEqual([good.bundle.hash], [agent.bundle for agent in self.running()])
        self.assertEqual(f"versions/{good.bundle.hash}", os.readlink(self.prefix / "current"))

    async def test_an_agent_that_does_not_start_on_a_port_stays_on_the_one_before(
        self,
    ) -> None:
        other = free_port()
        start = f"if option('--listen') == '{other}': sys.exit('pkagent: Not there.')"
        plan = self.plan(self.bundle(start=start))
        await self.deploy(plan)
        error = await self.refusal(replace(plan, agent_port=other))
        self.assertEqual("start", error.step)
        self.assertIn("Not there. The agent runs again as before.", str(error))
        (agent,) = self.running()
        self.assertEqual((plan.bundle.hash, str(self.port)), (agent.bundle, agent.listen))

    async def test_a_way_back_that_fails_too_is_told_with_both_reasons(self) -> None:
        once = self.home / "once"
        start = f"os.path.exists({str(once)!r}) and sys.exit('pkagent: Never again.')"
        start += f"; open({str(once)!r}, 'w').close()"
        await self.deploy(self.plan(self.bundle("1", start=start)))
        bad = self.plan(self.bundle("2", start="sys.exit('pkagent: I cannot.')"))
        text = str(await self.refusal(bad))
        self.assertIn("I cannot. What ran before does not start any more either", text)
        self.assertIn("Never again.", text)

    async def test_an_agent_that_ends_right_after_its_start_is_noticed(self) -> None:
        dies = "open(option('--logfile'), 'a').write('pkagent: Out of luck.\\n'); sys.exit(0)"
        error = await self.refusal(self.plan(self.bundle(start=dies)))
        self.assertIn("the agent ended again: Out of luck.", str(error))
        self.assertEqual([], self.running())

    async def test_a_port_that_is_taken_is_named_with_who_has_it(self) -> None:
        with socket.create_server(("127.0.0.1", self.port)):
            error = await self.refusal()
        self.assertEqual("start", error.step)
        self.assertIn(f"port {self.port} is taken by", str(error))
        self.assertIn(f"(process {os.getpid()})", str(error))
        self.assertEqual([], self.running())

    async def test_a_folder_that_cannot_be_made_is_named(self) -> None:
        (self.prefix / "versions").write_text("a file")
        error = await self.refusal()
        self.assertEqual("upload", error.step)
        self.assertIn(f"{self.prefix}/versions: File exists.", str(error))

    async def test_a_shell_that_says_something_else_is_refused(self) -> None:
        connection = LocalConnection(self.home, path="/nowhere")
        connection._run = lambda *_: (  # type: ignore[method-assign,assignment]
            LocalConnection(self.home)._run("echo This account is not available.", b"", False, 9)
        )
        error = await self.refusal(connection=connection)
        self.assertIn("does not say what the host has", str(error))

    async def test_a_path_that_is_too_long_for_a_socket_is_refused(self) -> None:
        home = make_home(self.folder / ("x" * 80))
        error = await self.refusal(connection=LocalConnection(home))
        self.assertIn("too long for the agent's control socket", str(error))


class PlaceTests(DeploymentTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.plain_home = make_home(self.folder / "plain", has_own_folder=False)
        (self.folder / "bin").mkdir()
        self.system = Layout(
            prefix=str(self.folder / "opt"),
            state=str(self.folder / "opt/state"),
            command=str(self.folder / "bin/pkagent"),
        )
        self.addCleanup(end_agents, self.folder / "opt")

    async def place(self, connection: LocalConnection) -> DeployedAgent:
        return await self.deploy(self.plan(system=self.system), connection)

    async def test_root_installs_for_the_whole_system(self) -> None:
        deployed = await self.place(LocalConnection(self.plain_home))
        self.assertTrue(deployed.is_for_system)
        self.assertEqual(self.system.prefix, deployed.prefix)
        done = subprocess.run(
            [self.folder / "bin/pkagent", "--state", self.folder / "x"], check=True
        )
        self.assertEqual(0, done.returncode)

    async def test_a_user_with_sudo_does_but_the_ssh_key_is_the_users(self) -> None:
        connection = LocalConnection(self.plain_home, user="admin")
        connection.sudo_error = None
        deployed = await self.place(connection)
        self.assertTrue(deployed.is_for_system)
        self.assertEqual(STEPS, self.finished())
        for command, as_root in connection.commands[1:]:
            self.assertEqual("authorize" not in command, as_root, command)

    async def test_a_user_whom_the_host_gives_no_sudo_installs_below_the_home(self) -> None:
        deployed = await self.place(LocalConnection(self.plain_home, user="bob"))
        self.addCleanup(end_agents, Path(deployed.prefix))
        self.assertFalse(deployed.is_for_system)
        self.assertEqual(str(self.plain_home / OWN_FOLDER), deployed.prefix)

    async def test_sudo_that_refuses_the_password_is_an_error_with_ways_out(self) -> None:
        connection = LocalConnection(self.plain_home, user="admin")
        connection.sudo_error = SudoRefused
        error = await self.refusal(self.plan(system=self.system), connection)
        self.assertEqual("probe", error.step)
        self.assertIn("mkdir -p ~/.local/share/pkagent", str(error))

    async def test_a_user_who_made_the_folder_is_not_asked_for_root(self) -> None:
        connection = LocalConnection(self.home, user="admin")
        connection.sudo_error = SudoRefused
        self.assertFalse((await self.place(connection)).is_for_system)
        self.assertNotIn(True, [as_root for _, as_root in connection.commands])


class AuthorizedKeysTests(DeploymentTestCase):
    async def authorized(self, before: bytes) -> bytes:
        path = self.home / ".ssh/authorized_keys"
        path.parent.mkdir(mode=0o700)
        path.write_bytes(before)
        plan = self.plan()
        await self.deploy(plan)
        await self.deploy(plan)
        return path.read_bytes()

    async def test_other_lines_stay_as_they_are_and_in_order(self) -> None:
        other = b"# mine\r\n\nssh-rsa AAAAB3 bob\n\xff\xfe\nssh-ed25519 AAAAC3 carol\n"
        self.assertEqual(other + KEY.encode() + b"\n", await self.authorized(other))

    async def test_a_last_line_without_its_end_is_not_glued_to(self) -> None:
        self.assertEqual(
            b"ssh-rsa AAAAB3 bob\n" + KEY.encode() + b"\n",
            await self.authorized(b"ssh-rsa AAAAB3 bob"),
        )

    async def test_a_key_that_is_let_in_with_options_is_let_in_already(self) -> None:
        line = b'from="192.0.2.1" ' + KEY.encode() + b"\n"
        self.assertEqual(line, await self.authorized(line))

    async def test_a_key_in_a_comment_is_not_let_in(self) -> None:
        line = b"# " + KEY.encode() + b"\n"
        self.assertEqual(line + KEY.encode() + b"\n", await self.authorized(line))

    async def test_a_new_file_is_private(self) -> None:
        await self.deploy()
        self.assertEqual(0o700, (self.home / ".ssh").stat().st_mode & 0o777)
        self.assertEqual(0o600, (self.home / ".ssh/authorized_keys").stat().st_mode & 0o777)

    async def test_without_a_key_nothing_is_touched(self) -> None:
        await self.deploy(self.plan(authorized_key=None))
        self.assertFalse((self.home / ".ssh").exists())


class KeyProofTests(DeploymentTestCase):
    """After the key was put there, it is tried."""

    async def deploy_by(self, line: str, refusal: str = "", **changes: Any) -> DeployedAgent:
        self.reports.clear()
        tried = []

        async def prove_key() -> None:
            tried.append((self.home / ".ssh/authorized_keys").read_text())
            if refusal:
                raise SshAuthenticationFailed(refusal)

        async def verify(pin: Pin) -> None:
            self.verified.append(pin)

        connection = LocalConnection(self.home)
        connection.environment["SSH_CONNECTION"] = "192.0.2.7 40000 192.0.2.8 22"
        deployed = await deploy(
            connection,  # type: ignore[arg-type]
            self.plan(authorized_key=line, **changes),
            Exchange((ENGINE,)),
            report=self.reports.append,
            expect=proving(verify),
            prove_key=prove_key,
        )
        (there,) = tried
        self.assertIn(KEY, there)
        return deployed

    def authorized(self) -> str:
        return (self.home / ".ssh/authorized_keys").read_text()

    async def test_a_key_that_gets_in_is_a_step_that_is_finished(self) -> None:
        deployed = await self.deploy_by(KEY)
        self.assertEqual("", deployed.key_refusal)
        after = self.finished()[self.finished().index("authorize") :]
        self.assertEqual(["authorize", "login", "start", "verify"], after)

    async def test_a_key_that_is_kept_out_is_told_and_the_agent_is_there_all_the_same(
        self,
    ) -> None:
        deployed = await self.deploy_by(f'from="10.0.0.1" {KEY}', "It refuses the key.")
        for part in ("It refuses the key.", "at 192.0.2.7", "--authorized-keys-options"):
            self.assertIn(part, deployed.key_refusal)
        failed = [(r.name, r.detail) for r in self.reports if r.status is StepStatus.FAILED]
        self.assertEqual([("login", deployed.key_refusal)], failed)
        self.assertEqual([PIN], self.verified)

    async def test_limits_that_keep_the_engine_out_give_way_to_those_before(self) -> None:
        await self.deploy_by(f"restrict {KEY}")
        deployed = await self.deploy_by(
            f'from="10.0.0.1" {KEY}', "It refuses the key.", keeps_key_options=False
        )
        self.assertIn("was put back", deployed.key_refusal)
        self.assertEqual(f"restrict {KEY}\n", self.authorized())
        names = [report.name for report in self.reports]
        self.assertLess(names.index("login"), names.index("start"))
        self.assertNotIn("authorize", names[names.index("login") :])


class UndeployTests(DeploymentTestCase):
    async def remove(self, key: str | None = None) -> None:
        self.reports.clear()
        await undeploy(
            LocalConnection(self.home),  # type: ignore[arg-type]
            report=self.reports.append,
            authorized_keys=[] if key is None else [key],
        )

    async def test_nothing_is_left_but_the_line_that_lets_the_engine_in(self) -> None:
        before = sorted(self.home.rglob("*"))
        await self.deploy()
        await self.remove()
        self.assertEqual([], self.running())
        left = set(self.home.rglob("*")) - set(before)
        self.assertEqual({self.home / ".ssh", self.home / ".ssh/authorized_keys"}, left)
        self.assertIn(KEY, (self.home / ".ssh/authorized_keys").read_text())

    async def test_the_line_goes_where_that_is_asked_and_others_stay(self) -> None:
        (self.home / ".ssh").mkdir(mode=0o700)
        path = self.home / ".ssh/authorized_keys"
        path.write_bytes(b"ssh-rsa AAAAB3 \xff\n")
        path.chmod(0o640)
        await self.deploy()
        await self.remove(KEY)
        self.assertEqual(b"ssh-rsa AAAAB3 \xff\n", path.read_bytes())
        self.assertEqual(0o640, path.stat().st_mode & 0o777)

    async def test_what_is_not_ours_stays(self) -> None:
        await self.deploy()
        (self.prefix / "notes.txt").write_text("mine")
        await self.remove()
        self.assertEqual([self.prefix / "notes.txt"], list(self.prefix.iterdir()))

    async def test_the_second_time_is_no_error(self) -> None:
        await self.deploy()
        await self.remove(KEY)
        (self.home / OWN_FOLDER).mkdir(parents=True, exist_ok=True)
        await self.remove(KEY)
        self.assertEqual(["probe", "undeploy", "deauthorize"], self.finished())
