"""A key on trial is accepted beside those that are kept, and no longer than the trial."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pkengine.agent.trial_trust import TrialTrust
from pkengine.auth.peer import PeerKey, TrustedPeer
from pkengine.auth.trust import MemoryTrustStore
from pkengine.interfaces import ITrustStore
from pkengine.keys import Pin

KEPT = TrustedPeer("engine-1", Pin(b"1" * 32), comment="kept")
SIGNING = TrustedPeer("engine-1", KEPT.key, frozenset({"sign"}))
NEW = TrustedPeer("engine-1", Pin(b"2" * 32))


class TrialTrustTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.kept = MemoryTrustStore([KEPT])
        self.trust = TrialTrust(self.kept)
        self.lost: list[PeerKey] = []
        self.clock = Clock()
        self.unwatch = self.trust.watch(self.lost.append, self.clock)
        self.addCleanup(self.unwatch)

    def mechanisms(self, key: PeerKey) -> frozenset[str]:
        peer = self.trust.lookup(key)
        return peer.mechanisms if peer else frozenset()

    def test_it_is_a_trust_store(self) -> None:
        self.assertTrue(ITrustStore.providedBy(self.trust))

    def test_a_key_on_trial_is_accepted_until_the_trial_ends(self) -> None:
        self.trust.begin(NEW)
        self.assertEqual(self.trust.lookup(NEW.key), NEW)
        self.assertEqual(set(self.trust.peers()), {KEPT, NEW})
        self.assertIsNone(self.kept.lookup(NEW.key))
        self.trust.end(NEW.key)
        self.assertIsNone(self.trust.lookup(NEW.key))
        self.assertEqual((set(self.trust.peers()), self.lost), ({KEPT}, [NEW.key]))

    def test_a_mechanism_on_trial_stands_beside_the_one_that_is_kept(self) -> None:
        self.trust.begin(SIGNING)
        self.assertEqual(self.mechanisms(KEPT.key), {"pin", "sign"})
        self.assertEqual(len(tuple(self.trust.peers())), 1)
        self.trust.end(SIGNING.key)
        self.assertEqual(self.mechanisms(KEPT.key), {"pin"})

    def test_a_trial_gives_no_key_another_name(self) -> None:
        self.trust.begin(TrustedPeer("engine-2", KEPT.key, frozenset({"sign"})))
        self.assertEqual(self.trust.lookup(KEPT.key), KEPT)

    def test_what_is_kept_meanwhile_stays(self) -> None:
        self.trust.begin(NEW)
        self.trust.add(NEW)
        self.trust.end(NEW.key)
        self.assertEqual(self.trust.lookup(NEW.key), NEW)
        self.assertEqual(self.kept.lookup(NEW.key), NEW)

    def test_removing_a_key_ends_its_trial_too(self) -> None:
        self.trust.begin(SIGNING)
        self.trust.remove(KEPT.key)
        self.trust.begin(NEW)
        self.trust.remove(NEW.key)
        self.assertEqual(tuple(self.trust.peers()), ())
        self.assertEqual(set(self.lost), {KEPT.key, NEW.key})
        self.assertRaises(KeyError, self.trust.remove, NEW.key)
        self.trust.end(NEW.key)

    def test_whoever_watches_no_more_hears_nothing(self) -> None:
        self.trust.begin(NEW)
        self.unwatch()
        self.trust.end(NEW.key)
        self.trust.remove(KEPT.key)
        self.assertEqual((self.lost, self.clock.getDelayedCalls()), ([], []))

    def test_a_watcher_that_fails_keeps_no_other_from_hearing(self) -> None:
        self.unwatch()

        def fail(_: PeerKey) -> None:
            raise RuntimeError("a watcher fails")

        self.addCleanup(self.trust.watch(fail, self.clock))
        self.addCleanup(self.trust.watch(self.lost.append, self.clock))
        self.trust.begin(NEW)
        self.trust.end(NEW.key)
        self.assertEqual(self.lost, [NEW.key])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
