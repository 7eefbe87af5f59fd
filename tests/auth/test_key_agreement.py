"""Two ends agree on a key, and authenticate each other by it; nobody else does."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.mechanisms import IdentityParts
from pkengine.auth.peer import Authenticated, Role, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, MemorySharedKeys, SharedKey
from pkengine.auth.spake2plus import VerifierRecord
from pkengine.auth.trust import MemoryTrustStore
from pkengine.errors import AuthenticationError, InvalidKeyText, UnknownMechanism
from pkengine.interfaces import IAuthenticator
from pkengine.keys import KeyPair
from tests.auth.exchanges import messages

AGENT, ENGINE = "agent", "engine"


#: The private keys 00 01 … 1f and 20 21 … 3f, and the shares that come of them.
PRIVATE = [X25519PrivateKey.from_private_bytes(bytes(range(at, at + 32))) for at in (0, 32)]
SHARES = (
    "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8",
    "NYBy1jZYgNGu6jKa35EhODhR7SGijjt16WXQ0s0WYlQ",
)

#: What the agent and the engine get from these: the id, and each one's half.  They were
#: computed from ``docs/protocol.md``, with an HKDF of their own.
VECTORS = {
    "hmac": (
        "kid//3a68a73d901a3f9b8395a26383e495b7",
        "b995513274da839ad4d01953480a9834a51dc57757cd00161ff21a68ee4a8457",
        "b995513274da839ad4d01953480a9834a51dc57757cd00161ff21a68ee4a8457",
    ),
    "spake2plus": (
        "kid//01a666f3e557782e3b78801e34119aae",
        "61ad33d63da8b99969f27f7f614c09dd4b08a1543bce6d07c5d7b7cdcc935cd2"
        "10fa61ef87f1ca79275c7614e8566e0065f26baae884bb0b62c77ead164869d2",
        "61ad33d63da8b99969f27f7f614c09dd4b08a1543bce6d07c5d7b7cdcc935cd2"
        "0414004c547d93c5b35dadf45a24178095bd01cb90bac844408e2b7b5f031745f3"
        "c5f9a9f5f5c61022a21c0126f0de2710e4d79eb0938d85eee60836a6f39526cb",
    ),
}


def agreements(
    mechanism: str,
    agent: tuple[str, str] = (AGENT, ENGINE),
    engine: tuple[str, str] | None = None,
    draw: Sequence[X25519PrivateKey] | None = None,
) -> tuple[KeyAgreement, KeyAgreement]:
    """Give the two ends, each with its own name and that of the other one."""
    names = agent, engine or agent[::-1]
    first, second = draw or (X25519PrivateKey.generate(), X25519PrivateKey.generate())
    return (
        _agreement(mechanism, names[0], Role.INITIATOR, first),
        _agreement(mechanism, names[1], Role.ACCEPTOR, second),
    )


def _agreement(
    mechanism: str, names: tuple[str, str], role: Role, private: X25519PrivateKey
) -> KeyAgreement:
    local, peer = names
    return KeyAgreement(mechanism, local=local, peer=peer, role=role, draw=lambda: private)


def authenticator(key: SharedKey) -> IAuthenticator:
    """Give an end that has this half, and trusts the other."""
    trust = MemoryTrustStore([TrustedPeer(key.peer, key.key_id, frozenset({key.mechanism}))])
    parts = IdentityParts(KeyPair.generate(key.local), trust, MemorySharedKeys([key]))
    return parts.authenticator(key.mechanism)


def authenticate(agent: SharedKey, engine: SharedKey) -> Authenticated | None:
    """Let the halves meet; give what the engine's end learns."""
    dialling, accepting = (
        authenticator(agent).initiator(agent.peer),
        authenticator(engine).acceptor(),
    )
    messages(dialling, accepting)
    return accepting.outcome


def share_of(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


class Agreement(SynchronousTestCase):
    def test_the_halves_authenticate_each_other(self) -> None:
        for mechanism in SHARED_KEY_MECHANISMS:
            agent, engine = agreements(mechanism)
            ours, theirs = agent.agree(engine.share), engine.agree(agent.share)
            outcome = authenticate(ours, theirs)
            assert outcome is not None
            self.assertEqual((outcome.peer.name, outcome.mechanism), (AGENT, mechanism))
            self.assertEqual((ours.key_id, ours.local, ours.peer), (theirs.key_id, AGENT, ENGINE))

    def test_each_agreement_gives_another_key(self) -> None:
        for mechanism in SHARED_KEY_MECHANISMS:
            keys = []
            for _ in range(2):
                agent, engine = agreements(mechanism)
                keys.append(agent.agree(engine.share))
            self.assertNotEqual(keys[0].key_id, keys[1].key_id)
            self.assertNotEqual(keys[0].secret, keys[1].secret)

    def test_one_pair_of_shares_gives_each_mechanism_keys_of_its_own(self) -> None:
        keys = []
        for mechanism in SHARED_KEY_MECHANISMS:
            agent, engine = agreements(mechanism, draw=PRIVATE)
            keys.append(agent.agree(engine.share))
        self.assertNotEqual(keys[0].key_id, keys[1].key_id)
        self.assertNotIn(keys[0].secret.reveal(), keys[1].secret.reveal())

    def test_the_engine_keeps_nothing_by_which_it_could_pose_as_the_agent(self) -> None:
        agent, engine = agreements("spake2plus")
        theirs = engine.agree(agent.share)
        self.assertEqual(len(theirs.secret.reveal()), 97)
        VerifierRecord.decode(theirs.secret)
        stolen = SharedKey(theirs.key_id, theirs.mechanism, AGENT, ENGINE, theirs.secret)
        with self.assertRaises(AuthenticationError):
            authenticate(stolen, theirs)

    def test_a_share_does_not_show_the_key(self) -> None:
        agent, engine = agreements("hmac")
        key = agent.agree(engine.share)
        shown = f"{agent.share} {engine.share} {key!r} {agent!r} {vars(agent)!r}"
        self.assertNotIn(share_of(key.secret.reveal()), shown)
        self.assertNotIn(key.secret.reveal().hex(), shown)

    def test_the_derivation_never_changes(self) -> None:
        for mechanism, (key_id, at_agent, at_engine) in VECTORS.items():
            agent, engine = agreements(mechanism, draw=PRIVATE)
            self.assertEqual((agent.share, engine.share), SHARES)
            ours, theirs = agent.agree(engine.share), engine.agree(agent.share)
            self.assertEqual(str(ours.key_id), key_id)
            self.assertEqual(ours.secret.reveal().hex(), at_agent)
            self.assertEqual(theirs.secret.reveal().hex(), at_engine)


class Refusal(SynchronousTestCase):
    def test_a_share_that_was_changed_on_the_way_gives_keys_that_do_not_fit(self) -> None:
        for mechanism in SHARED_KEY_MECHANISMS:
            agent, engine = agreements(mechanism)
            mallory = KeyAgreement(mechanism, local=AGENT, peer=ENGINE, role=Role.INITIATOR)
            ours, theirs = agent.agree(engine.share), engine.agree(mallory.share)
            self.assertNotEqual(ours.key_id, theirs.key_id)
            with self.assertRaises(AuthenticationError):
                authenticate(ours, theirs)
            # Even where the public name of the key is made to fit.
            renamed = SharedKey(ours.key_id, mechanism, theirs.local, theirs.peer, theirs.secret)
            with self.assertRaises(AuthenticationError):
                authenticate(ours, renamed)

    @given(bit=st.integers(0, 255))
    def test_each_bit_of_a_share_counts(self, bit: int) -> None:
        agent, engine = agreements("hmac")
        octets = bytearray(base64.urlsafe_b64decode(engine.share + "="))
        octets[bit // 8] ^= 1 << bit % 8
        ours, theirs = agent.agree(share_of(bytes(octets))), engine.agree(agent.share)
        self.assertNotEqual(ours.key_id, theirs.key_id)

    def test_a_share_that_gives_no_secret_is_refused(self) -> None:
        prime = 2**255 - 19
        for u in (0, 1, prime - 1, prime, prime + 1):
            agent, _ = agreements("hmac")
            with self.assertRaisesRegex(InvalidKeyText, "no secret"):
                agent.agree(share_of(u.to_bytes(32, "little")))

    def test_an_end_does_not_agree_with_itself(self) -> None:
        agent, _ = agreements("hmac")
        with self.assertRaisesRegex(InvalidKeyText, "own"):
            agent.agree(agent.share)
        same, other = agreements("hmac", (AGENT, AGENT))
        with self.assertRaisesRegex(InvalidKeyText, "two different ends"):
            same.agree(other.share)

    def test_a_malformed_share_is_refused(self) -> None:
        good = KeyAgreement("hmac", local=AGENT, peer=ENGINE, role=Role.INITIATOR).share
        for bad in ("", good + "=", good[:-1], good + "A", "+" * 42 + "A", good[:-1] + "B", "é"):
            agent, _ = agreements("hmac")
            with self.assertRaisesRegex(InvalidKeyText, "malformed"):
                agent.agree(bad)

    def test_ends_that_mean_other_names_get_keys_that_do_not_fit(self) -> None:
        for mechanism in SHARED_KEY_MECHANISMS:
            for engine in ((ENGINE, "other"), ("other", AGENT), (AGENT, ENGINE)):
                ours, theirs = agreements(mechanism, (AGENT, ENGINE), engine)
                key, other = ours.agree(theirs.share), theirs.agree(ours.share)
                self.assertNotEqual(key.key_id, other.key_id)
                with self.assertRaises(AuthenticationError):
                    authenticate(key, other)

    def test_ends_of_one_role_get_keys_that_do_not_fit(self) -> None:
        one, other = (
            KeyAgreement("hmac", local=local, peer=peer, role=Role.INITIATOR)
            for local, peer in ((AGENT, ENGINE), (ENGINE, AGENT))
        )
        self.assertNotEqual(one.agree(other.share).key_id, other.agree(one.share).key_id)

    def test_names_do_not_run_into_each_other(self) -> None:
        ours, _ = agreements("hmac", ("ab", "c"))
        _, theirs = agreements("hmac", ("a", "bc"))
        self.assertNotEqual(ours.agree(theirs.share).key_id, theirs.agree(ours.share).key_id)

    def test_an_agreement_is_used_once(self) -> None:
        agent, engine = agreements("hmac")
        agent.agree(engine.share)
        with self.assertRaisesRegex(InvalidKeyText, "used once"):
            agent.agree(engine.share)

    def test_only_mechanisms_with_a_shared_key_have_one_to_agree_on(self) -> None:
        for mechanism in ("pin", "sign", "other"):
            with self.assertRaisesRegex(UnknownMechanism, "hmac, spake2plus"):
                KeyAgreement(mechanism, local=AGENT, peer=ENGINE, role=Role.INITIATOR)
