"""A real engine, in this process, with a farm of real hosts around it."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial import unittest

from pkengine.engine.events import EventCode
from pkengine.engine.hosts.watch import Patience
from pkengine.engine.model import (
    Host,
    HostStatus,
    Job,
    NewHost,
    Origin,
    SshLogin,
    StepStatus,
    WayChoice,
)
from pkengine.engine.service import Engine
from pkengine.engine.state import StateFolder
from pkengine.keys import Secret, SshFingerprint
from tests.hosts import Farm, open_farm
from tests.hosts import Host as TestHost

ADMIN = Origin(user="admin@internal", address="127.0.0.1", correlation_id="a-test")
#: Fast enough that nobody waits, slow enough for a busy machine.
IMPATIENT = Patience(
    poll_s=0.2, call_timeout_s=2.0, grace_s=1.5, first_pause_s=0.1, longest_pause_s=0.5
)


class EngineTestCase(unittest.TestCase):
    """Each test has an engine, as `twistd pkengine` runs it, and may ask for hosts.

    After each test, whatever the engine wrote, logged or announced is searched for the
    passwords of the hosts.
    """

    timeout = 180
    behind_nat = False

    async def setUp(self) -> None:
        self.logged: list[str] = []
        self.test_hosts: list[TestHost] = []
        self.farm: Farm = await open_farm(self, reactor, behind_nat=self.behind_nat)
        globalLogPublisher.addObserver(self._record)
        self.addCleanup(globalLogPublisher.removeObserver, self._record)
        self.state = StateFolder(Path(self.mktemp()))
        self.state.bundles = shared_bundles()
        self.addCleanup(lambda: ensureDeferred(self._check_secrets()))
        await self.start_engine()
        self.addCleanup(self.stop_engine)

    async def start_engine(self, **options: Any) -> None:
        """Start an engine with the state folder of this test."""
        self.engine = Engine(
            reactor, self.state, https="tcp:0:interface=127.0.0.1", patience=IMPATIENT, **options
        )
        self.engine.privilegedStartService()
        self.engine.startService()
        await self.engine.started

    async def stop_engine(self) -> None:
        """Stop it, as SIGTERM does."""
        if self.engine.running:
            await self.engine.stopService()

    async def host(self, name: str, *, init: str = "sshd") -> TestHost:
        """Give a real host that the engine does not know yet."""
        host = await self.farm.host(name, init=init)
        self.test_hosts.append(host)
        return host

    # What an administrator does.

    async def request(
        self,
        host: TestHost,
        *,
        user: str = "root",
        password: Secret | None = None,
        fingerprint: SshFingerprint | None = None,
        activate: bool = True,
        way: WayChoice | None = None,
    ) -> NewHost:
        """Give the request to add a host, by password and with the right fingerprint."""
        login = SshLogin(
            user=user,
            password=password or host.password[user],
            fingerprint=fingerprint or await host.fingerprint(),
        )
        return NewHost(
            name=host.name,
            address=host.address,
            ssh=login,
            activate=activate,
            way=way or WayChoice(),
        )

    async def add(self, new: NewHost) -> tuple[Host, Job]:
        """Add a host and wait until its installation has ended, well or not."""
        host, job = await self.engine.hosts.admission.add(new, ADMIN)
        ended = await self.ended(job)
        return await self.engine.hosts.get(host.id), ended

    async def add_up(self, host: TestHost, **options: Any) -> Host:
        """Add a host and wait until it is up."""
        added, job = await self.add(await self.request(host, **options))
        self.assertEqual(StepStatus.FINISHED, job.status, added.status_detail)
        return await self.until(added.id, HostStatus.UP)

    async def install(self, host: Host, login: SshLogin | None = None) -> tuple[Host, Job]:
        """Install a known host again and wait until that has ended, well or not."""
        job = await self.engine.hosts.admission.install(
            host.id, login or SshLogin(), ADMIN, activate=True
        )
        ended = await self.ended(job)
        return await self.engine.hosts.get(host.id), ended

    async def maintain(self, host: Host) -> Host:
        """Put a host into maintenance."""
        await self.engine.hosts.maintenance.deactivate(host.id, ADMIN)
        return await self.until(host.id, HostStatus.MAINTENANCE)

    # What an administrator waits for and sees.

    async def until(self, host_id: uuid.UUID, *statuses: HostStatus) -> Host:
        """Wait until a host has one of these statuses."""
        seen: Deferred[Host] = Deferred()

        def changed(host: Host) -> None:
            if host.id == host_id and host.status in statuses and not seen.called:
                seen.callback(host)

        end = self.engine.hosts.subscribe(changed, lambda _: None)
        try:
            changed(await self.engine.hosts.get(host_id))
            return await seen
        finally:
            end()

    def statuses(self, known: Host) -> list[HostStatus]:
        """Give a list that grows by each new status of a host from the known one on."""
        seen: list[HostStatus] = []

        def changed(host: Host) -> None:
            if host.id == known.id and host.status is not (seen[-1] if seen else known.status):
                seen.append(host.status)

        self.addCleanup(self.engine.hosts.subscribe(changed, lambda _: None))
        return seen

    async def ended(self, job: Job) -> Job:
        """Wait for the end of a job."""
        return await self.job_until(job, lambda job: job.ended is not None)

    async def job_until(self, job: Job, is_so: Callable[[Job], bool]) -> Job:
        """Wait until something is so of a job."""
        seen: Deferred[Job] = Deferred()

        def moved(now: Job) -> None:
            if now.id == job.id and is_so(now) and not seen.called:
                seen.callback(now)

        end = self.engine.jobs.subscribe(moved)
        try:
            moved(await self.engine.jobs.get(job.id))
            return await seen
        finally:
            end()

    async def sentences(self, *codes: EventCode) -> list[str]:
        """Give the sentences of the event log, oldest first; of all codes where none is given."""
        events = await self.engine.events.list(limit=None, newest_first=False)
        return [event.description for event in events if not codes or event.code in codes]

    async def assert_event(self, code: EventCode, *parts: str) -> None:
        """Check that one event of that kind says all of that."""
        found = await self.sentences(code)
        self.assertTrue(
            any(all(part in sentence for part in parts) for sentence in found),
            f"Expected an event {code.name} with {parts}, found {found}.",
        )

    async def assert_unknown(self, *hosts: TestHost) -> None:
        """Check that the engine has no row for these hosts, and that they have no agent."""
        self.assertEqual([], await self.engine.hosts.list())
        for host in hosts:
            self.assertEqual("", await host.run("pgrep -f [p]kagent || true"))
            self.assertFalse((host.root / "opt/pkagent").exists())
            self.assertFalse((host.root / "root/.ssh/authorized_keys").exists())

    def assert_untrusted(self, host: Host) -> None:
        """Check that the engine trusts no key of that host."""
        self.assertEqual((), host.keys)
        self.assertIsNone(self.engine.hosts.authenticated(host.id))

    # What must never be seen.

    def _record(self, event: LogEvent) -> None:
        text = formatEvent(event)
        if "log_failure" in event:
            text += "".join(traceback.format_exception(event["log_failure"].value))
        self.logged.append(text)

    async def _check_secrets(self) -> None:
        secrets = [
            password.reveal() for host in self.test_hosts for password in host.password.values()
        ]
        places = {"the log": "\n".join(self.logged).encode()}
        for path in self.state.directory.rglob("*"):
            if path.is_file():
                places[str(path)] = path.read_bytes()
        for place, content in places.items():
            for secret in secrets:
                self.assertNotIn(secret, content, f"A password is in {place}.")


@functools.cache
def shared_bundles() -> Path:
    """Give a folder for the agent's archive, which takes a while to make, for all tests."""
    directory = Path(tempfile.mkdtemp(prefix="pkengine-test-bundles-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory
