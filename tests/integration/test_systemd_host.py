"""The agent as a systemd service, on whole systems that crash and reboot."""

from __future__ import annotations

from twisted.internet.defer import ensureDeferred

from pkengine.engine.events import EventCode
from pkengine.engine.model import HostStatus, SshLogin, StepStatus
from tests.engine.hosts.keys import keys_of
from tests.integration.engine_case import ADMIN, EngineTestCase


class ServiceTests(EngineTestCase):
    async def setUp(self) -> None:
        await super().setUp()
        self.real = await self.host("whole", init="systemd")

    async def show(self, name: str) -> str:
        """Give a property of the agent's unit."""
        return (await self.real.run(f"systemctl show --value -p {name} pkagent")).strip()

    async def test_the_agent_runs_as_a_hardened_service_that_is_watched(self) -> None:
        await self.add_up(self.real)
        for name, value in {
            "ActiveState": "active",
            "UnitFileState": "enabled",
            "Type": "notify",
            "NoNewPrivileges": "yes",
            "NRestarts": "0",
        }.items():
            self.assertEqual(value, await self.show(name), name)
        self.assertNotEqual("0", await self.show("WatchdogUSec"))
        self.assertEqual("running\n", await self.real.run("systemctl is-system-running"))

    async def test_a_killed_agent_is_started_again_and_found_by_the_same_key(self) -> None:
        added = await self.add_up(self.real)
        before = await self.show("MainPID")
        seen = self.statuses(added)
        await self.real.run(f"kill -KILL {before}")
        await self.until(added.id, HostStatus.CONNECTING, HostStatus.NON_RESPONSIVE)
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual(keys_of(added), keys_of(up))
        self.assertNotEqual(before, await self.show("MainPID"))
        self.assertEqual("1", await self.show("NRestarts"))
        self.assertEqual(HostStatus.CONNECTING, seen[0])

    async def test_an_agent_that_hangs_is_restarted_by_the_watchdog(self) -> None:
        added = await self.add_up(self.real)
        before = await self.show("MainPID")
        await self.real.run(
            "mkdir -p /run/systemd/system/pkagent.service.d; "
            "printf '[Service]\\nWatchdogSec=1\\n' >/run/systemd/system/pkagent.service.d/t.conf; "
            "systemctl daemon-reload; systemctl restart pkagent"
        )
        await self.until(added.id, HostStatus.CONNECTING)
        await self.until(added.id, HostStatus.UP)
        hung = await self.show("MainPID")
        self.assertNotEqual(before, hung)
        await self.real.run(f"kill -STOP {hung}")
        await self.until(added.id, HostStatus.CONNECTING, HostStatus.NON_RESPONSIVE)
        await self.until(added.id, HostStatus.UP)
        self.assertNotEqual(hung, await self.show("MainPID"))

    async def test_a_host_that_reboots_is_missed_and_comes_back_by_itself(self) -> None:
        added = await self.add_up(self.real)
        missed = ensureDeferred(self.until(added.id, HostStatus.CONNECTING))
        await self.real.reboot()
        await missed
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual(keys_of(added), keys_of(up))
        self.assertEqual("0", await self.show("NRestarts"))
        self.assertEqual("active", await self.show("ActiveState"))

    async def test_a_host_that_is_off_is_non_responsive_and_up_when_it_is_back(self) -> None:
        added = await self.add_up(self.real)
        seen = self.statuses(added)
        await self.real.cut()
        await self.until(added.id, HostStatus.NON_RESPONSIVE)
        await self.real.join()
        await self.until(added.id, HostStatus.UP)
        self.assertEqual([HostStatus.CONNECTING, HostStatus.NON_RESPONSIVE, HostStatus.UP], seen)

    async def test_an_agent_is_restarted_by_ssh(self) -> None:
        added = await self.add_up(self.real)
        before = await self.show("MainPID")
        job = await self.engine.hosts.upkeep.restart_agent(added.id, SshLogin(), ADMIN)
        self.assertEqual(StepStatus.FINISHED, (await self.engine.jobs.get(job.id)).status)
        self.assertNotEqual(before, await self.show("MainPID"))
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual(keys_of(added), keys_of(up))
        await self.assert_event(EventCode.HOST_AGENT_RESTARTED, "was restarted by SSH")

    async def test_a_host_is_rebooted_by_ssh_and_told_whether_it_answers(self) -> None:
        added = await self.add_up(self.real)
        upkeep = self.engine.hosts.upkeep
        self.assertTrue(await upkeep.is_answering(added.id))
        missed = ensureDeferred(self.until(added.id, HostStatus.CONNECTING))
        await upkeep.reboot(added.id, SshLogin(), ADMIN)
        await missed
        up = await self.until(added.id, HostStatus.UP)
        self.assertEqual(keys_of(added), keys_of(up))
        self.assertTrue(await upkeep.is_answering(added.id))
        await self.assert_event(EventCode.HOST_RESTARTED, "was restarted by SSH")
        await self.real.cut()
        await self.until(added.id, HostStatus.NON_RESPONSIVE)
        self.assertFalse(await upkeep.is_answering(added.id))
