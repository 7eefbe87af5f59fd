"""The rotation of the engine's SSH key, whatever happens to hosts and engine meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from pkengine.engine.events import EventCode
from pkengine.engine.hosts.ssh_key_rotation import SshKeyRotation
from pkengine.engine.model import (
    Host,
    HostSsh,
    HostStatus,
    Job,
    KeyRotationStatus,
    Origin,
    StepStatus,
)
from pkengine.errors import Conflict, DeploymentError, SshError
from pkengine.ssh import SshKeyKind, SshKeyRing
from tests.engine.hosts.fakes import ADMIN, FakeSsh, HostsTestCase

DONE, FAILED, WAITING = (
    KeyRotationStatus.DONE,
    KeyRotationStatus.FAILED,
    KeyRotationStatus.WAITING,
)


class RotationTestCase(HostsTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.exchanged: list[FakeSsh] = []
        self.exchange_outcome: Any = None
        super().setUp()

    def start(self) -> None:
        super().start()
        self.access.replace_ssh_key = self.replace_ssh_key  # type: ignore[attr-defined]
        self.ring = SshKeyRing(self.folder)
        self.rotation = SshKeyRotation(
            ring=self.ring,
            hosts=self.hosts,
            registry=self.registry,
            access=self.access,  # type: ignore[arg-type]
            store=self.store,
            events=self.events,
            jobs=self.jobs,
            clock=self.clock,
        )
        self.now(self.rotation.start())

    def stop(self) -> None:
        self.now(self.rotation.stop())
        super().stop()

    async def replace_ssh_key(self, connection: FakeSsh) -> None:
        outcome = self.exchange_outcome
        if isinstance(outcome, list):
            outcome = outcome.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, Deferred):
            await outcome
        self.exchanged.append(connection)

    def rotate(self, kind: SshKeyKind | None = None, origin: Origin = ADMIN) -> Job:
        job: Job = self.now(self.rotation.rotate(kind, origin))
        return job

    def job(self, job: Job) -> Job:
        now: Job = self.now(self.jobs.get(job.id))
        return now

    def outcomes(self) -> dict[str, KeyRotationStatus]:
        state = self.now(self.rotation.state())
        return {host.host_name: host.status for host in state.hosts}

    def sentences(self, code: EventCode) -> list[str]:
        events = self.now(self.events.list(limit=None, newest_first=False))
        return [event.description for event in events if event.code == code]

    def public(self) -> list[str]:
        return [str(identity.public) for identity in self.ring.identities]

    def lose(self, host: Host) -> None:
        """End the connection to a host's agent, and let it answer again."""
        self.access.channels[-1].lose()
        self.assertEqual(HostStatus.CONNECTING, self.status(host.id))
        self.clock.pump([1.0] * 5)
        self.assertEqual(HostStatus.UP, self.status(host.id))


class RunTests(RotationTestCase):
    def test_without_hosts_the_key_is_just_another_one(self) -> None:
        (old,) = self.public()
        job = self.rotate()
        self.assertEqual(StepStatus.FINISHED, self.job(job).status)
        (new,) = self.public()
        self.assertNotEqual(old, new)

    def test_every_host_is_a_step_and_in_the_end_the_old_key_is_gone(self) -> None:
        self.add("h1")
        self.add("h2")
        (old,) = self.public()
        job = self.job(self.rotate(SshKeyKind.RSA))
        self.assertEqual(StepStatus.FINISHED, job.status)
        self.assertEqual(
            {("Host h1", StepStatus.FINISHED), ("Host h2", StepStatus.FINISHED)},
            {(step.description, step.status) for step in job.steps},
        )
        (new,) = self.public()
        self.assertTrue(new.startswith("ssh-rsa "))
        self.assertEqual([new], [str(i.public) for i in SshKeyRing(self.folder).identities])
        (started,) = self.sentences(EventCode.ENGINE_KEY_ROTATION_STARTED)
        self.assertIn("by admin@internal", started)
        self.assertIn(old.split()[0], started)
        (finished,) = self.sentences(EventCode.ENGINE_KEY_ROTATION_FINISHED)
        self.assertIn("All 2 hosts", finished)
        self.assertTrue(all(not connection.is_open for connection in self.access.connections))

    def test_a_host_without_a_known_ssh_server_is_in_nobodys_way(self) -> None:
        self.add("h1")
        joined = self.add("h2")
        bare = HostSsh(port=joined.ssh.port, user=joined.ssh.user)
        self.now(self.registry.change(joined.id, lambda host: replace(host, ssh=bare)))
        job = self.job(self.rotate())
        self.assertEqual(StepStatus.FINISHED, job.status)
        self.assertEqual(["Host h1"], [step.description for step in job.steps])

    def test_no_login_of_a_rotation_is_by_a_password(self) -> None:
        self.add("h1")
        self.rotate()
        *_, password, use_key = self.access.logins[-1]
        self.assertEqual((None, True), (password, use_key))

    def test_one_that_fails_keeps_both_keys_and_is_done_the_next_time(self) -> None:
        self.add("h1")
        self.add("h2")
        self.exchange_outcome = [None, DeploymentError("login", "It refuses the key.")]
        job = self.job(self.rotate())
        self.assertEqual(StepStatus.FAILED, job.status)
        self.assertEqual({DONE, FAILED}, set(self.outcomes().values()))
        self.assertEqual(2, len(self.public()))
        (failed, left) = self.sentences(EventCode.ENGINE_KEY_ROTATION_FAILED)
        self.assertIn("It refuses the key.", failed)
        self.assertIn("Both keys stay valid", left)

        before, self.exchange_outcome = self.public(), None
        again = self.job(self.rotate())
        self.assertEqual(StepStatus.FINISHED, again.status)
        self.assertEqual(1, len(again.steps))
        self.assertEqual(before[:1], self.public())
        self.assertEqual(1, len(self.sentences(EventCode.ENGINE_KEY_ROTATION_STARTED)))

    def test_two_at_once_are_refused_and_so_is_another_type_before_the_end(self) -> None:
        self.add("h1")
        self.exchange_outcome = Deferred()
        self.rotate()
        text = self.refusal(self.rotation.rotate(None, ADMIN), Conflict)
        self.assertIn("just now", text)
        self.exchange_outcome.errback(SshError("It went away."))
        text = self.refusal(self.rotation.rotate(SshKeyKind.RSA, ADMIN), Conflict)
        self.assertIn("already", text)

    def test_a_bug_on_one_host_is_told_and_stops_nothing(self) -> None:
        self.add("h1")
        self.add("h2")
        self.exchange_outcome = [RuntimeError("a bug"), None]
        self.rotate()
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual({DONE, FAILED}, set(self.outcomes().values()))

    def test_a_host_that_is_added_meanwhile_is_done_too(self) -> None:
        self.add("h1")
        waiting: Deferred[None] = Deferred()
        self.exchange_outcome = [waiting, None]
        job = self.rotate()
        self.add("h2")
        waiting.callback(None)
        self.assertEqual(StepStatus.FINISHED, self.job(job).status)
        self.assertEqual(2, len(self.exchanged))

    def test_a_host_that_is_removed_meanwhile_keeps_nothing_up(self) -> None:
        host = self.add("h1", activate=False)
        waiting: Deferred[None] = Deferred()
        self.exchange_outcome = waiting
        job = self.rotate()
        self.now(self.registry.delete(host.id, lambda _: []))
        waiting.callback(None)
        self.assertEqual(StepStatus.FINISHED, self.job(job).status)
        self.assertEqual(1, len(self.public()))

    def test_a_host_that_is_being_installed_is_done_after_that(self) -> None:
        self.access.deploy_outcome = Deferred()
        host = self.add("h1")
        job = self.rotate()
        self.assertEqual(StepStatus.FAILED, self.job(job).status)
        self.assertEqual([], self.exchanged)
        self.access.deploy_outcome.callback(None)
        self.assertEqual(HostStatus.UP, self.status(host.id))
        self.assertEqual(1, len(self.exchanged))
        self.assertEqual(1, len(self.public()))

    def test_a_host_that_is_up_again_is_tried_again(self) -> None:
        host = self.add("h1")
        self.exchange_outcome = SshError("It went away.")
        self.rotate()
        self.assertEqual({"h1": FAILED}, self.outcomes())
        self.exchange_outcome = None
        self.lose(host)
        self.assertEqual(1, len(self.public()))

    def test_a_host_that_fails_whenever_it_is_up_is_not_tried_without_end(self) -> None:
        host = self.add("h1")
        self.exchange_outcome = SshError("It went away.")
        self.rotate()
        for _ in range(3):
            self.lose(host)
        jobs = [j for j in self.now(self.jobs.list()) if j.description.startswith("Rotating")]
        self.assertEqual(4, len(jobs))


class EndTests(RotationTestCase):
    def test_the_old_key_is_given_up_by_force_and_the_hosts_are_named(self) -> None:
        self.add("h1")
        self.exchange_outcome = SshError("It went away.")
        self.rotate()
        new, _ = self.public()
        self.now(self.rotation.discard_old(ADMIN))
        self.assertEqual([new], self.public())
        (text,) = self.sentences(EventCode.ENGINE_KEY_DISCARDED)
        self.assertIn("Host h1", text)
        self.refusal(self.rotation.discard_old(ADMIN), Conflict)

    def test_giving_up_the_old_key_ends_a_run(self) -> None:
        self.add("h1")
        self.exchange_outcome = Deferred()
        job = self.rotate()
        self.now(self.rotation.discard_old(ADMIN))
        self.assertEqual(StepStatus.ABORTED, self.job(job).status)
        self.assertEqual(1, len(self.public()))

    def test_a_new_rotation_begins_with_nobody_done(self) -> None:
        self.add("h1")
        self.rotate()
        self.exchange_outcome = Deferred()
        self.rotate()
        self.assertEqual({"h1": WAITING}, self.outcomes())
        self.exchange_outcome.callback(None)


class RestartTests(RotationTestCase):
    def test_an_engine_that_was_stopped_goes_on_with_what_is_left(self) -> None:
        self.add("h1")
        self.add("h2")
        self.exchange_outcome = [None, Deferred()]
        self.rotate()
        self.assertEqual({DONE, WAITING}, set(self.outcomes().values()))
        before = self.public()
        self.stop()
        self.exchanged.clear()
        self.exchange_outcome = None
        self.start()
        self.assertEqual(1, len(self.exchanged))
        self.assertEqual(before[:1], self.public())

    def test_wherever_an_engine_dies_the_next_one_completes_it(self) -> None:
        """A death is a write to the database that never happens, and neither does the rest."""
        graves: list[Deferred[Any]] = []
        self.add("h1")
        for deadly in range(1, 40):
            writes, real = 0, self.store.write
            dead: Deferred[Any] = Deferred()
            graves.append(dead)  # what waits for it must not be collected, and so go on

            async def write(
                *args: Any, real: Any = real, deadly: int = deadly, dead: Any = dead, **more: Any
            ) -> Any:
                nonlocal writes
                writes += 1
                if writes >= deadly:
                    await dead
                return await real(*args, **more)

            self.store.write = write  # type: ignore[method-assign]
            (old,) = self.public()
            Deferred.fromCoroutine(self.rotation.rotate(None, ADMIN)).addErrback(lambda _: None)
            is_over = writes < deadly
            self.store.write = real  # type: ignore[method-assign]
            self.crash()
            if len(self.public()) == 2:
                self.rotate()
            self.assertEqual(1, len(self.public()), f"after write {deadly}")
            self.assertNotEqual([old], self.public())
            if is_over:
                return
        self.fail("It never ends.")
