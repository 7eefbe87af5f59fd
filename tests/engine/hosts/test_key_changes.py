"""Hosts that show another SSH key: what is kept, who decides, and what the events tell."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pkengine.engine.events import TRUST_DECISIONS, EventCode
from pkengine.engine.model import (
    Host,
    HostChange,
    HostKeySource,
    HostStatus,
    KeyChange,
    NewHost,
    Origin,
    Severity,
    SshLogin,
)
from pkengine.errors import (
    Conflict,
    HostKeyMismatch,
    HostKeyRefused,
    HostKeyTypeUnavailable,
    HostUnreachable,
    NotFound,
    SshError,
)
from pkengine.keys import Pin, Secret, SshFingerprint, SshPublicKey
from pkengine.ssh import HostKeyUpdate
from tests.engine.hosts.fakes import ADMIN, HOST_KEY, PASSWORD, HostsTestCase

NEW_KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"
)
NEW_RSA_KEY = SshPublicKey(
    "ssh-rsa", b"\x00\x00\x00\x07ssh-rsa\x00\x00\x00\x03\x01\x00\x01\x00\x00\x00\x01\x7f"
)
OTHER = Origin(user="eve@internal", address="192.0.2.66", correlation_id="c-2")
MISMATCH = HostKeyMismatch("Expected A, found B.", [str(NEW_KEY)])


class KeyChangesTestCase(HostsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.host: Host = self.now(self.hosts.get(self.add(activate=False).id))

    def meet(self, *keys: SshPublicKey, error: Exception = MISMATCH) -> str:
        """Let the host show other keys when it is installed; give the refusal."""
        self.access.log_in_outcome = error
        self.access.offered = list(keys) or [NEW_KEY, NEW_RSA_KEY]
        said = self.refusal(
            self.hosts.admission.install(self.host.id, SshLogin(), ADMIN), type(error)
        )
        self.access.log_in_outcome = None
        return said

    def pending(self) -> KeyChange:
        change: KeyChange = self.now(self.hosts.key_changes.get(self.host.id))
        return change

    def assert_nothing_is_pending(self) -> None:
        self.refusal(self.hosts.key_changes.get(self.host.id), NotFound)
        self.assertEqual(self.now(self.hosts.key_changes.list()), [])

    def stored(self) -> Host:
        host: Host = self.now(self.hosts.get(self.host.id))
        return host

    def last_event(self, *, but_one: bool = False) -> tuple[int, Severity, str]:
        event = self.now(self.events.list(limit=2))[1 if but_one else 0]
        return event.code, event.severity, event.description


class DetectionTests(KeyChangesTestCase):
    def test_what_was_found_is_kept_beside_what_was_expected(self) -> None:
        said = self.meet()
        self.assertTrue(said.startswith("Expected A, found B. "), said)
        self.assertIn("pending key change", said)
        change = self.pending()
        self.assertEqual(change.old_key, HOST_KEY)
        self.assertEqual(set(change.new_keys), {NEW_KEY, NEW_RSA_KEY})
        self.assertEqual((change.operation, change.user), ("install", "admin@internal"))
        self.assertEqual(change.seen_at, "h1.example.org port 22")
        self.assertEqual(self.stored(), self.host)

    def test_the_event_names_all_keys_and_who_asked(self) -> None:
        self.meet()
        code, severity, text = self.last_event(but_one=True)
        self.assertEqual((code, severity), (13001, Severity.ALERT))
        for key in (HOST_KEY, NEW_KEY, NEW_RSA_KEY):
            self.assertIn(f"{key.key_type} {key.fingerprint()}", text)
        self.assertIn("'install' by admin@internal was refused", text)

    def test_the_same_keys_again_are_counted_and_not_kept_twice(self) -> None:
        self.meet()
        first = self.pending()
        self.clock.advance(60)
        self.meet()
        again = self.pending()
        self.assertEqual(again.times_seen, 2)
        self.assertEqual(again.first_seen, first.first_seen)
        self.assertEqual((again.last_seen - first.last_seen).total_seconds(), 60)
        self.assertEqual(len(self.now(self.hosts.key_changes.list())), 1)
        self.assertEqual(self.codes().count(13001), 2)

    def test_yet_other_keys_take_the_place_of_the_first(self) -> None:
        self.meet()
        self.clock.advance(60)
        self.meet(NEW_KEY)
        change = self.pending()
        self.assertEqual((change.new_keys, change.times_seen), ((NEW_KEY,), 1))
        self.assertEqual(change.first_seen, change.last_seen)

    def test_a_host_without_a_key_of_the_stored_type_shows_what_it_has(self) -> None:
        self.meet(NEW_RSA_KEY, error=HostKeyTypeUnavailable("It has RSA only."))
        self.assertEqual(self.pending().new_keys, (NEW_RSA_KEY,))

    def test_keys_that_can_no_longer_be_fetched_do_not_hide_the_one_that_was_shown(self) -> None:
        self.access.host_keys_outcome = HostUnreachable("Gone.")
        self.meet()
        self.assertEqual(self.pending().new_keys, (NEW_KEY,))

    def test_a_host_of_which_no_key_is_found_is_told_of_by_an_event_alone(self) -> None:
        self.access.host_keys_outcome = HostUnreachable("Gone.")
        said = self.meet(error=HostKeyTypeUnavailable("It has RSA only."))
        self.assertEqual(said, "It has RSA only.")
        self.assert_nothing_is_pending()
        code, _, text = self.last_event(but_one=True)
        self.assertEqual(code, 13001)
        self.assertIn("It has RSA only.", text)

    def test_a_wrong_fingerprint_for_a_host_that_shows_its_stored_key_is_no_change(self) -> None:
        before = self.codes()
        self.meet(HOST_KEY, error=HostKeyMismatch("Given F, found H.", [str(HOST_KEY)]))
        self.assert_nothing_is_pending()
        self.assertEqual(self.codes(), [*before, EventCode.DECISION_REFUSED])

    def test_a_machine_behind_the_address_with_the_stored_key_does_not_excuse_another(
        self,
    ) -> None:
        self.meet(HOST_KEY)
        self.assertEqual(self.pending().new_keys, (NEW_KEY,))

    def test_a_host_that_is_being_added_has_no_key_that_could_change(self) -> None:
        self.access.log_in_outcome = MISMATCH
        self.refusal(
            self.hosts.admission.add(NewHost(name="h2", address="h2"), ADMIN), HostKeyMismatch
        )
        self.assertEqual(self.now(self.hosts.key_changes.list()), [])

    def test_a_client_that_gives_up_meanwhile_leaves_nothing_half(self) -> None:
        self.access.log_in_outcome = MISMATCH
        self.access.host_keys_outcome = Deferred()
        work = Deferred.fromCoroutine(
            self.hosts.admission.install(self.host.id, SshLogin(), ADMIN)
        )
        work.addErrback(lambda failure: None)
        work.cancel()
        self.assert_nothing_is_pending()
        self.access.host_keys_outcome = None
        self.meet()
        self.pending()

    def test_it_outlives_the_engine_and_ends_with_the_host(self) -> None:
        self.meet()
        change = self.pending()
        self.crash()
        self.assertEqual(self.pending(), change)
        self.now(self.hosts.maintenance.remove(self.host.id, ADMIN))
        self.assertEqual(self.now(self.hosts.key_changes.list()), [])


class LaterOperationTests(KeyChangesTestCase):
    def test_other_operations_by_ssh_keep_what_they_meet_too(self) -> None:
        self.access.log_in_outcome = MISMATCH
        self.refusal(self.hosts.upgrades.upgrade(self.host.id, SshLogin(), ADMIN), HostKeyMismatch)
        self.assertEqual(self.pending().operation, "upgrade")

    def test_a_login_by_the_stored_key_settles_what_was_pending(self) -> None:
        self.meet()
        self.now(self.hosts.logins.log_in(self.stored(), SshLogin(), "upgrade", ADMIN))
        self.assert_nothing_is_pending()
        self.assertEqual(self.last_event()[0], 13004)


class ApprovalTests(KeyChangesTestCase):
    def test_the_approved_key_is_stored_and_says_so_and_the_host_installs_again(self) -> None:
        self.meet()
        host = self.now(self.hosts.key_changes.approve(self.host.id, NEW_KEY.fingerprint(), OTHER))
        self.assertEqual(host.ssh.public_key, NEW_KEY)
        self.assertEqual(host.ssh.fingerprint, NEW_KEY.fingerprint())
        self.assertEqual(host.ssh.key_source, HostKeySource.APPROVED)
        self.assertEqual(host.status, HostStatus.MAINTENANCE)
        self.assert_nothing_is_pending()
        code, severity, text = self.last_event()
        self.assertEqual((code, severity), (13002, Severity.WARNING))
        for part in (str(NEW_KEY.fingerprint()), str(HOST_KEY.fingerprint()), "by eve@internal"):
            self.assertIn(part, text)
        self.now(self.hosts.admission.install(self.host.id, SshLogin(), ADMIN))
        policy = self.access.logins[-1][1]
        self.assertEqual((policy.given, policy.stored), (None, (NEW_KEY,)))

    def test_any_of_the_found_keys_can_be_approved_also_by_its_md5(self) -> None:
        self.meet()
        fingerprint = NEW_RSA_KEY.fingerprint("MD5")
        host = self.now(self.hosts.key_changes.approve(self.host.id, fingerprint, ADMIN))
        self.assertEqual(host.ssh.public_key, NEW_RSA_KEY)

    def test_a_fingerprint_that_was_not_found_approves_nothing(self) -> None:
        self.meet()
        for fingerprint in (HOST_KEY.fingerprint(), SshFingerprint("SHA256", bytes(32))):
            said = self.refusal(
                self.hosts.key_changes.approve(self.host.id, fingerprint, ADMIN), Conflict
            )
            self.assertIn(str(fingerprint), said)
            self.assertIn(str(NEW_KEY.fingerprint()), said)
        self.pending()
        self.assertEqual(self.stored(), self.host)

    def test_nothing_can_be_approved_where_nothing_is_pending(self) -> None:
        decide = self.hosts.key_changes
        self.refusal(decide.approve(self.host.id, NEW_KEY.fingerprint(), ADMIN), NotFound)
        self.refusal(decide.reject(self.host.id, ADMIN), NotFound)

    def test_a_host_that_is_being_logged_in_to_is_not_decided_on(self) -> None:
        self.meet()
        self.access.log_in_outcome = Deferred()
        work = Deferred.fromCoroutine(
            self.hosts.admission.install(self.host.id, SshLogin(), ADMIN)
        )
        decide = self.hosts.key_changes
        self.refusal(decide.approve(self.host.id, NEW_KEY.fingerprint(), ADMIN), Conflict)
        self.refusal(decide.reject(self.host.id, ADMIN), Conflict)
        self.access.log_in_outcome.callback(None)
        self.successResultOf(work)

    def test_what_another_engine_has_just_seen_is_not_approved_with_it(self) -> None:
        from pkengine.engine.store import key_changes as queries

        self.meet(NEW_KEY)
        pending, change = self.pending(), self.registry.change

        async def change_behind_its_back(*args: object, **options: object) -> Host:
            rival = KeyChange(
                **{name: getattr(pending, name) for name in KeyChange.__slots__}
                | {"new_keys": (NEW_RSA_KEY,)}
            )
            await self.store.write(queries.replace_key_change, rival)
            return await change(*args, **options)  # type: ignore[arg-type]

        self.patch(self.registry, "change", change_behind_its_back)
        said = self.refusal(
            self.hosts.key_changes.approve(self.host.id, NEW_KEY.fingerprint(), ADMIN), Conflict
        )
        self.assertIn("look at it again", said)
        self.assertEqual(self.stored(), self.host)

    def test_rejecting_keeps_the_stored_key_and_tells_of_it(self) -> None:
        self.meet()
        self.now(self.hosts.key_changes.reject(self.host.id, OTHER))
        self.assert_nothing_is_pending()
        self.assertEqual(self.stored(), self.host)
        code, _, text = self.last_event()
        self.assertEqual(code, 13003)
        self.assertIn("rejected by eve@internal", text)
        self.assertIn(str(NEW_RSA_KEY.fingerprint()), text)

    def test_each_decision_is_in_the_audit_log(self) -> None:
        for code in EventCode:
            if 13000 < code < 13100:
                self.assertIn(code, TRUST_DECISIONS)


class SettlementTests(KeyChangesTestCase):
    def test_the_stored_key_shown_again_closes_the_change_and_warns(self) -> None:
        self.meet()
        self.now(self.hosts.admission.install(self.host.id, SshLogin(), ADMIN))
        self.assert_nothing_is_pending()
        codes = self.codes()
        self.assertEqual(codes[codes.index(13004) :][:2], [13004, 509])

    def test_a_new_key_given_with_an_installation_replaces_and_is_told(self) -> None:
        self.meet()
        self.now(self.hosts.key_changes.approve(self.host.id, NEW_KEY.fingerprint(), ADMIN))
        login = SshLogin(password=Secret(PASSWORD), fingerprint=HOST_KEY.fingerprint())
        self.now(self.hosts.admission.install(self.host.id, login, ADMIN))
        self.assertEqual(self.stored().ssh.public_key, HOST_KEY)
        [text] = [text for code, text in self.log() if code == 13005]
        self.assertIn(f"was ssh-ed25519 {NEW_KEY.fingerprint()}", text)
        self.assertIn(f"is ssh-ed25519 {HOST_KEY.fingerprint()}", text)

    def test_a_new_fingerprint_in_an_update_replaces_and_closes_the_change(self) -> None:
        self.meet()
        change = HostChange(ssh=SshLogin(fingerprint=NEW_KEY.fingerprint()))
        self.now(self.hosts.update(self.host.id, change, ADMIN))
        self.assert_nothing_is_pending()
        self.assertIn(13005, self.codes())
        self.assertNotIn(13004, self.codes())

    def test_an_update_of_something_else_leaves_it_pending(self) -> None:
        self.meet()
        change = HostChange(
            comment="moved", ssh=SshLogin(public_key=HOST_KEY, fingerprint=HOST_KEY.fingerprint())
        )
        self.now(self.hosts.update(self.host.id, change, ADMIN))
        self.pending()
        self.assertNotIn(13005, self.codes())


class RotationTests(HostsTestCase):
    """A host proves other keys by the stored one, and shows one of them in its place later."""

    def learn(self, *keys: SshPublicKey) -> Host:
        self.access.proved = HostKeyUpdate((HOST_KEY, *keys), keys, ())
        host = self.add(activate=False)
        self.access.proved = None
        stored: Host = self.now(self.hosts.get(host.id))
        return stored

    def test_what_it_proves_is_stored_and_told(self) -> None:
        host = self.learn(NEW_RSA_KEY, NEW_KEY)
        self.assertEqual(host.ssh.public_key, HOST_KEY)
        self.assertEqual(set(host.ssh.proved_keys), {NEW_KEY, NEW_RSA_KEY})
        [text] = [text for code, text in self.log() if code == 13007]
        for key in (NEW_KEY, NEW_RSA_KEY):
            self.assertIn(f"{key.key_type} {key.fingerprint()}", text)

    def test_a_key_that_was_proved_is_accepted_later_and_its_rotation_is_told(self) -> None:
        host = self.learn(NEW_KEY)
        self.access.shown = NEW_KEY
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        self.assertEqual(self.access.logins[-1][1].stored, (HOST_KEY, NEW_KEY))
        ssh = self.now(self.hosts.get(host.id)).ssh
        self.assertEqual((ssh.public_key, ssh.fingerprint), (NEW_KEY, NEW_KEY.fingerprint()))
        self.assertEqual(ssh.key_source, HostKeySource.PROVED)
        self.assertNotIn(NEW_KEY, ssh.proved_keys)
        [text] = [text for code, text in self.log() if code == 13006]
        self.assertIn(f"was ssh-ed25519 {HOST_KEY.fingerprint()}", text)
        self.assertIn(f"is ssh-ed25519 {NEW_KEY.fingerprint()}", text)
        self.assertNotIn(13005, self.codes())

    def test_a_key_that_it_has_no_more_is_forgotten(self) -> None:
        host = self.learn(NEW_KEY)
        self.access.proved = HostKeyUpdate((HOST_KEY,), (), (NEW_KEY,))
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        self.assertEqual(self.now(self.hosts.get(host.id)).ssh.proved_keys, ())
        [_, text] = [text for code, text in self.log() if code == 13007]
        self.assertIn("has no more ssh-ed25519", text)

    def test_the_same_keys_again_are_not_told_again(self) -> None:
        host = self.learn(NEW_KEY)
        self.access.proved = HostKeyUpdate((HOST_KEY, NEW_KEY), (), ())
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        self.assertEqual(self.codes().count(13007), 1)

    def test_a_host_that_proves_nothing_is_installed_all_the_same(self) -> None:
        for proved in (None, HostKeyRefused("It did not prove it."), SshError("No answer.")):
            self.access.proved = proved
            name = f"h-{type(proved).__name__}"
            self.access.pin = Pin(name.encode().ljust(32)[:32])
            host = self.now(self.hosts.get(self.add(name, activate=False).id))
            self.assertEqual(host.status, HostStatus.MAINTENANCE)
            self.assertEqual(host.ssh.proved_keys, ())

    def test_another_key_that_is_given_ends_the_trust_in_what_the_old_one_proved(self) -> None:
        host = self.learn(NEW_RSA_KEY)
        for login in (SshLogin(public_key=NEW_KEY), SshLogin(fingerprint=HOST_KEY.fingerprint())):
            change = HostChange(ssh=login)
            self.now(self.hosts.update(host.id, change, ADMIN))
            self.assertEqual(self.now(self.hosts.get(host.id)).ssh.proved_keys, ())

    def test_a_mismatch_keeps_of_the_found_keys_those_that_were_not_proved(self) -> None:
        host = self.learn(NEW_RSA_KEY)
        self.access.log_in_outcome = MISMATCH
        self.access.offered = [NEW_KEY, NEW_RSA_KEY]
        self.refusal(self.hosts.admission.install(host.id, SshLogin(), ADMIN), HostKeyMismatch)
        self.assertEqual(self.now(self.hosts.key_changes.get(host.id)).new_keys, (NEW_KEY,))
        approve = self.hosts.key_changes.approve(host.id, NEW_KEY.fingerprint(), ADMIN)
        self.assertEqual(self.now(approve).ssh.proved_keys, ())
