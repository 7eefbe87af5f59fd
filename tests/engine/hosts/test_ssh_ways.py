"""What keys are compared with beside what is stored of a host, and the machines on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pkengine.engine.events import EventCode
from pkengine.engine.model import (
    Host,
    HostChange,
    HostKeySource,
    HostStatus,
    JumpHost,
    JumpLogin,
    KeyStanding,
    NewHost,
    SshLogin,
)
from pkengine.errors import (
    BadRequest,
    Conflict,
    DnsError,
    HostKeyMismatch,
    HostUnreachable,
    NotFound,
    SshAuthenticationFailed,
)
from pkengine.keys import Secret, SshPublicKey
from pkengine.ssh import HostKeyPolicy, HostKeyUpdate, KnownHosts, SshTarget
from tests.engine.hosts.fakes import ADMIN, HOST_KEY, PASSWORD, HostsTestCase
from tests.engine.hosts.test_key_changes import NEW_KEY, NEW_RSA_KEY

BASTION = JumpHost("bastion.example.org", 2222, "ops")


class WaysTestCase(HostsTestCase):
    def know(self, text: str) -> None:
        lines = KnownHosts.parse(text).lines
        self.now(self.hosts.known_keys.add(lines, ADMIN))

    def known(self) -> list[str]:
        return [str(known.line) for known in self.now(self.hosts.known_keys.list())]

    def added_at(self, address: str, **login: Any) -> tuple[Host, HostKeyPolicy]:
        """Add a host; give it, and what its key was compared with."""
        ssh = SshLogin(password=Secret(PASSWORD), **login)
        host = self.add("h1", address=address, ssh=ssh)
        return self.now(self.hosts.get(host.id)), self.access.logins[-1][1]

    def enter(self, host: Host) -> None:
        """Log in to a known host, as an upgrade does."""
        self.now(self.hosts.logins.log_in(host, SshLogin(), "upgrade", ADMIN))

    def events_of(self, code: EventCode) -> list[str]:
        return [text for found, text in self.log() if found == code]


class KnownKeyTests(WaysTestCase):
    def test_an_imported_key_counts_as_the_one_that_is_expected(self) -> None:
        self.know(f"h1.example.org,192.0.2.1 {HOST_KEY}\nh2.example.org {NEW_KEY}\n")
        host, policy = self.added_at("h1.example.org")
        self.assertEqual(policy.stored, (HOST_KEY,))
        self.assertEqual(host.ssh.key_source, HostKeySource.KNOWN_HOSTS)
        (text,) = self.events_of(EventCode.HOST_ADDED)
        self.assertIn("the one that was known for its address", text)

    def test_what_is_given_or_stored_with_a_host_comes_before_it(self) -> None:
        self.know(f"h1.example.org {NEW_KEY}")
        host, policy = self.added_at("h1.example.org", fingerprint=HOST_KEY.fingerprint())
        self.assertEqual(policy.given, HOST_KEY.fingerprint())
        self.assertEqual(policy.source, "given_fingerprint")
        self.assertEqual(host.ssh.key_source, HostKeySource.GIVEN_FINGERPRINT)
        self.now(self.hosts.maintenance.deactivate(host.id, ADMIN))
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        self.assertEqual(self.access.logins[-1][1].stored, (HOST_KEY,))

    def test_another_port_is_another_host(self) -> None:
        self.know(f"[h1.example.org]:2222 {HOST_KEY}")
        _, policy = self.added_at("h1.example.org")
        self.assertEqual(policy.source, "first_use")
        self.assertEqual(
            self.now(self.hosts._ways.policy(self.host_at("h1.example.org", 2222))).stored,
            (HOST_KEY,),
        )

    def host_at(self, address: str, port: int) -> Host:
        host = self.now(self.registry.list())[0]
        blank = replace(host.ssh, port=port, public_key=None, fingerprint=None, key_source=None)
        return replace(host, address=address, ssh=blank)

    def test_authorities_and_revoked_keys_hold_for_hosts_that_are_there(self) -> None:
        host, policy = self.added_at("h1.example.org")
        self.assertEqual((policy.authorities, policy.revoked), ((), ()))
        self.know(
            f"@cert-authority *.example.org {NEW_KEY}\n@revoked * {NEW_RSA_KEY}\n"
            f"@cert-authority *.example.com {HOST_KEY}\n"
        )
        self.now(self.hosts.maintenance.deactivate(host.id, ADMIN))
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        policy = self.access.logins[-1][1]
        self.assertEqual(policy.stored, (HOST_KEY,))
        self.assertEqual(policy.authorities, (NEW_KEY,))
        self.assertEqual(policy.revoked, (NEW_RSA_KEY,))

    def test_a_key_that_a_certificate_vouches_for_takes_the_place_of_the_stored_one(self) -> None:
        host, _ = self.added_at("h1.example.org")
        self.know(f"@cert-authority *.example.org {NEW_RSA_KEY}")
        self.access.shown, self.access.judged_as = NEW_KEY, "certificate"
        self.enter(host)
        stored = self.now(self.hosts.get(host.id)).ssh
        self.assertEqual(stored.public_key, NEW_KEY)
        self.assertEqual(stored.fingerprint, NEW_KEY.fingerprint())
        self.assertEqual(stored.key_source, HostKeySource.CERTIFICATE)
        (text,) = self.events_of(EventCode.HOST_KEY_ROTATED)
        self.assertIn("vouched for by a certificate", text)

    def test_a_revoked_key_is_no_pending_change_and_cannot_be_approved(self) -> None:
        host, _ = self.added_at("h1.example.org")
        self.access.offered = [NEW_KEY, NEW_RSA_KEY]
        self.access.log_in_outcome = HostKeyMismatch("Expected A, found B.", [str(NEW_KEY)])
        self.refusal(self.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN), HostKeyMismatch)
        self.know(f"@revoked h1.example.org {NEW_KEY}")
        approve = self.hosts.key_changes.approve
        said = self.refusal(approve(host.id, NEW_KEY.fingerprint(), ADMIN), Conflict)
        self.assertIn("is revoked", said)
        self.refusal(self.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN), HostKeyMismatch)
        change = self.now(self.hosts.key_changes.get(host.id))
        self.assertEqual(change.new_keys, (NEW_RSA_KEY,))

    def test_the_same_line_is_known_once_and_events_tell_what_is_new(self) -> None:
        line = f"*.example.org {HOST_KEY}"
        self.know(line)
        host, _ = self.added_at("h1.example.org")
        taken = self.now(
            self.hosts.known_keys.add(
                KnownHosts.parse(f"{line}\n@revoked * {NEW_KEY} stolen\n").lines, ADMIN
            )
        )
        self.assertEqual([each.is_new for each in taken], [False, True])
        self.assertEqual([each.hosts for each in taken], [(host.name,), (host.name,)])
        self.assertEqual(self.known(), [line, f"@revoked * {NEW_KEY} stolen"])
        first, second = self.events_of(EventCode.KNOWN_KEYS_ADDED)
        self.assertIn(f"by admin@internal: ssh-ed25519 {HOST_KEY.fingerprint()}", first)
        self.assertIn(f"revoked ssh-ed25519 {NEW_KEY.fingerprint()} for *", second)

    def test_what_is_removed_is_known_no_more(self) -> None:
        self.know(f"h1.example.org {HOST_KEY}")
        (known,) = self.now(self.hosts.known_keys.list())
        self.now(self.hosts.known_keys.remove(known.id, ADMIN))
        self.assertEqual(self.known(), [])
        self.refusal(self.hosts.known_keys.remove(known.id, ADMIN), NotFound)
        (text,) = self.events_of(EventCode.KNOWN_KEY_REMOVED)
        self.assertIn(f"{HOST_KEY.fingerprint()} for h1.example.org", text)

    def test_no_line_at_all_is_a_mistake(self) -> None:
        self.refusal(self.hosts.known_keys.add((), ADMIN), BadRequest)

    def test_all_hosts_that_are_trusted_are_exported_with_what_is_known_beside(self) -> None:
        self.access.proved = None
        self.know(f"h1.example.org {HOST_KEY}\n@cert-authority * {NEW_KEY}\n")
        self.added_at("h1.example.org")
        new = NewHost(name="h2", address="2001:db8::1", ssh=SshLogin(port=2222))
        self.now(self.hosts.admission.add(new, ADMIN))
        self.now(self.hosts.admission.register(NewHost(name="h3", address="h3"), ADMIN))
        self.assertEqual(
            str(self.now(self.hosts.known_keys.export())).splitlines(),
            [
                f"h1.example.org {HOST_KEY} h1",
                f"[2001:db8::1]:2222 {HOST_KEY} h2",
                f"@cert-authority * {NEW_KEY}",
            ],
        )


class DnsTests(WaysTestCase):
    def test_what_dnssec_vouches_for_is_expected_where_nothing_else_is(self) -> None:
        self.access.fingerprints = (HOST_KEY.fingerprint(),)
        host, policy = self.added_at("h1.example.org")
        self.assertEqual(policy.published, (HOST_KEY.fingerprint(),))
        self.assertEqual(host.ssh.key_source, HostKeySource.DNS)
        (text,) = self.events_of(EventCode.HOST_ADDED)
        self.assertIn("vouched for by DNSSEC", text)

    def test_dns_is_not_asked_about_addresses_nor_where_a_key_is_known(self) -> None:
        self.access.published_outcome = DnsError("Nobody is to ask.")
        self.added_at("192.0.2.1")
        self.know(f"h2.example.org {HOST_KEY}")
        new = NewHost(name="h2", address="h2.example.org")
        self.now(self.hosts.admission.add(new, ADMIN))

    def test_a_resolver_that_fails_lets_nobody_in(self) -> None:
        self.access.published_outcome = DnsError("DNSSEC may have found them forged.")
        new = NewHost(name="h1", address="h1.example.org")
        self.refusal(self.hosts.admission.add(new, ADMIN), DnsError)
        self.assertEqual(self.access.logins, [])


class ShownKeyTests(WaysTestCase):
    def standings(self, *keys: SshPublicKey) -> list[tuple[KeyStanding, HostKeySource | None]]:
        self.access.offered = list(keys)
        shown = self.now(self.hosts.ssh_host_keys("h1.example.org", 22, (), ADMIN))
        self.assertEqual([each.key for each in shown], list(keys))
        return [(each.standing, each.source) for each in shown]

    def test_nothing_is_known_of_keys_at_first(self) -> None:
        self.assertEqual(self.standings(HOST_KEY), [(KeyStanding.UNKNOWN, None)])

    def test_those_that_are_known_or_revoked_say_so(self) -> None:
        self.know(f"h1.example.org {HOST_KEY}\n@revoked * {NEW_KEY}\n")
        self.assertEqual(
            self.standings(HOST_KEY, NEW_KEY, NEW_RSA_KEY),
            [
                (KeyStanding.KNOWN, HostKeySource.KNOWN_HOSTS),
                (KeyStanding.REVOKED, None),
                (KeyStanding.UNKNOWN, None),
            ],
        )

    def test_where_another_one_is_known_all_of_them_are_wrong(self) -> None:
        self.know(f"h1.example.org {HOST_KEY}")
        self.assertEqual(self.standings(NEW_KEY), [(KeyStanding.MISMATCH, None)])

    def test_what_dns_says_is_told(self) -> None:
        self.access.fingerprints = (HOST_KEY.fingerprint(),)
        self.assertEqual(self.standings(HOST_KEY), [(KeyStanding.KNOWN, HostKeySource.DNS)])


class JumpTests(WaysTestCase):
    def through(self, *jumps: JumpLogin, **login: Any) -> Host:
        """Add a host that is behind others."""
        return self.added_at("192.0.2.1", jumps=jumps, **login)[0]

    def logged_in_at(self) -> list[SshTarget]:
        return [target for target, *_ in self.access.logins]

    def test_each_machine_on_the_way_is_logged_in_to_before_the_next(self) -> None:
        inner = JumpHost("192.0.2.254")
        host = self.through(JumpLogin(host=BASTION), JumpLogin(host=inner))
        self.assertEqual(
            self.logged_in_at(),
            [
                SshTarget("bastion.example.org", 2222, "ops"),
                SshTarget("192.0.2.254", 22, "root"),
                SshTarget("192.0.2.1", 22, "root"),
            ],
        )
        self.assertEqual(host.ssh.jumps, (BASTION, inner))
        first, second, last = self.access.connections
        self.assertIs(last.through, second)
        self.assertIs(second.through, first)
        self.assertFalse(first.is_open)  # the installation has ended

    def test_the_engines_key_goes_to_it_and_a_password_where_one_is_given_for_it(self) -> None:
        self.through(
            JumpLogin(host=BASTION),
            JumpLogin(host=JumpHost("192.0.2.254"), password=Secret("for the inner one")),
        )
        sent = [
            (password and password.reveal_text(), use_key)
            for _, _, password, use_key in self.access.logins
        ]
        self.assertEqual(sent, [(None, True), ("for the inner one", False), (PASSWORD, False)])

    def test_its_key_is_recorded_as_trusted_on_first_use_and_expected_from_then_on(self) -> None:
        host = self.through(JumpLogin(host=BASTION))
        self.assertEqual(self.known(), [f"[bastion.example.org]:2222 {HOST_KEY}"])
        (text,) = self.events_of(EventCode.JUMP_KEY_LEARNT)
        self.assertIn("jump host [bastion.example.org]:2222", text)
        self.assertIn("trusted on first use", text)
        self.now(self.hosts.maintenance.deactivate(host.id, ADMIN))
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        target, policy, _, _ = self.access.logins[-2]
        self.assertEqual(target.address, "bastion.example.org")
        self.assertEqual(policy.stored, (HOST_KEY,))
        self.assertEqual(len(self.known()), 1)

    def test_a_key_that_is_given_for_it_takes_the_place_of_the_one_that_was_known(self) -> None:
        self.know(f"[bastion.example.org]:2222 {NEW_KEY}\n*.example.org {NEW_KEY}\n")
        self.through(JumpLogin(host=BASTION, fingerprint=HOST_KEY.fingerprint()))
        self.assertEqual(self.access.logins[0][1].given, HOST_KEY.fingerprint())
        self.assertEqual(
            self.known(), [f"*.example.org {NEW_KEY}", f"[bastion.example.org]:2222 {HOST_KEY}"]
        )
        (text,) = self.events_of(EventCode.JUMP_KEY_LEARNT)
        self.assertIn(f"takes the place of ssh-ed25519 {NEW_KEY.fingerprint()}", text)

    def test_what_a_certificate_or_dns_vouches_for_is_not_recorded(self) -> None:
        self.access.fingerprints = (HOST_KEY.fingerprint(),)
        self.through(JumpLogin(host=BASTION))
        self.assertEqual(self.known(), [])

    def test_a_refusal_on_the_way_says_where_and_no_host_is_made(self) -> None:
        self.access.log_in_outcome = HostKeyMismatch("Expected A, found B.", [str(NEW_KEY)])
        ssh = SshLogin(jumps=(JumpLogin(host=BASTION),))
        new = NewHost(name="h1", address="192.0.2.1", ssh=ssh)
        said = self.refusal(self.hosts.admission.add(new, ADMIN), HostKeyMismatch)
        self.assertEqual(
            said,
            "At the jump host ops@bastion.example.org:2222, on the way: Expected A, found B.",
        )
        self.assertEqual(len(self.access.logins), 1)
        self.assertEqual(self.known(), [])

    def test_another_key_of_it_is_no_key_change_of_the_host_and_told_by_an_event(self) -> None:
        host = self.through(JumpLogin(host=BASTION))
        self.access.log_in_outcome = HostKeyMismatch("Expected A, found B.", [str(NEW_KEY)])
        self.refusal(self.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN), HostKeyMismatch)
        self.refusal(self.hosts.key_changes.get(host.id), NotFound)
        (text,) = self.events_of(EventCode.KEY_CHANGE_FOUND)
        self.assertIn("The way to Host h1 was refused by admin@internal.", text)
        self.assertIn("At the jump host ops@bastion.example.org:2222", text)

    def test_a_way_that_is_given_is_stored_by_an_update_and_nothing_makes_it_direct(self) -> None:
        host = self.through(JumpLogin(host=BASTION))
        now = self.now(self.hosts.update(host.id, HostChange(comment="x"), ADMIN))
        self.assertEqual(now.ssh.jumps, (BASTION,))
        now = self.now(self.hosts.update(host.id, HostChange(ssh=SshLogin(jumps=())), ADMIN))
        self.assertEqual(now.ssh.jumps, ())
        (_, text) = self.events_of(EventCode.HOST_UPDATED)
        self.assertIn("jump hosts ops@bastion.example.org:2222 became none", text)
        given = (JumpLogin(host=BASTION, fingerprint=HOST_KEY.fingerprint()),)
        change = HostChange(ssh=SshLogin(jumps=given))
        self.refusal(self.hosts.update(host.id, change, ADMIN), BadRequest)

    def test_the_way_is_closed_where_the_host_refuses(self) -> None:
        outcomes = iter([None, SshAuthenticationFailed("No.")])
        self.access.next_log_in_outcome = lambda: next(outcomes)
        ssh = SshLogin(jumps=(JumpLogin(host=BASTION),))
        new = NewHost(name="h1", address="192.0.2.1", ssh=ssh)
        self.assertEqual(
            self.refusal(self.hosts.admission.add(new, ADMIN), SshAuthenticationFailed), "No."
        )
        (bastion,) = self.access.connections
        self.assertFalse(bastion.is_open)

    def test_keys_are_fetched_through_it_too(self) -> None:
        jumps = (JumpLogin(host=BASTION),)
        self.now(self.hosts.ssh_host_keys("192.0.2.1", 22, jumps, ADMIN))
        self.assertEqual(self.logged_in_at(), [SshTarget("bastion.example.org", 2222, "ops")])
        (bastion,) = self.access.connections
        self.assertFalse(bastion.is_open)
        self.access.host_keys_outcome = HostUnreachable("Gone.")
        self.refusal(self.hosts.ssh_host_keys("192.0.2.1", 22, jumps, ADMIN), HostUnreachable)
        self.assertFalse(self.access.connections[-1].is_open)

    def test_a_key_change_of_the_host_is_fetched_and_noted_through_it(self) -> None:
        host = self.through(JumpLogin(host=BASTION))
        self.access.offered = [NEW_KEY]
        mismatch = HostKeyMismatch("Expected A, found B.", [str(NEW_KEY)])
        outcomes = iter([None, mismatch, None])
        self.access.next_log_in_outcome = lambda: next(outcomes)
        self.refusal(self.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN), HostKeyMismatch)
        change = self.now(self.hosts.key_changes.get(host.id))
        self.assertEqual(change.seen_at, "192.0.2.1 port 22 through ops@bastion.example.org:2222")
        self.assertEqual(change.new_keys, (NEW_KEY,))

    def test_what_is_malformed_is_refused(self) -> None:
        for jumps, part in (
            ((JumpLogin(host=JumpHost("bad name")),), "bad name"),
            ((JumpLogin(host=JumpHost("b", 0)),), "port 0"),
            (
                (JumpLogin(host=BASTION), JumpLogin(host=JumpHost("b", 22, "a b"))),
                "a b",
            ),
            (tuple(JumpLogin(host=JumpHost(f"b{n}")) for n in range(5)), "at most 4"),
            (
                (JumpLogin(host=BASTION, fingerprint=HOST_KEY.fingerprint(), public_key=NEW_KEY),),
                "right one only",
            ),
        ):
            new = NewHost(name="h1", address="192.0.2.1", ssh=SshLogin(jumps=jumps))
            self.assertIn(part, self.refusal(self.hosts.admission.add(new, ADMIN), BadRequest))
        self.assertEqual(self.access.logins, [])


class ProvedKeyTests(WaysTestCase):
    def test_they_are_learnt_whenever_somebody_logs_in(self) -> None:
        host, _ = self.added_at("h1.example.org")
        self.assertEqual(host.ssh.proved_keys, ())
        self.access.proved = HostKeyUpdate((HOST_KEY, NEW_KEY), (NEW_KEY,), ())
        self.enter(host)
        self.assertEqual(self.now(self.hosts.get(host.id)).ssh.proved_keys, (NEW_KEY,))
        self.assertEqual(len(self.events_of(EventCode.HOST_KEYS_LEARNT)), 1)
        self.assertEqual(self.status(host.id), HostStatus.UP)
