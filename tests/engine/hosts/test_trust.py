"""What authenticators know of hosts, as the hosts' keys come and go."""

from __future__ import annotations

import uuid
from dataclasses import replace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.auth.trust import MemoryTrustStore
from pkengine.engine.hosts.trust import HostTrust
from pkengine.engine.model import Host, HostKey, HostStatus, KeySource
from pkengine.engine.store import Seal
from pkengine.errors import KeyFileError
from pkengine.keys import Pin, Secret
from tests.engine.hosts.keys import ADDED, host_trust, pinned

PIN = Pin(b"\x01" * 32)
HOST = Host(
    id=uuid.uuid4(), name="h1", address="h1", cluster_id=uuid.uuid4(), status=HostStatus.UP
)


class HostTrustTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.peers, self.secrets = MemoryTrustStore(), MemorySharedKeys()
        self.trust = host_trust(self.peers, self.secrets)
        self.withdrawn: list[object] = []
        self.addCleanup(self.peers.watch(self.withdrawn.append, Clock()))

    def shared(self, host: Host = HOST) -> tuple[SharedKey, HostKey]:
        key = SharedKey.generate("hmac", local="engine-1", peer=str(host.id))
        return key, self.trust.host_key(key, "hmac", KeySource.DEPLOYED, ADDED)

    def test_a_pin_is_trusted_for_its_host_and_mechanism(self) -> None:
        self.trust.follow(replace(HOST, keys=pinned(PIN, mechanism="sign")))
        [record] = self.peers.peers()
        self.assertEqual((record.name, record.key), (str(HOST.id), PIN))
        self.assertEqual((record.mechanisms, record.comment), ({"sign"}, "h1"))

    def test_a_key_that_is_accepted_in_two_mechanisms_is_one_record(self) -> None:
        both = (*pinned(PIN), *pinned(PIN, mechanism="sign"))
        self.trust.follow(replace(HOST, keys=both))
        [record] = self.peers.peers()
        self.assertEqual(record.mechanisms, {"pin", "sign"})
        self.trust.follow(replace(HOST, keys=both[1:]))
        self.assertEqual(self.peers.lookup(PIN).mechanisms, {"sign"})

    def test_a_shared_key_comes_back_out_of_its_sealed_form(self) -> None:
        secret, key = self.shared()
        self.trust.follow(replace(HOST, keys=(key,)))
        self.assertEqual(self.secrets.key(secret.key_id), secret)
        record = self.peers.lookup(secret.key_id)
        self.assertEqual((record.name, record.mechanisms), (str(HOST.id), {"hmac"}))

    def test_neither_the_sealed_form_nor_a_repr_shows_the_secret(self) -> None:
        secret, key = self.shared()
        assert key.sealed is not None
        self.assertNotIn(secret.secret.reveal(), key.sealed)
        self.assertNotIn("sealed", repr(replace(HOST, keys=(key,))))

    def test_a_key_that_is_taken_away_is_forgotten_with_its_secret_and_the_others_stay(
        self,
    ) -> None:
        secret, key = self.shared()
        self.trust.follow(replace(HOST, keys=(*pinned(PIN), key)))
        self.trust.follow(replace(HOST, keys=pinned(PIN)))
        self.assertEqual(self.withdrawn, [secret.key_id])
        self.assertEqual(self.secrets.keys(), [])
        self.assertIsNotNone(self.peers.lookup(PIN))

    def test_a_host_that_is_forgotten_leaves_nothing(self) -> None:
        _, key = self.shared()
        self.trust.follow(replace(HOST, keys=(*pinned(PIN), key)))
        self.trust.forget(HOST.id)
        self.trust.forget(HOST.id)
        self.assertEqual((list(self.peers.peers()), self.secrets.keys()), ([], []))

    def test_a_new_name_changes_no_trust_and_ends_no_connection(self) -> None:
        host = replace(HOST, keys=pinned(PIN))
        self.trust.follow(host)
        self.trust.follow(replace(host, name="h2"))
        self.assertEqual(self.withdrawn, [])
        self.assertEqual(self.peers.lookup(PIN).comment, "h2")

    def test_the_secret_of_one_host_does_not_serve_another(self) -> None:
        _, key = self.shared()
        other = replace(HOST, id=uuid.uuid4(), keys=(key,))
        self.assertRaises(KeyFileError, self.trust.follow, other)
        self.assertEqual((list(self.peers.peers()), self.secrets.keys()), ([], []))

    def test_the_secrets_of_one_host_cannot_be_exchanged(self) -> None:
        (_, first), (_, second) = self.shared(), self.shared()
        swapped = replace(HOST, keys=(replace(first, sealed=second.sealed),))
        self.assertRaises(KeyFileError, self.trust.follow, swapped)

    def test_with_another_seal_nothing_is_trusted(self) -> None:
        _, key = self.shared()
        trust = HostTrust(self.peers, self.secrets, Seal(Secret(b"o" * 32), "secrets.key"))
        self.assertRaises(KeyFileError, trust.follow, replace(HOST, keys=(*pinned(PIN), key)))
        self.assertEqual(list(self.peers.peers()), [])
