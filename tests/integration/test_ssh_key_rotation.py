"""The engine's SSH key is replaced on real hosts, some of which are away meanwhile."""

from __future__ import annotations

from pathlib import Path

from pkengine.engine.events import EventCode
from pkengine.engine.model import Host, HostStatus, Job, KeyRotationStatus, StepStatus
from pkengine.engine.state import StateFolder
from pkengine.errors import Conflict
from pkengine.keys import SshPublicKey
from pkengine.ssh import SshKeyKind
from tests.hosts import Host as TestHost
from tests.integration.engine_case import ADMIN, EngineTestCase, shared_bundles

DONE, FAILED = KeyRotationStatus.DONE, KeyRotationStatus.FAILED


class RotationTests(EngineTestCase):
    async def rotate(self, kind: SshKeyKind | None = None) -> Job:
        return await self.ended(await self.engine.ssh_key_rotation.rotate(kind, ADMIN))

    async def statuses_of_hosts(self) -> dict[str, KeyRotationStatus]:
        state = await self.engine.ssh_key_rotation.state()
        return {host.host_name: host.status for host in state.hosts}

    def public(self) -> list[SshPublicKey]:
        return [identity.public for identity in self.engine.ssh_keys.identities]

    async def authorized(self, host: TestHost, user: str = "root") -> list[str]:
        return (await host.run(f"cat ~{user}/.ssh/authorized_keys")).splitlines()

    async def up(self, name: str, user: str = "root") -> tuple[TestHost, Host]:
        host = await self.host(name)
        return host, await self.add_up(host, user=user)

    async def test_all_hosts_have_the_new_key_alone_and_other_lines_are_left(self) -> None:
        one, first = await self.up("one")
        two, _ = await self.up("two", user="admin")
        (old,) = self.public()
        await one.run(
            f"echo 'restrict {old} by hand' >> /root/.ssh/authorized_keys;"
            "echo '# ours' >> /root/.ssh/authorized_keys;"
            "sed -i /pkengine@/d /root/.ssh/authorized_keys"
        )
        for kind, key_type in ((SshKeyKind.RSA, "ssh-rsa"), (None, "ssh-ed25519")):
            job = await self.rotate(kind)
            self.assertEqual(StepStatus.FINISHED, job.status)
            self.assertEqual({"Host one", "Host two"}, {step.description for step in job.steps})
            (new,) = self.public()
            self.assertEqual(key_type, new.key_type)
            self.assertEqual([f"restrict {new} by hand", "# ours"], await self.authorized(one))
            (line,) = await self.authorized(two, "admin")
            self.assertEqual(f"{new} pkengine@{self.engine.name_at_agents}", line)
        await self.assert_event(
            EventCode.ENGINE_KEY_ROTATION_FINISHED, "All 2 hosts", str(new.fingerprint())
        )
        self.assertEqual(4, len(await self.sentences(EventCode.ENGINE_KEY_ROTATED)))
        again, job = await self.install(await self.maintain(first))
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
        self.assertIn(str(new.fingerprint()), await one.ssh_log())

    async def test_a_host_that_is_away_gets_the_key_later_also_from_an_engine_started_anew(
        self,
    ) -> None:
        one, _ = await self.up("one")
        two, second = await self.up("two")
        (old,) = self.public()
        await two.restart_sshd("ListenAddress 127.0.0.1")
        job = await self.rotate()
        self.assertEqual(StepStatus.FAILED, job.status)
        self.assertEqual({"one": DONE, "two": FAILED}, await self.statuses_of_hosts())
        new, kept = self.public()
        self.assertEqual(old, kept)
        self.assertIn(f"{new} pkengine@", (await self.authorized(one))[0])
        self.assertIn(f"{old} pkengine@", (await self.authorized(two))[0])
        await self.assert_event(EventCode.ENGINE_KEY_ROTATION_FAILED, "Host two")

        # Meanwhile each is reached by the key that it has.
        one_again = (await self.engine.hosts.list())[0]
        _, job = await self.install(await self.maintain(one_again))
        self.assertEqual(StepStatus.FINISHED, job.status)
        self.assertEqual({"one": DONE, "two": FAILED}, await self.statuses_of_hosts())

        await two.restart_sshd()
        await self.stop_engine()
        await self.start_engine()
        await self.until_rotated()
        self.assertEqual([new], self.public())
        self.assertIn(f"{new} pkengine@", (await self.authorized(two))[0])
        self.assertEqual(1, len(await self.authorized(two)))
        await self.until(second.id, HostStatus.UP)

    async def until_rotated(self) -> None:
        (job,) = [
            job
            for job in await self.engine.jobs.list(limit=1000)
            if job.description.startswith("Rotating") and job.ended is None
        ]
        self.assertEqual(StepStatus.FINISHED, (await self.ended(job)).status)

    async def test_limits_that_would_keep_the_new_key_out_leave_the_old_one_in(self) -> None:
        one, _ = await self.up("one")
        (old,) = self.public()
        await self.stop_engine()
        await self.start_engine(authorized_keys_options='from="203.0.113.9"')
        job = await self.rotate()
        self.assertEqual(StepStatus.FAILED, job.status)
        await self.assert_event(
            EventCode.ENGINE_KEY_ROTATION_FAILED, "was not replaced on Host one", "'from='"
        )
        self.assertIn(f"{old} pkengine@{self.engine.name_at_agents}", await self.authorized(one))
        await self.stop_engine()
        await self.start_engine(authorized_keys_options="restrict")
        await self.until_rotated()
        (new,) = self.public()
        self.assertEqual(
            [f"restrict {new} pkengine@{self.engine.name_at_agents}"], await self.authorized(one)
        )

    async def test_two_engines_on_one_host_leave_each_others_lines_alone(self) -> None:
        one, _ = await self.up("one")
        first = self.engine
        (line_of_first,) = await self.authorized(one)
        self.state = StateFolder(Path(self.mktemp()))
        self.state.bundles = shared_bundles()
        await self.start_engine()
        self.addCleanup(lambda: first.running and first.stopService())
        added = await self.add_up(one)
        (also_first, line_of_second) = await self.authorized(one)
        self.assertEqual(line_of_first, also_first)
        self.assertTrue(line_of_second.endswith(f"pkengine@{self.engine.name_at_agents}"))
        await self.rotate()
        first_line, second_line = await self.authorized(one)
        self.assertEqual(line_of_first, first_line)
        self.assertNotEqual(line_of_second, second_line)
        await self.maintain(added)
        await self.engine.hosts.maintenance.remove(added.id, ADMIN, uninstall=True)
        self.assertEqual([line_of_first], await self.authorized(one))

    async def test_the_old_key_can_be_given_up_by_force(self) -> None:
        one, added = await self.up("one")
        await one.restart_sshd("ListenAddress 127.0.0.1")
        await self.rotate()
        state = await self.engine.ssh_key_rotation.discard_old(ADMIN)
        self.assertIsNone(state.successor)
        self.assertEqual(1, len(self.public()))
        await self.assert_event(
            EventCode.ENGINE_KEY_DISCARDED, "by admin@internal", "Host one", "with a password"
        )
        with self.assertRaises(Conflict):
            await self.engine.ssh_key_rotation.discard_old(ADMIN)
        await one.restart_sshd()
        maintained = await self.maintain(added)
        with self.assertRaises(Exception) as caught:
            await self.install(maintained)
        self.assertIn("does not accept the key", str(caught.exception))
