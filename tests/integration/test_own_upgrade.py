"""Agents of hosts without SSH replace themselves, under systemd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twisted.internet.defer import ensureDeferred

from pkengine.engine.deployment import bundle, own_upgrade
from pkengine.engine.deployment.bundle_contents import BundleContents
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import agent_report
from pkengine.engine.model import Host, HostStatus, Job, SshLogin, StepStatus
from tests.integration import engine_case
from tests.integration.engine_case import ADMIN
from tests.integration.test_dial_in_hosts import DialInTestCase
from tests.integration.test_upgrade import CHANGED, DEAF

#: As a package of a distribution would bring it.
UNIT = """\
[Service]
Type=notify
ExecStart=/usr/bin/python3 -I -S /opt/packaged/lib twistd --nodaemon --pidfile= \\
    pkagent --state /var/lib/pkagent --listen none
Restart=on-failure
[Install]
WantedBy=multi-user.target
"""
UNIT_PATH = "/etc/systemd/system/pkagent.service"


class SystemdTests(DialInTestCase):
    async def setUp(self) -> None:
        # Archives of other versions are not for other tests.
        folder = Path(self.mktemp())
        self.patch(engine_case, "shared_bundles", lambda: folder)
        self.collect_contents = bundle.collect_contents
        await super().setUp()
        self.real = await self.host("whole", init="systemd")

    async def known_without_ssh(self) -> Host:
        """Give a host that is up, and of whose SSH server the engine knows nothing any more."""
        added = await self.add_up(self.real)

        def forget(host: Host) -> Host:
            return replace(host, ssh=replace(host.ssh, public_key=None, fingerprint=None))

        await self.engine.hosts._registry.change(added.id, forget)
        return await self.engine.hosts.get(added.id)

    def let_the_engine_have_another_agent(self, addition: str) -> None:
        changed = Path(self.mktemp())
        collect = self.collect_contents

        def collect_changed() -> BundleContents:
            contents = collect()
            changed.write_text(contents.sources[CHANGED].read_text() + addition)
            return replace(contents, key=addition, sources={**contents.sources, CHANGED: changed})

        self.patch(bundle, "collect_contents", collect_changed)

    async def upgrade(self, host: Host) -> Job:
        return await self.ended(
            await self.engine.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN)
        )

    async def state_of_the_host(self) -> tuple[str, str]:
        """Tell which version is in use, and which units stand in the way of others."""
        version = await self.real.run("readlink /opt/pkagent/current")
        passing = await self.real.run("ls /run/systemd/system.control 2>/dev/null || :")
        return version, passing

    async def test_one_version_takes_over_and_the_next_that_is_deaf_gives_way_again(self) -> None:
        added = await self.known_without_ssh()
        first, _ = await self.state_of_the_host()
        unit = await self.real.run(f"cat {UNIT_PATH}")

        self.let_the_engine_have_another_agent("another = 1\n")
        job = await self.upgrade(added)
        self.assertEqual(
            job.status, StepStatus.FINISHED, await self.sentences(EventCode.HOST_UPGRADE_FAILED)
        )
        self.assertEqual(
            ["probe", "upload", "check", "start", "verify", "install"],
            [step.name for step in job.steps],
        )
        second, passing = await self.state_of_the_host()
        self.assertNotEqual(first, second)
        self.assertEqual("", passing)
        self.assertEqual(unit, await self.real.run(f"cat {UNIT_PATH}"))
        self.assertEqual("enabled\n", await self.real.run("systemctl is-enabled pkagent"))
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual((up.keys, up.update_available), (added.keys, False))

        self.patch(agent_report, "CALL_TIMEOUT_S", 3.0)
        self.patch(own_upgrade, "TRIAL_S", 6.0)
        self.let_the_engine_have_another_agent(DEAF)
        job = await self.upgrade(added)
        self.assertEqual(job.status, StepStatus.FAILED)
        steps = {step.name: step.status for step in job.steps}
        self.assertEqual(
            (steps["verify"], steps["restore"]), (StepStatus.FAILED, StepStatus.FINISHED)
        )
        self.assertEqual((second, ""), await self.state_of_the_host())
        await self.assert_event(
            EventCode.HOST_UPGRADE_FAILED, "Host whole", "The version that ran before runs again."
        )
        await self.until(added.id, HostStatus.UP)
        self.assertEqual("active\n", await self.real.run("systemctl is-active pkagent"))
        self.assertEqual("running\n", await self.real.run("systemctl is-system-running"))

    async def test_packaged_agent_survives_a_reboot_in_a_trial_and_moves_to_its_own_folder(
        self,
    ) -> None:
        added = await self.known_without_ssh()
        missed = ensureDeferred(self.until(added.id, HostStatus.CONNECTING))
        (self.real.root / UNIT_PATH.lstrip("/")).write_text(UNIT)
        await self.real.run(
            "cp -rL /opt/pkagent/current /opt/packaged; systemctl stop pkagent; "
            "rm -r /opt/pkagent; systemctl daemon-reload; systemctl start pkagent"
        )
        await missed
        await self.until(added.id, HostStatus.UP)

        self.let_the_engine_have_another_agent(DEAF)
        job = await self.engine.hosts.upgrades.upgrade(added.id, SshLogin(), ADMIN)
        await self.job_until(job, lambda job: any(step.name == "verify" for step in job.steps))
        await self.real.reboot()
        job = await self.ended(job)
        self.assertEqual(StepStatus.FAILED, job.status)
        await self.assert_event(
            EventCode.HOST_UPGRADE_FAILED, "The version that ran before runs again."
        )
        self.assertEqual(UNIT, await self.real.run(f"cat {UNIT_PATH}"))
        self.assertIn("packaged", await self.real.run("systemctl show -p ExecStart pkagent"))
        await self.until(added.id, HostStatus.UP)

        self.let_the_engine_have_another_agent("another = 1\n")
        job = await self.upgrade(added)
        self.assertEqual(
            job.status, StepStatus.FINISHED, await self.sentences(EventCode.HOST_UPGRADE_FAILED)
        )
        self.assertIn("/opt/pkagent/current", await self.real.run(f"cat {UNIT_PATH}"))
        await self.until(added.id, HostStatus.UP)
        missed = ensureDeferred(self.until(added.id, HostStatus.CONNECTING))
        await self.real.run("systemctl restart pkagent")
        await missed
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual(added.keys, up.keys)
