"""Hosts are added and installed."""

from __future__ import annotations

import uuid
from dataclasses import replace

from twisted.internet.defer import Deferred

from pkengine.engine.model import (
    HostKeySource,
    HostStatus,
    NewHost,
    Origin,
    Severity,
    SshAuthenticationMethod,
    SshLogin,
    StepStatus,
)
from pkengine.errors import (
    BadRequest,
    ChannelError,
    Conflict,
    DeploymentError,
    HostKeyMismatch,
    HostUnreachable,
    NotFound,
    SshAuthenticationFailed,
)
from pkengine.keys import Pin, Secret
from tests.engine.hosts.fakes import ADMIN, AGENT_PIN, HOST_KEY, OTHER_KEY, PASSWORD, HostsTestCase
from tests.engine.hosts.keys import keys_of


class AddTests(HostsTestCase):
    def test_a_host_is_added_installed_proved_and_then_up(self) -> None:
        self.access.deploy_outcome = Deferred()
        host = self.add()
        self.assertEqual(self.status(host.id), HostStatus.INSTALLING)
        self.assertEqual(list(self.trust.peers()), [])
        self.access.deploy_outcome.callback(None)
        host = self.now(self.hosts.get(host.id))
        self.assertEqual(host.status, HostStatus.UP)
        self.assertEqual(keys_of(host), (AGENT_PIN,))
        self.assertEqual(self.trust.lookup(AGENT_PIN).name, str(host.id))
        self.assertEqual(host.capabilities.hostname, "h1")
        self.assertEqual(host.agent_version, "0.1")
        self.assertEqual(self.codes(), [42, 509, 504, 13])
        self.assertFalse(self.access.connections[0].is_open)
        self.assertFalse(self.access.new_channels[0].is_open)

    def test_a_host_that_is_not_to_be_activated_ends_in_maintenance_without_a_connection(
        self,
    ) -> None:
        host = self.add(activate=False)
        self.assertEqual(self.status(host.id), HostStatus.MAINTENANCE)
        self.assertEqual(self.access.channels, [])

    def test_the_job_shows_the_steps_and_ends(self) -> None:
        new = NewHost(name="h1", address="192.0.2.1", ssh=SshLogin(password=Secret(PASSWORD)))
        _, job = self.now(self.hosts.admission.add(new, ADMIN))
        job = self.now(self.jobs.get(job.id))
        self.assertEqual(job.status, StepStatus.FINISHED)
        self.assertEqual(
            [(s.name, s.status, s.progress) for s in job.steps],
            [("upload", StepStatus.FINISHED, 100)],
        )
        self.assertEqual(job.correlation_id, "c-1")

    def test_events_say_who_asked_and_name_the_host(self) -> None:
        host = self.add()
        event = self.now(self.events.list(newest_first=False))[0]
        self.assertEqual((event.host_id, event.host_name), (host.id, "h1"))
        self.assertEqual((event.user, event.correlation_id), ("admin@internal", "c-1"))
        self.assertIn("by admin@internal", event.description)

    def test_a_refused_login_leaves_an_event_and_no_host(self) -> None:
        for error in (
            HostUnreachable("No answer."),
            HostKeyMismatch("Expected A, found B."),
            SshAuthenticationFailed("Refused."),
        ):
            self.access.log_in_outcome = error
            new = NewHost(name="h1", address="h1", ssh=SshLogin(password=Secret(PASSWORD)))
            said = self.refusal(self.hosts.admission.add(new, ADMIN), type(error))
            self.assertEqual(self.log()[-1], (104, f"Failed to add Host h1. {said}"))
        self.assertEqual(self.now(self.hosts.list()), [])
        self.assertEqual(self.now(self.jobs.list()), [])

    def test_the_given_fingerprint_is_what_the_host_key_is_judged_by(self) -> None:
        fingerprint = HOST_KEY.fingerprint("MD5")
        host = self.add(ssh=SshLogin(password=Secret(PASSWORD), fingerprint=fingerprint))
        self.assertEqual(self.access.logins[0][1].given, fingerprint)
        self.assertEqual(host.ssh.key_source, HostKeySource.GIVEN_FINGERPRINT)
        self.assertEqual(host.ssh.public_key, HOST_KEY)
        self.assertEqual(host.ssh.fingerprint, fingerprint)

    def test_trust_on_first_use_is_recorded_as_such_and_warned_about(self) -> None:
        host = self.add()
        self.assertEqual(host.ssh.key_source, HostKeySource.FIRST_USE)
        event = self.now(self.events.list(newest_first=False))[0]
        self.assertEqual(event.severity, Severity.WARNING)
        self.assertIn(str(HOST_KEY.fingerprint()), event.description)

    def test_without_a_password_the_engine_logs_in_by_its_key(self) -> None:
        self.add(ssh=SshLogin())
        self.assertEqual(self.access.logins[0][2:], (None, True))

    def test_password_authentication_without_a_password_is_refused(self) -> None:
        login = SshLogin(authentication_method=SshAuthenticationMethod.PASSWORD)
        new = NewHost(name="h1", address="h1", ssh=login)
        self.assertIn(
            "no password", self.refusal(self.hosts.admission.add(new, ADMIN), BadRequest)
        )
        self.assertEqual(self.access.logins, [])

    def test_malformed_requests_are_refused_before_anything_is_sent(self) -> None:
        good = NewHost(name="h1", address="h1")
        for bad in (
            replace(good, name=""),
            replace(good, name="a b"),
            replace(good, address="-x"),
            replace(good, address="a\nb"),
            replace(good, address="x" * 64),
            replace(good, port=0),
            replace(good, port=65536),
            replace(good, ssh=SshLogin(port=-1)),
            replace(good, ssh=SshLogin(user="root -oProxyCommand=x")),
            replace(good, ssh=SshLogin(user="-x")),
            replace(good, comment="x" * 10_001),
            replace(
                good,
                ssh=SshLogin(public_key=HOST_KEY, fingerprint=OTHER_KEY.fingerprint()),
            ),
        ):
            self.refusal(self.hosts.admission.add(bad, ADMIN), BadRequest)
        unknown = replace(good, cluster_id=uuid.uuid4())
        self.refusal(self.hosts.admission.add(unknown, ADMIN), NotFound)
        self.assertEqual(self.access.logins, [])

    def test_a_taken_name_or_address_is_refused_before_the_login(self) -> None:
        self.add("h1", address="2001:db8:0:0::1")
        for name, address in (("h1", "other"), ("h2", "[2001:DB8::1]")):
            new = NewHost(name=name, address=address)
            self.refusal(self.hosts.admission.add(new, ADMIN), Conflict)
        self.assertEqual(len(self.access.logins), 1)

    def test_names_differ_by_case(self) -> None:
        self.add("h1", address="a")
        self.access.pin = Pin(b"\x03" * 32)
        self.add("H1", address="b")
        self.assertEqual([host.name for host in self.now(self.hosts.list())], ["H1", "h1"])

    def test_of_two_adds_of_an_address_at_once_one_wins(self) -> None:
        self.access.log_in_outcome = Deferred()
        first = Deferred.fromCoroutine(
            self.hosts.admission.add(NewHost(name="h1", address="192.0.2.1"), ADMIN)
        )
        second = NewHost(name="h2", address="192.0.2.1")
        self.refusal(self.hosts.admission.add(second, ADMIN), Conflict)
        self.assertEqual(len(self.access.logins), 1)
        self.access.log_in_outcome.callback(None)
        self.successResultOf(first)
        self.assertEqual([host.name for host in self.now(self.hosts.list())], ["h1"])

    def test_another_engine_that_was_quicker_wins_and_the_connection_is_closed(self) -> None:
        self.access.log_in_outcome = Deferred()
        adding = Deferred.fromCoroutine(
            self.hosts.admission.add(NewHost(name="h1", address="192.0.2.1"), ADMIN)
        )
        # The database learns of it behind the back of this engine.
        cluster = self.now(self.hosts._clusters.default())
        from pkengine.engine.hosts import request

        rival = request.new_host(NewHost(name="h1", address="192.0.2.2"), cluster.id)
        self.now(self.registry.insert(rival, lambda host: [], also=lambda connection: None))
        self.access.log_in_outcome.callback(None)
        self.failureResultOf(adding, Conflict)
        self.assertFalse(self.access.connections[0].is_open)
        self.assertEqual([h.id for h in self.now(self.hosts.list())], [rival.id])

    def test_a_client_that_gives_up_during_the_login_leaves_nothing(self) -> None:
        self.access.log_in_outcome = Deferred()
        adding = Deferred.fromCoroutine(
            self.hosts.admission.add(NewHost(name="h1", address="192.0.2.1"), ADMIN)
        )
        adding.addErrback(lambda failure: None)
        adding.cancel()
        self.assertEqual(self.now(self.hosts.list()), [])
        self.access.log_in_outcome = None
        self.add("h1", address="192.0.2.1")

    def test_a_machine_that_is_already_a_host_is_not_trusted_twice(self) -> None:
        first = self.add("h1")
        second = self.add("h2")
        self.assertEqual(self.status(second.id), HostStatus.INSTALL_FAILED)
        self.assertIn("has the key of Host h1", self.log()[-1][1])
        self.assertEqual(self.trust.lookup(AGENT_PIN).name, str(first.id))

    def test_a_reboot_is_refused_for_it_would_not_happen(self) -> None:
        new = NewHost(name="h1", address="h1", reboot=True)
        self.refusal(self.hosts.admission.add(new, ADMIN), BadRequest)


class FailedInstallationTests(HostsTestCase):
    def assertFailed(self, host_id: uuid.UUID, reason: str) -> None:
        host = self.now(self.hosts.get(host_id))
        self.assertEqual(host.status, HostStatus.INSTALL_FAILED)
        self.assertEqual(host.keys, ())
        self.assertIn(reason, host.status_detail)
        self.assertEqual(list(self.trust.peers()), [])
        code, text = self.log()[-1]
        self.assertEqual(code, 505)
        self.assertIn(reason, text)
        self.assertEqual(self.access.channels, [])

    def test_a_step_that_fails_leaves_nothing_trusted(self) -> None:
        self.access.deploy_outcome = DeploymentError("upload", "The disk is full.")
        host = self.add()
        self.assertFailed(host.id, "Step 'upload': The disk is full.")
        (job,) = self.now(self.jobs.list())
        self.assertEqual(job.status, StepStatus.FAILED)
        self.assertEqual([step.status for step in job.steps], [StepStatus.FAILED])
        self.assertFalse(self.access.connections[0].is_open)

    def test_an_agent_that_does_not_prove_its_key_is_not_trusted(self) -> None:
        self.access.connect_to_new_outcome = ChannelError("No channel.")
        self.assertFailed(self.add().id, "No channel.")

    def test_a_bug_is_logged_and_leaves_nothing_trusted(self) -> None:
        self.access.deploy_outcome = ZeroDivisionError("secret detail")
        self.assertFailed(self.add().id, "ZeroDivisionError")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertNotIn("secret detail", str(self.log()))

    def test_a_failed_host_can_be_installed_again_by_the_key(self) -> None:
        self.access.deploy_outcome = DeploymentError("upload", "Cut off.")
        host = self.add()
        self.access.deploy_outcome = None
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN, activate=True))
        self.assertEqual(self.status(host.id), HostStatus.UP)
        _, policy, password, use_key = self.access.logins[-1]
        self.assertEqual((policy.stored, password, use_key), ((HOST_KEY,), None, True))

    def test_an_engine_that_stops_ends_the_installation_as_interrupted(self) -> None:
        self.access.deploy_outcome = Deferred()
        host = self.add()
        self.now(self.hosts.stop())
        self.assertFailed(host.id, "interrupted")
        self.assertFalse(self.access.connections[0].is_open)
        self.assertEqual(self.now(self.jobs.list())[0].status, StepStatus.ABORTED)

    def test_an_engine_that_was_killed_finds_the_installation_interrupted(self) -> None:
        self.access.deploy_outcome = Deferred()
        host = self.add()
        self.crash()
        self.assertFailed(host.id, "interrupted")
        self.assertEqual(self.now(self.jobs.list())[0].status, StepStatus.ABORTED)
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN, activate=True))
        self.assertEqual(self.status(host.id), HostStatus.UP)


class InstallTests(HostsTestCase):
    def test_installing_again_trusts_nothing_until_it_is_over(self) -> None:
        host = self.add(activate=False)
        self.access.deploy_outcome = Deferred()
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        self.assertEqual(self.status(host.id), HostStatus.INSTALLING)
        self.assertIsNone(self.trust.lookup(AGENT_PIN))
        self.access.pin = Pin(b"\x07" * 32)
        self.access.deploy_outcome.callback(None)
        host = self.now(self.hosts.get(host.id))
        self.assertEqual(
            (host.status, keys_of(host)), (HostStatus.MAINTENANCE, (self.access.pin,))
        )
        self.assertIsNone(self.trust.lookup(AGENT_PIN))

    def test_a_host_that_is_up_is_not_installed(self) -> None:
        host = self.add()
        said = self.refusal(self.hosts.admission.install(host.id, SshLogin(), ADMIN), Conflict)
        self.assertIn("Maintenance mode first", said)
        self.assertEqual(len(self.access.logins), 1)

    def test_a_refused_login_leaves_the_host_as_it_was(self) -> None:
        host = self.add(activate=False)
        self.access.log_in_outcome = HostKeyMismatch("Another key.")
        self.refusal(self.hosts.admission.install(host.id, SshLogin(), ADMIN), HostKeyMismatch)
        after = self.now(self.hosts.get(host.id))
        self.assertEqual((after.status, keys_of(after)), (HostStatus.MAINTENANCE, (AGENT_PIN,)))

    def test_a_new_fingerprint_given_for_the_installation_replaces_the_stored_key(self) -> None:
        host = self.add(activate=False)
        login = SshLogin(fingerprint=OTHER_KEY.fingerprint())
        self.now(self.hosts.admission.install(host.id, login, ADMIN))
        policy = self.access.logins[-1][1]
        self.assertEqual((policy.given, policy.stored), (OTHER_KEY.fingerprint(), ()))

    def test_two_installations_at_once_are_one(self) -> None:
        host = self.add(activate=False)
        self.access.log_in_outcome = Deferred()
        first = Deferred.fromCoroutine(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        self.refusal(self.hosts.admission.install(host.id, SshLogin(), ADMIN), Conflict)
        self.access.log_in_outcome.callback(None)
        self.successResultOf(first)

    def test_a_password_with_publickey_is_for_sudo(self) -> None:
        login = SshLogin(
            user="ops",
            password=Secret(PASSWORD),
            authentication_method=SshAuthenticationMethod.PUBLIC_KEY,
        )
        self.add(ssh=login)
        _, _, password, use_key = self.access.logins[0]
        self.assertEqual((password, use_key), (Secret(PASSWORD), True))


class SecrecyTests(HostsTestCase):
    def test_a_password_is_never_on_disk(self) -> None:
        self.add()
        self.access.log_in_outcome = SshAuthenticationFailed("Refused.")
        new = NewHost(name="h2", address="h2", ssh=SshLogin(password=Secret(PASSWORD)))
        self.refusal(self.hosts.admission.add(new, Origin()), SshAuthenticationFailed)
        self.assertEqual(self.access.logins[-1][2], Secret(PASSWORD))
        files = list(self.path.parent.glob(self.path.name + "*"))
        self.assertGreaterEqual(len(files), 1)
        for file in files:
            self.assertNotIn(PASSWORD.encode(), file.read_bytes())
