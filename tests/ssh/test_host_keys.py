"""Judging host keys, without a network."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import HostKeyMismatch, HostKeyTypeUnavailable
from pkengine.keys import SshFingerprint, SshPublicKey
from pkengine.ssh.host_keys import (
    KEY_TYPES,
    HostKeyPolicy,
    HostKeyVerifier,
    key_types_offered,
)
from pkengine.ssh.wire import string


def make_key(key_type: str, content: bytes = b"content") -> SshPublicKey:
    return SshPublicKey(key_type, string(key_type.encode()) + string(content))


ED25519, ED25519_OTHER = make_key("ssh-ed25519"), make_key("ssh-ed25519", b"other")
ECDSA, RSA = make_key("ecdsa-sha2-nistp256"), make_key("ssh-rsa")
OFFER = ["rsa-sha2-512", "rsa-sha2-256", "ecdsa-sha2-nistp256", "ssh-ed25519"]


class PolicyTests(SynchronousTestCase):
    def test_the_first_key_is_trusted_where_nothing_is_known_and_that_is_recorded(self):
        judgement = HostKeyPolicy().judge(ED25519)
        self.assertEqual((judgement.key, judgement.source), (ED25519, "first_use"))

    def test_a_stored_key_is_accepted_and_another_is_not(self):
        policy = HostKeyPolicy(stored=(ED25519,))
        self.assertEqual(policy.judge(ED25519).source, "stored")
        self.assertIsNone(policy.judge(ED25519_OTHER))

    def test_any_of_several_stored_keys_is_accepted(self):
        policy = HostKeyPolicy(stored=(ED25519, RSA))
        self.assertEqual(policy.judge(RSA).source, "stored")
        self.assertEqual(policy.key_types, ("ssh-ed25519", "ssh-rsa"))

    def test_what_is_given_outranks_what_is_stored(self):
        policy = HostKeyPolicy(given=ED25519_OTHER, stored=(ED25519,))
        self.assertEqual(policy.judge(ED25519_OTHER).source, "given_key")
        self.assertIsNone(policy.judge(ED25519))

    def test_a_given_fingerprint_matches_a_key_of_any_type(self):
        for key in (ED25519, ECDSA, RSA):
            for algorithm in ("SHA256", "MD5"):
                policy = HostKeyPolicy(given=key.fingerprint(algorithm))
                self.assertEqual(policy.judge(key).source, "given_fingerprint")
                self.assertIsNone(policy.judge(ED25519_OTHER))
                self.assertEqual(policy.key_types, KEY_TYPES)

    def test_a_given_fingerprint_of_a_stored_key_tells_the_type_too(self):
        policy = HostKeyPolicy(given=RSA.fingerprint(), stored=(ED25519, RSA))
        self.assertEqual(policy.key_types, ("ssh-rsa",))
        self.assertEqual(policy.judge(RSA).source, "given_fingerprint")
        self.assertIsNone(policy.judge(ED25519))

    def test_only_the_type_of_the_expected_key_is_asked_for(self):
        self.assertEqual(HostKeyPolicy(given=RSA).key_types, ("ssh-rsa",))
        self.assertEqual(HostKeyPolicy(stored=(ECDSA,)).key_types, ("ecdsa-sha2-nistp256",))

    @given(st.lists(st.sampled_from([*OFFER, "ssh-rsa", "ssh-dss", "sk-ssh-ed25519@openssh.com"])))
    def test_key_types_offered_come_once_and_never_by_sha1(self, algorithms):
        types = key_types_offered(algorithms)
        self.assertEqual(len(types), len(set(types)))
        self.assertEqual(
            "ssh-rsa" in types, bool({"rsa-sha2-512", "rsa-sha2-256"} & {*algorithms})
        )
        self.assertLessEqual(set(types), set(KEY_TYPES))


class VerifierTests(SynchronousTestCase):
    def refused(self, verifier, key, error=HostKeyMismatch) -> str:
        return str(self.assertRaises(error, verifier.judge, key))

    def test_a_mismatch_shows_both_fingerprints_with_their_types(self):
        verifier = HostKeyVerifier("node1", HostKeyPolicy(stored=(ED25519,)))
        verifier.offered(OFFER)
        text = self.refused(verifier, ED25519_OTHER)
        self.assertIn(f"expected the stored ssh-ed25519 {ED25519.fingerprint()}", text)
        self.assertIn(f"found ssh-ed25519 {ED25519_OTHER.fingerprint()}", text)
        self.assertIn("node1", text)
        self.assertIsNone(verifier.judgement)

    def test_a_changed_key_is_not_excused_by_another_type(self):
        verifier = HostKeyVerifier("node1", HostKeyPolicy(stored=(ED25519, RSA)))
        verifier.offered(OFFER)
        self.refused(verifier, ED25519_OTHER)
        self.assertFalse(verifier.try_next_type())

    def test_for_a_fingerprint_every_offered_type_is_tried_once(self):
        verifier = HostKeyVerifier("node1", HostKeyPolicy(given=RSA.fingerprint()))
        verifier.offered(OFFER)
        self.refused(verifier, ED25519)
        self.assertTrue(verifier.try_next_type())
        self.assertEqual(verifier.key_types, ("ecdsa-sha2-nistp256",))
        verifier.offered(OFFER)
        self.refused(verifier, ECDSA)
        self.assertTrue(verifier.try_next_type())
        verifier.offered(OFFER)
        verifier.judge(RSA)
        self.assertEqual(verifier.judgement.key, RSA)

    def test_a_mismatch_of_a_fingerprint_shows_all_the_keys_of_the_host(self):
        verifier = HostKeyVerifier("node1", HostKeyPolicy(given=ED25519_OTHER.fingerprint("MD5")))
        verifier.offered(OFFER)
        for key in (ED25519, ECDSA):
            self.refused(verifier, key)
            self.assertTrue(verifier.try_next_type())
            verifier.offered(OFFER)
        text = self.refused(verifier, RSA)
        self.assertFalse(verifier.try_next_type())
        self.assertIn(f"the given fingerprint {ED25519_OTHER.fingerprint('MD5')}", text)
        for key in (ED25519, ECDSA, RSA):
            self.assertIn(f"{key.key_type} {key.fingerprint()} ({key.fingerprint('MD5')})", text)

    def test_a_host_that_changes_its_offer_cannot_make_it_try_for_ever(self):
        verifier = HostKeyVerifier("node1", HostKeyPolicy(given=ED25519_OTHER.fingerprint()))
        tries = 0
        verifier.offered(OFFER)
        self.refused(verifier, ED25519)
        while verifier.try_next_type():
            tries += 1
            verifier.offered([*OFFER, "ecdsa-sha2-nistp521"])
            self.refused(verifier, ED25519)  # not what was asked for, either
        self.assertEqual(tries, 2)

    def test_a_missing_type_is_told_apart_from_a_mismatch(self):
        for policy in (HostKeyPolicy(given=RSA), HostKeyPolicy(stored=(RSA,))):
            verifier = HostKeyVerifier("node1", policy)
            error = self.assertRaises(
                HostKeyTypeUnavailable, verifier.offered, ["ssh-ed25519", "ecdsa-sha2-nistp256"]
            )
            self.assertIn(f"ssh-rsa {RSA.fingerprint()}", str(error))
            self.assertIn("the host offers ssh-ed25519, ecdsa-sha2-nistp256", str(error))

    def test_a_host_with_sha1_signatures_alone_is_refused(self):
        verifier = HostKeyVerifier("node1", HostKeyPolicy())
        error = self.assertRaises(HostKeyTypeUnavailable, verifier.offered, ["ssh-rsa", "ssh-dss"])
        self.assertIn("it offers ssh-rsa, ssh-dss", str(error))

    def test_an_expected_key_of_a_type_that_is_not_understood_is_refused_at_once(self):
        policy = HostKeyPolicy(given=make_key("ssh-dss"))
        error = self.assertRaises(HostKeyTypeUnavailable, HostKeyVerifier, "node1", policy)
        self.assertIn("ssh-dss", str(error))

    def test_what_a_host_writes_cannot_forge_lines_in_the_error(self):
        verifier = HostKeyVerifier("node1", HostKeyPolicy())
        error = self.assertRaises(
            HostKeyTypeUnavailable, verifier.offered, ["x\nroot logged in\x1b[2J" + "y" * 5000]
        )
        self.assertNotIn("\n", str(error))
        self.assertNotIn("\x1b", str(error))
        self.assertLess(len(str(error)), 1000)

    def test_a_fingerprint_text_is_compared_exactly(self):
        text = str(ED25519.fingerprint())
        policy = HostKeyPolicy(given=SshFingerprint.parse(text))
        self.assertIsNotNone(policy.judge(ED25519))
