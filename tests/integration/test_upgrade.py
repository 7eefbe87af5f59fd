"""The agent of a real host is brought to another version, and back where that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pkengine.engine.deployment import bundle
from pkengine.engine.deployment.bundle_contents import BundleContents
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import agent_report
from pkengine.engine.model import Host, HostStatus, Job, SshLogin, StepStatus
from tests.hosts import Host as TestHost
from tests.integration import engine_case
from tests.integration.engine_case import ADMIN, EngineTestCase

CHANGED = "lib/pkengine/agent/verbs.py"
#: It starts and lets the engine in, and then leaves its questions unanswered.
DEAF = "Host.capabilities = lambda self: Deferred()\n"


class UpgradeTests(EngineTestCase):
    async def setUp(self) -> None:
        # Archives of other versions are not for other tests.
        folder = Path(self.mktemp())
        self.patch(engine_case, "shared_bundles", lambda: folder)
        await super().setUp()

    def let_the_engine_have_another_agent(self, addition: str) -> None:
        changed = Path(self.mktemp())
        collect = bundle.collect_contents

        def collect_changed() -> BundleContents:
            contents = collect()
            changed.write_text(contents.sources[CHANGED].read_text() + addition)
            sources = {**contents.sources, CHANGED: changed}
            return replace(contents, key="another", sources=sources)

        self.patch(bundle, "collect_contents", collect_changed)

    async def current(self, host: TestHost) -> str:
        """Tell which version is in use on a host."""
        return await host.run("readlink /opt/pkagent/current")

    async def upgrade(self, host: Host) -> Job:
        await self.ended(await self.engine.hosts.upgrades.check_for_update(host.id, ADMIN))
        self.assertTrue((await self.engine.hosts.get(host.id)).update_available)
        job = await self.engine.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN)
        return await self.ended(job)

    async def test_another_version_takes_over_and_the_key_stays(self) -> None:
        real = await self.host("real")
        added = await self.add_up(real)
        before = await self.current(real)
        self.let_the_engine_have_another_agent("# another version\n")
        job = await self.upgrade(added)
        self.assertEqual(job.status, StepStatus.FINISHED, job)
        self.assertNotEqual(await self.current(real), before)
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual((up.keys, up.update_available), (added.keys, False))
        await self.assert_event(EventCode.HOST_UPGRADE_FINISHED, "Host real upgrade was completed")

    async def test_a_version_that_does_not_come_back_in_time_gives_way_to_the_one_before(
        self,
    ) -> None:
        self.patch(agent_report, "CALL_TIMEOUT_S", 3.0)
        real = await self.host("real")
        added = await self.add_up(real)
        before = await self.current(real)
        self.let_the_engine_have_another_agent(DEAF)
        job = await self.upgrade(added)
        self.assertEqual(job.status, StepStatus.FAILED, job)
        steps = {step.name: step.status for step in job.steps}
        self.assertEqual(
            (steps["verify"], steps["restore"]), (StepStatus.FAILED, StepStatus.FINISHED)
        )
        self.assertEqual(await self.current(real), before)
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual((up.keys, up.update_available), (added.keys, True))
        await self.assert_event(
            EventCode.HOST_UPGRADE_FAILED, "Host real", "The version that ran before runs again."
        )
