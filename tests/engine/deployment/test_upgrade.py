"""Another version of the agent on a host, and the way back, by real commands."""

from __future__ import annotations

from pkengine.engine.deployment.deployment import DeploymentPlan
from pkengine.engine.deployment.upgrade import reboot, restart, upgrade
from pkengine.engine.model import StepStatus
from pkengine.errors import (
    Conflict,
    DeploymentError,
    PkengineError,
    SshCommandFailed,
    SshConnectionLost,
)
from tests.engine.deployment.ssh_host import LocalConnection
from tests.engine.deployment.test_deployment import DeploymentTestCase as DeploymentCase


class UpgradeTests(DeploymentCase):
    def setUp(self) -> None:
        super().setUp()
        self.asked: list[str] = []

    async def upgrade(self, plan: DeploymentPlan, refusal: PkengineError | None = None) -> None:
        self.reports.clear()

        async def verify(bundle: str) -> None:
            self.asked.append(bundle)
            if refusal is not None:
                raise refusal

        await upgrade(
            LocalConnection(self.home),  # type: ignore[arg-type]
            plan,
            report=self.reports.append,
            verify=verify,
        )

    def running_versions(self) -> list[str]:
        return [agent.bundle for agent in self.running()]

    async def test_new_version_takes_over_and_the_keys_stay(self) -> None:
        one, two = (self.plan(self.bundle(version)) for version in "12")
        await self.deploy(one)
        before = (self.state / "authorized_engines").stat().st_mtime_ns
        await self.upgrade(two)
        self.assertEqual(self.asked, [two.bundle.hash])
        self.assertEqual(self.running_versions(), [two.bundle.hash])
        self.assertEqual(
            self.finished(), ["probe", "upload", "check", "install", "start", "verify"]
        )
        self.assertEqual((self.state / "authorized_engines").stat().st_mtime_ns, before)

    async def test_version_that_does_not_come_back_gives_way_to_the_one_before(self) -> None:
        one, two = (self.plan(self.bundle(version)) for version in "12")
        await self.deploy(one)
        with self.assertRaises(DeploymentError) as caught:
            await self.upgrade(two, Conflict("The agent does not answer."))
        self.assertEqual(caught.exception.step, "verify")
        self.assertIn("The version that ran before runs again.", str(caught.exception))
        self.assertEqual(self.running_versions(), [one.bundle.hash])
        self.assertTrue((self.prefix / "current").readlink().name == one.bundle.hash)
        steps = [(r.name, r.status) for r in self.reports]
        self.assertIn(("verify", StepStatus.FAILED), steps)
        self.assertEqual(steps[-1], ("restore", StepStatus.FINISHED))

    async def test_upgrade_can_be_tried_again_after_the_way_back(self) -> None:
        one, two = (self.plan(self.bundle(version)) for version in "12")
        await self.deploy(one)
        with self.assertRaises(DeploymentError):
            await self.upgrade(two, Conflict("The agent does not answer."))
        await self.upgrade(two)
        self.assertEqual(self.running_versions(), [two.bundle.hash])

    async def test_same_version_that_does_not_answer_has_no_way_back(self) -> None:
        one = self.plan()
        await self.deploy(one)
        with self.assertRaises(DeploymentError) as caught:
            await self.upgrade(one, Conflict("The agent does not answer."))
        self.assertNotIn("before", str(caught.exception))

    async def test_host_without_an_agent_is_not_upgraded(self) -> None:
        with self.assertRaises(DeploymentError) as caught:
            await self.upgrade(self.plan())
        self.assertIn("install it", str(caught.exception))
        self.assertEqual(self.running(), [])

    async def test_restart_makes_a_new_process_of_the_same_version(self) -> None:
        one = self.plan()
        await self.deploy(one)
        (before,) = self.running()
        await restart(LocalConnection(self.home), one)  # type: ignore[arg-type]
        (after,) = self.running()
        self.assertNotEqual(before.pid, after.pid)
        self.assertEqual(before.bundle, after.bundle)

    async def test_restart_of_what_is_not_installed_is_refused(self) -> None:
        with self.assertRaises(DeploymentError):
            await restart(LocalConnection(self.home), self.plan())  # type: ignore[arg-type]


class RebootTests(DeploymentCase):
    async def ask(self, error: Exception | None) -> tuple[str, bool]:
        asked: list[tuple[str, bool]] = []

        class Connection:
            async def run(self, command: str, *, as_root: bool, timeout_s: float) -> None:
                asked.append((command, as_root))
                if error is not None:
                    raise error

        await reboot(Connection())  # type: ignore[arg-type]
        return asked[0]

    async def test_connection_that_ends_means_that_the_host_is_on_its_way(self) -> None:
        for error in (None, SshConnectionLost("The connection ended.")):
            command, as_root = await self.ask(error)
            self.assertIn("reboot", command)
            self.assertTrue(as_root)

    async def test_refusal_is_passed_on(self) -> None:
        with self.assertRaises(SshCommandFailed):
            await self.ask(SshCommandFailed("It is not allowed.", 1))
