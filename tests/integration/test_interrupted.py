"""Deployments that something goes wrong in: nothing is trusted, and doing it again mends it."""

from __future__ import annotations

from pkengine.engine.events import EventCode
from pkengine.engine.model import Host, HostStatus, Job, SshLogin, StepStatus
from tests.hosts import Host as TestHost
from tests.integration.engine_case import ADMIN, EngineTestCase

SMALL_LINK = "16mbit"


class InterruptedTestCase(EngineTestCase):
    async def assert_failed(self, host: Host, job: Job, step: str, *parts: str) -> None:
        """Check all that tells an administrator that, where and why it failed."""
        self.assertEqual(HostStatus.INSTALL_FAILED, host.status)
        self.assertEqual(StepStatus.FAILED, job.status)
        failed = [found.name for found in job.steps if found.status is StepStatus.FAILED]
        self.assertEqual([step], failed)
        for part in (f"Step '{step}'", *parts):
            self.assertIn(part, host.status_detail)
        await self.assert_event(EventCode.HOST_INSTALL_FAILED, host.name, f"Step '{step}'", *parts)
        self.assert_untrusted(host)

    async def assert_mended(self, host: Host, real: TestHost) -> Host:
        """Check that one more installation, with the password, leads to a host that is up."""
        again, job = await self.install(host, SshLogin(password=real.password["root"]))
        self.assertEqual(StepStatus.FINISHED, job.status, again.status_detail)
        up = await self.until(host.id, HostStatus.UP)
        self.assertEqual(1, len(up.keys))
        self.assertEqual("1\n", await real.run("pgrep -fc [t]wistd"))
        return up


class LinkTests(InterruptedTestCase):
    async def begin(self, real: TestHost) -> tuple[Host, Job]:
        """Begin to add a host behind a slow link, and wait until the upload is under way."""
        await real.slow(SMALL_LINK)
        host, job = await self.engine.hosts.admission.add(await self.request(real), ADMIN)
        await self.job_until(job, is_uploading)
        return host, job

    async def test_progress_of_an_upload_over_a_slow_link_is_shown(self) -> None:
        real = await self.host("one")
        await real.slow(SMALL_LINK)
        shown: list[int] = []
        self.addCleanup(
            self.engine.jobs.subscribe(
                lambda job: shown.extend(
                    step.progress
                    for step in job.steps
                    if step.name == "upload" and step.progress is not None
                )
            )
        )
        await self.add_up(real)
        self.assertEqual(sorted(shown), shown)
        self.assertGreater(len({progress for progress in shown if 0 < progress < 100}), 3)
        self.assertEqual(100, shown[-1])

    async def test_a_host_whose_cable_is_pulled_is_told_of_and_mended(self) -> None:
        real = await self.host("one")
        host, job = await self.begin(real)
        await real.cut()
        ended = await self.ended(job)
        await real.join()
        await self.assert_failed(await self.engine.hosts.get(host.id), ended, "upload", "cut off")
        self.assertEqual("", await real.run("pgrep -f [t]wistd || true"))
        await self.assert_mended(host, real)

    async def test_a_lost_ssh_session_is_told_of_and_mended(self) -> None:
        real = await self.host("one")
        host, job = await self.begin(real)
        await real.cut_ssh_sessions()
        ended = await self.ended(job)
        await self.assert_failed(await self.engine.hosts.get(host.id), ended, "upload")
        versions = await real.run("ls /opt/pkagent/versions 2>/dev/null || true")
        self.assertEqual([], [name for name in versions.split() if not name.startswith(".")])
        await self.assert_mended(host, real)
        left = (await real.run("ls -A /opt/pkagent/versions")).split()
        self.assertEqual(1, len(left), left)

    async def test_an_engine_that_stops_in_the_middle_says_so_and_mends_it_later(self) -> None:
        real = await self.host("one")
        host, _ = await self.begin(real)
        await self.stop_engine()
        await self.start_engine()
        found = await self.engine.hosts.get(host.id)
        self.assertEqual(HostStatus.INSTALL_FAILED, found.status)
        self.assert_untrusted(found)
        await self.assert_event(EventCode.HOST_INSTALL_FAILED, "Host one", "interrupted")
        jobs = await self.engine.jobs.list()
        self.assertEqual({StepStatus.ABORTED}, {job.status for job in jobs})
        await self.assert_mended(found, real)


class UnfitHostTests(InterruptedTestCase):
    async def test_a_host_without_python_is_told_of_and_left_as_it_was(self) -> None:
        real = await self.host("one")
        await real.run("mkdir /root/away; mv /usr/bin/python3* /root/away")
        host, job = await self.add(await self.request(real))
        await self.assert_failed(host, job, "probe", "Python")
        self.assertFalse((real.root / "opt/pkagent").exists())
        self.assertFalse((real.root / "root/.ssh/authorized_keys").exists())
        await real.run("mv /root/away/* /usr/bin")
        await self.assert_mended(host, real)

    async def test_a_python_that_is_too_old_is_told_of(self) -> None:
        real = await self.host("one")
        await real.run(
            "mkdir /root/away; mv /usr/bin/python3* /root/away;"
            "printf '%s\\n' '#!/root/away/python3' 'import sys, platform'"
            " 'sys.version_info = (3, 9, 2, \"final\", 0)' 'exec(sys.argv[2])' >/usr/bin/python3;"
            "chmod +x /usr/bin/python3"
        )
        host, job = await self.add(await self.request(real))
        await self.assert_failed(host, job, "probe", "3.")
        self.assertFalse((real.root / "opt/pkagent").exists())

    async def test_a_full_disk_is_told_of_before_anything_is_sent(self) -> None:
        real = await self.host("one")
        await real.run("mount -t tmpfs -o size=8m tmpfs /opt")
        host, job = await self.add(await self.request(real))
        await self.assert_failed(host, job, "probe", "no room", "/opt/pkagent", "MiB")
        await real.run("umount /opt")
        await self.assert_mended(host, real)

    async def test_a_port_that_something_else_has_is_told_of(self) -> None:
        real = await self.host("one")
        await real.run(
            "mkdir /tmp/other; cd /tmp/other;"
            "setsid python3 -m http.server 54321 >/dev/null 2>&1 </dev/null & "
            "until ss -ltn | grep -q :54321; do sleep 0.05; done"
        )
        host, job = await self.add(await self.request(real))
        await self.assert_failed(host, job, "start", "54321")
        await real.run("pkill -f http[.]server")
        await self.assert_mended(host, real)


def is_uploading(job: Job) -> bool:
    """Tell whether some, but not all, of the archive is on the host."""
    return any(
        step.name == "upload" and step.progress is not None and 0 < step.progress < 80
        for step in job.steps
    )
