"""The common handshake under each mechanism: that it works, and what an attacker may try."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import statistics
import time
import tracemalloc
from collections.abc import Callable, Hashable
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec, ed448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pkengine.auth.akep2 import HmacAuthenticator
from pkengine.auth.fields import MAX_MESSAGE, decode_fields, encode_fields, frame
from pkengine.auth.handshake import Hello
from pkengine.auth.key_schedule import PROTOCOL
from pkengine.auth.p256 import random_scalar
from pkengine.auth.pake import GUESS_INTERVAL_S, GUESSES, Spake2PlusAuthenticator, register_pair
from pkengine.auth.peer import Role, TrustedPeer
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.auth.sigma import SignAuthenticator
from pkengine.auth.spake2plus import ProverRecord, VerifierRecord
from pkengine.auth.trust import MemoryTrustStore
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IAuthenticator, IExchange
from pkengine.keys import KeyPair, KeyType, Secret
from pkengine.keys.key_id import KeyId
from tests.auth.exchanges import (
    EVERY_MECHANISM,
    Ends,
    every_ends,
    hmac_ends,
    messages,
    sign_ends,
    spake2plus_ends,
)

HELLO = ("protocol", "mechanism", "key_id", "identity", "peer", "role", "share", "binding")


def fields_of(message: bytes, count: int = len(HELLO)) -> list[bytes]:
    return decode_fields(message[2:], count)


def changed(message: bytes, **values: bytes) -> bytes:
    """Give M1 with some fields changed."""
    fields = fields_of(message)
    for name, value in values.items():
        fields[HELLO.index(name)] = value
    return frame(encode_fields(*fields))


class EveryMechanism(SynchronousTestCase):
    """Tests that hold for hmac, sign and spake2plus alike."""

    def refused(self, step: Callable[..., bytes], *data: bytes) -> None:
        with self.assertRaises(AuthenticationError):
            step(*data)


class BothEndsAgree(EveryMechanism):
    def test_both_ends_learn_who_the_other_is(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            messages(initiator, acceptor)
            self.assertEqual(initiator.outcome.peer.name, "engine")
            self.assertEqual(acceptor.outcome.peer.name, "agent")
            for exchange in (initiator, acceptor):
                self.assertEqual(exchange.outcome.mechanism, ends.mechanism)
            self.assertEqual(initiator.outcome.session_key, acceptor.outcome.session_key)
            self.assertEqual(len(initiator.outcome.session_key.reveal()), 32)

    def test_each_session_has_a_key_of_its_own(self) -> None:
        for ends in every_ends():
            keys = set()
            for _ in range(4):
                initiator, acceptor = ends.dial()
                messages(initiator, acceptor)
                keys.add(initiator.outcome.session_key.reveal())
            self.assertEqual(len(keys), 4)

    def test_the_records_that_follow_are_protected_in_both_directions(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            messages(initiator, acceptor)
            ours, theirs = initiator.protection(), acceptor.protection()
            self.assertEqual(theirs.open(ours.seal(b"question")), b"question")
            self.assertEqual(ours.open(theirs.seal(b"answer")), b"answer")

    def test_any_combination_of_key_types_signs(self) -> None:
        for agent in KeyType:
            for engine in KeyType:
                initiator, acceptor = sign_ends(agent, engine).dial()
                messages(initiator, acceptor)
                self.assertIsNotNone(initiator.outcome)

    def test_messages_may_arrive_octet_by_octet(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            to_acceptor, to_initiator = initiator.start(), acceptor.start()
            while to_acceptor or to_initiator:
                answer = b"".join(
                    acceptor.receive(to_acceptor[i : i + 1]) for i in range(len(to_acceptor))
                )
                to_acceptor, to_initiator = b"", to_initiator + answer
                answer = b"".join(
                    initiator.receive(to_initiator[i : i + 1]) for i in range(len(to_initiator))
                )
                to_acceptor, to_initiator = answer, b""
            self.assertIsNotNone(initiator.outcome)
            self.assertIsNotNone(acceptor.outcome)

    def test_octets_pipelined_behind_the_last_message_are_kept_in_order(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            m3 = initiator.receive(acceptor.receive(m1))
            sealed = initiator._records.seal(b"early")
            ready = acceptor.receive(m3 + sealed)
            theirs = acceptor.protection()
            initiator.receive(ready + theirs.seal(b"one") + theirs.seal(b"two"))
            self.assertEqual(theirs.open(b""), b"early")
            self.assertEqual(initiator.protection().open(b""), b"onetwo")

    def test_exchanges_and_authenticators_provide_their_interfaces(self) -> None:
        for ends in every_ends():
            verifyObject(IAuthenticator, ends.agent)
            for exchange in ends.dial():
                verifyObject(IExchange, exchange)
                self.assertEqual(exchange.pending(), b"")

    def test_a_registered_secret_authenticates(self) -> None:
        prover, verifier = register_pair(Secret("7-tumor-guitar"), prover="a", verifier="e")
        agent = Spake2PlusAuthenticator(
            MemorySharedKeys([prover]),
            MemoryTrustStore([TrustedPeer("engine", prover.key_id, frozenset({"spake2plus"}))]),
        )
        engine = Spake2PlusAuthenticator(
            MemorySharedKeys([verifier]),
            MemoryTrustStore([TrustedPeer("agent", prover.key_id, frozenset({"spake2plus"}))]),
        )
        initiator, acceptor = agent.initiator(), engine.acceptor()
        messages(initiator, acceptor)
        self.assertEqual(acceptor.outcome.peer.name, "agent")


class OrderOfMessages(EveryMechanism):
    def test_nobody_is_authenticated_before_the_last_message(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            m2 = acceptor.receive(m1)
            self.assertIsNone(acceptor.outcome)
            m3 = initiator.receive(m2)
            self.assertIsNone(initiator.outcome)
            ready = acceptor.receive(m3)
            self.assertIsNone(initiator.outcome)
            initiator.receive(ready)
            self.assertIsNotNone(initiator.outcome)

    def test_there_are_no_keys_before_the_end_and_only_once_behind_it(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            self.refused(initiator.protection)
            self.refused(acceptor.protection)
            messages(initiator, acceptor)
            initiator.protection()
            self.refused(initiator.protection)

    def test_an_exchange_is_started_once(self) -> None:
        for ends in every_ends():
            for exchange in ends.dial():
                exchange.start()
                self.refused(exchange.start)

    def test_an_exchange_takes_nothing_before_its_start_and_behind_its_end(self) -> None:
        for ends in every_ends():
            for exchange in ends.dial():
                self.refused(exchange.receive, b"x")
            pair = ends.dial()
            messages(*pair)
            for exchange in pair:
                self.refused(exchange.receive, b"x")

    def test_an_exchange_that_failed_stays_failed(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            self.refused(acceptor.receive, b"\xff\xff")
            self.refused(acceptor.receive, m1)
            self.assertIsNone(acceptor.outcome)

    def test_application_octets_before_the_proof_end_the_exchange(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            acceptor.receive(m1)
            self.refused(acceptor.receive, b"\0\0\0\5\1hello" + bytes(32))
            self.assertIsNone(acceptor.outcome)

    def test_a_close_in_place_of_ready_is_not_an_authentication(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            m3 = initiator.receive(acceptor.receive(m1))
            acceptor.receive(m3)
            fresh, other = ends.dial()
            n1 = fresh.start()
            other.start()
            n3 = fresh.receive(other.receive(n1))
            other.receive(n3)
            records = other.protection()
            records._send.sequence = 0  # as if ready had never been sent
            self.refused(fresh.receive, records.close())

    def test_a_ready_of_somebody_else_is_refused(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            m3 = initiator.receive(acceptor.receive(m1))
            acceptor.receive(m3)
            other_pair = ends.dial()
            self.refused(initiator.receive, messages(*other_pair)[3])


class HostileProxy(EveryMechanism):
    """The attacker reads everything and may change, replay, reflect and mix it."""

    def test_a_recorded_session_cannot_be_replayed_to_the_acceptor(self) -> None:
        for ends in every_ends():
            m1, _, m3, _ = messages(*ends.dial())
            _, acceptor = ends.dial()
            acceptor.start()
            acceptor.receive(m1)
            self.refused(acceptor.receive, m3)

    def test_a_recorded_answer_cannot_be_replayed_to_the_initiator(self) -> None:
        for ends in every_ends():
            _, m2, _, _ = messages(*ends.dial())
            initiator, _ = ends.dial()
            initiator.start()
            self.refused(initiator.receive, m2)

    def test_a_recorded_last_message_does_not_fit_another_session(self) -> None:
        for ends in every_ends():
            _, _, m3, _ = messages(*ends.dial())
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            acceptor.receive(m1)
            self.refused(acceptor.receive, m3)

    def test_an_end_that_hears_its_own_words_refuses_them(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            m2 = acceptor.receive(m1)
            self.refused(initiator.receive, m1)
            self.refused(acceptor.receive, m2)

    def test_the_words_of_a_parallel_session_are_refused(self) -> None:
        for ends in every_ends():
            one, one_acceptor = ends.dial()
            two, two_acceptor = ends.dial()
            one_acceptor.start()
            two_acceptor.start()
            answer_one = one_acceptor.receive(one.start())
            two_acceptor.receive(two.start())
            self.refused(two.receive, answer_one)

    def test_two_ends_with_the_same_half_of_a_key_refuse_each_other(self) -> None:
        """The Selfie attack: an end must never accept itself."""
        for ends in (hmac_ends(), spake2plus_ends()):
            initiator = ends.agent.initiator("engine")
            acceptor = ends.agent.acceptor()
            acceptor.start()
            with self.assertRaises(AuthenticationError):
                m2 = acceptor.receive(initiator.start())
                acceptor.receive(initiator.receive(m2))

    def test_an_end_that_trusts_its_own_key_does_not_accept_itself(self) -> None:
        key_pair = KeyPair.generate("me")
        me = SignAuthenticator(
            key_pair, MemoryTrustStore([TrustedPeer("me", key_pair.pin, frozenset({"sign"}))])
        )
        initiator, acceptor = me.initiator(), me.acceptor()
        acceptor.start()
        self.refused(initiator.receive, acceptor.receive(initiator.start()))

    def test_every_changed_field_of_the_first_hello_is_refused(self) -> None:
        for ends in every_ends():
            values = {
                "protocol": b"pkengine auth 2",
                "mechanism": b"none",
                "key_id": b"0123456789abcdef",
                "identity": b"mallory",
                "peer": b"engine-2",
                "role": Role.ACCEPTOR.value.encode(),
                "share": bytes(32),
                "binding": b"x" * 32,
            }
            for name, value in values.items():
                with self.subTest(mechanism=ends.mechanism, field=name):
                    initiator, acceptor = ends.dial()
                    m1 = initiator.start()
                    acceptor.start()
                    with self.assertRaises(AuthenticationError):
                        m2 = acceptor.receive(changed(m1, **{name: value}))
                        acceptor.receive(initiator.receive(m2))
                    self.assertIsNone(acceptor.outcome)
                    self.assertIsNone(initiator.outcome)

    def test_every_changed_field_of_the_answer_is_refused(self) -> None:
        for ends in every_ends():
            for index in range(len(HELLO) + 1):
                initiator, acceptor = ends.dial()
                m1 = initiator.start()
                acceptor.start()
                fields = fields_of(acceptor.receive(m1), len(HELLO) + 1)
                fields[index] = (
                    fields[index][:-1] + bytes([fields[index][-1] ^ 1]) if fields[index] else b"x"
                )
                self.refused(initiator.receive, frame(encode_fields(*fields)))

    def test_every_flipped_bit_of_every_message_is_refused(self) -> None:
        for ends in (hmac_ends(), sign_ends()):
            self.flip_every_bit(ends, range(8))

    def test_a_flipped_bit_in_every_octet_of_every_message_is_refused_by_spake2plus(self) -> None:
        self.flip_every_bit(spake2plus_ends(), range(1))

    def flip_every_bit(self, ends: Ends, bits: range) -> None:
        lengths = [len(message) for message in messages(*ends.dial())]
        for number, length in enumerate(lengths[:3]):
            for offset in range(length):
                for bit in bits:
                    ends.clock.advance(GUESS_INTERVAL_S)  # the limit on guesses is not meant here
                    self.assertFalse(
                        self.survives(ends, number, offset, 1 << bit), (number, offset, bit)
                    )

    def survives(self, ends: Ends, number: int, offset: int, mask: int) -> bool:
        """Run an exchange with one octet of one message changed on the way."""
        initiator, acceptor = ends.dial()
        acceptor.start()
        sender, receiver, message = initiator, acceptor, initiator.start()
        for index in range(4):
            if index == number:
                if offset >= len(message):  # a signature is not always of the same length
                    return False
                wrong = bytearray(message)
                wrong[offset] ^= mask
                message = bytes(wrong)
            try:
                message = receiver.receive(message)
            except AuthenticationError:
                return False
            sender, receiver = receiver, sender
        return initiator.outcome is not None or acceptor.outcome is not None

    def test_every_truncation_of_every_message_waits_or_is_refused(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            acceptor.start()
            m1 = initiator.start()
            for length in range(len(m1)):
                other = ends.engine.acceptor()
                other.start()
                self.assertEqual(other.receive(m1[:length]), b"")
                self.assertIsNone(other.outcome)
            for count in range(len(HELLO)):
                other = ends.engine.acceptor()
                other.start()
                self.refused(other.receive, frame(encode_fields(*fields_of(m1)[:count])))

    def test_a_truncated_or_extended_proof_is_refused(self) -> None:
        for ends in every_ends():
            for length in (0, 1, 31, 33):
                ends.clock.advance(GUESS_INTERVAL_S)
                initiator, acceptor = ends.dial()
                m1 = initiator.start()
                acceptor.start()
                *hello, proof = fields_of(acceptor.receive(m1), len(HELLO) + 1)
                wrong = (proof + b"\0")[:length] if length < 33 else proof + b"\0"
                self.refused(initiator.receive, frame(encode_fields(*hello, wrong)))
                initiator, acceptor = ends.dial()
                m1 = initiator.start()
                acceptor.start()
                (proof,) = fields_of(initiator.receive(acceptor.receive(m1)), 1)
                wrong = (proof + b"\0")[:length] if length < 33 else proof + b"\0"
                self.refused(acceptor.receive, frame(encode_fields(wrong)))

    def test_a_message_over_the_cap_is_refused_before_it_arrives(self) -> None:
        for ends in every_ends():
            _, acceptor = ends.dial()
            acceptor.start()
            self.refused(acceptor.receive, (MAX_MESSAGE + 1).to_bytes(2, "big"))

    @settings(max_examples=300)
    @given(st.binary(max_size=200))
    def test_any_octets_are_refused_or_wait(self, data: bytes) -> None:
        ends = hmac_ends()
        for exchange in ends.dial():
            exchange.start()
            with contextlib.suppress(AuthenticationError):
                exchange.receive(data)
            self.assertIsNone(exchange.outcome)

    @settings(max_examples=200)
    @given(st.lists(st.binary(max_size=70), min_size=len(HELLO), max_size=len(HELLO)))
    def test_any_fields_are_refused_or_lead_nowhere(self, fields: list[bytes]) -> None:
        fields[0] = PROTOCOL
        for ends in every_ends():
            fields[1] = ends.mechanism.encode()
            acceptor = ends.engine.acceptor()
            acceptor.start()
            with contextlib.suppress(AuthenticationError):
                acceptor.receive(frame(encode_fields(*fields)))
            self.assertIsNone(acceptor.outcome)

    def test_names_that_are_no_text_are_refused(self) -> None:
        ends = hmac_ends()
        for values in ({"identity": b"\xff"}, {"role": b"observer"}, {"mechanism": b"\xff"}):
            initiator, acceptor = ends.dial()
            acceptor.start()
            self.refused(acceptor.receive, changed(initiator.start(), **values))


class NoFallingBack(EveryMechanism):
    def test_a_peer_may_use_only_the_mechanism_of_its_record(self) -> None:
        for ends in every_ends():
            for store, name in ((ends.engine_trust, "agent"), (ends.agent_trust, "engine")):
                (record,) = store.peers()
                store.add(TrustedPeer(name, record.key, frozenset({"pin"})))
                with self.assertRaises(AuthenticationError):
                    messages(*ends.dial())
                store.add(record)
                store.add(replace(record, mechanisms=record.mechanisms | {"pin"}))
            messages(*ends.dial())

    def test_a_key_of_one_mechanism_does_not_serve_another(self) -> None:
        key = SharedKey.generate("hmac", local="agent", peer="engine")
        other = SharedKey(key.key_id, "spake2plus", "agent", "engine", key.secret)
        trust = MemoryTrustStore([TrustedPeer("engine", key.key_id, frozenset({"hmac"}))])
        agent = HmacAuthenticator(MemorySharedKeys([other]), trust)
        with self.assertRaises(AuthenticationError):
            agent.initiator("engine")
        engine = HmacAuthenticator(
            MemorySharedKeys([other.for_peer()]),
            MemoryTrustStore([TrustedPeer("agent", key.key_id, frozenset({"hmac"}))]),
        )
        initiator = HmacAuthenticator(MemorySharedKeys([key]), trust).initiator("engine")
        acceptor = engine.acceptor()
        acceptor.start()
        self.refused(initiator.receive, acceptor.receive(initiator.start()))

    def test_a_record_that_is_no_record_is_refused(self) -> None:
        key = SharedKey.generate("spake2plus", local="agent", peer="engine")
        trust = MemoryTrustStore([TrustedPeer("engine", key.key_id, frozenset({"spake2plus"}))])
        agent = Spake2PlusAuthenticator(MemorySharedKeys([key]), trust)
        with self.assertRaises(AuthenticationError):
            agent.initiator("engine")

    def test_another_mechanism_is_not_negotiated(self) -> None:
        hmac, sign = hmac_ends(), sign_ends()
        acceptor = hmac.engine.acceptor()
        acceptor.start()
        self.refused(acceptor.receive, sign.agent.initiator("engine").start())


class Trust(EveryMechanism):
    def test_a_peer_whose_trust_has_ended_is_refused(self) -> None:
        for ends in every_ends():
            (record,) = ends.engine_trust.peers()
            ends.engine_trust.remove(record.key)
            initiator, acceptor = ends.dial()
            with self.assertRaises(AuthenticationError):
                messages(initiator, acceptor)
            self.assertIsNone(acceptor.outcome)

    def test_trust_that_ends_during_the_exchange_ends_the_exchange(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.dial()
            m1 = initiator.start()
            acceptor.start()
            m3 = initiator.receive(acceptor.receive(m1))
            (record,) = ends.engine_trust.peers()
            ends.engine_trust.remove(record.key)
            self.refused(acceptor.receive, m3)

    def test_another_peer_than_the_expected_is_refused(self) -> None:
        for ends in every_ends():
            with self.assertRaises(AuthenticationError):
                initiator = ends.agent.initiator("engine-2")
                acceptor = ends.engine.acceptor()
                acceptor.start()
                initiator.receive(acceptor.receive(initiator.start()))

    def test_with_nobody_expected_the_only_peer_is_dialled(self) -> None:
        for ends in every_ends():
            initiator, acceptor = ends.agent.initiator(), ends.engine.acceptor()
            messages(initiator, acceptor)
            self.assertEqual(initiator.outcome.peer.name, "engine")

    def test_with_nobody_expected_and_two_keys_it_cannot_be_told_whom_to_dial(self) -> None:
        ends = hmac_ends()
        second = SharedKey.generate("hmac", local="agent", peer="engine-2")
        ends.more["agent_keys"].add(second)
        ends.agent_trust.add(TrustedPeer("engine-2", second.key_id, frozenset({"hmac"})))
        with self.assertRaises(AuthenticationError):
            ends.agent.initiator()
        ends.agent.initiator("engine-2")

    def test_an_old_and_a_new_key_both_work_until_the_old_one_is_removed(self) -> None:
        ends = hmac_ends()
        old = ends.agent_key
        new = SharedKey.generate("hmac", local="agent", peer="engine")
        ends.more["engine_keys"].add(new.for_peer())
        ends.engine_trust.add(TrustedPeer("agent", new.key_id, frozenset({"hmac"})))
        messages(*ends.dial())
        ends.more["agent_keys"].add(new)
        ends.agent_trust.add(TrustedPeer("engine", new.key_id, frozenset({"hmac"})))
        initiator, acceptor = ends.dial()
        messages(initiator, acceptor)
        self.assertEqual(acceptor.outcome.peer.key, new.key_id)
        ends.engine_trust.remove(old.key_id)
        messages(*ends.dial())

    def test_a_wrong_signing_key_under_a_trusted_identity_is_refused(self) -> None:
        ends, stranger = sign_ends(), sign_ends()
        claimed = str(ends.agent_key.pin).encode()
        initiator = stranger.agent.initiator()
        acceptor = ends.engine.acceptor()
        acceptor.start()
        m2 = acceptor.receive(changed(initiator.start(), identity=claimed))
        self.assertIsNone(acceptor.outcome)
        self.refused(initiator.receive, m2)


class UnknownKeys(EveryMechanism):
    """An unknown key looks like a wrong one, in octets and in time."""

    def strangers(self) -> tuple[Ends, Callable[[], bytes], Callable[[], bytes]]:
        ends = hmac_ends()
        wrong = SharedKey(
            ends.agent_key.key_id, "hmac", "agent", "engine", Secret(b"not the key at all" * 2)
        )
        unknown = SharedKey.generate("hmac", local="agent", peer="engine")

        def hello_of(key: SharedKey) -> bytes:
            trust = MemoryTrustStore([TrustedPeer("engine", key.key_id, frozenset({"hmac"}))])
            return HmacAuthenticator(MemorySharedKeys([key]), trust).initiator("engine").start()

        return ends, lambda: hello_of(wrong), lambda: hello_of(unknown)

    def test_an_unknown_key_gets_an_answer_of_the_same_form_as_a_wrong_one(self) -> None:
        ends, wrong, unknown = self.strangers()
        forms = []
        for hello in (wrong(), unknown()):
            acceptor = ends.engine.acceptor()
            acceptor.start()
            answer = fields_of(acceptor.receive(hello), len(HELLO) + 1)
            variable = {HELLO.index("key_id"), HELLO.index("share"), len(HELLO)}
            forms.append(
                [len(f) if i in variable else f for i, f in enumerate(answer)],
            )
            self.refused(acceptor.receive, frame(encode_fields(bytes(32))))
        self.assertEqual(*forms)

    def test_an_unknown_key_is_answered_in_the_same_time_as_a_wrong_one(self) -> None:
        ends, wrong, unknown = self.strangers()
        samples: dict[str, list[int]] = {"wrong": [], "unknown": []}
        hellos = {"wrong": wrong(), "unknown": unknown()}
        for _ in range(3000):
            ends.clock.advance(3600)
            for name, hello in hellos.items():
                acceptor = ends.engine.acceptor()
                acceptor.start()
                start = time.perf_counter_ns()
                acceptor.receive(hello)
                samples[name].append(time.perf_counter_ns() - start)
        quartiles = {name: statistics.quantiles(times) for name, times in samples.items()}
        self.assertLess(quartiles["wrong"][0], quartiles["unknown"][2])
        self.assertLess(quartiles["unknown"][0], quartiles["wrong"][2])

    def test_a_hello_without_a_usable_key_id_is_answered_too(self) -> None:
        for ends in (hmac_ends(), spake2plus_ends()):
            for values in ({"key_id": b"short"}, {"identity": b""}, {"peer": b"agent"}):
                acceptor = ends.engine.acceptor()
                acceptor.start()
                initiator = ends.agent.initiator("engine")
                answer = acceptor.receive(changed(initiator.start(), **values))
                self.assertTrue(answer)
                self.refused(acceptor.receive, frame(encode_fields(bytes(32))))

    def test_an_end_without_a_known_key_never_tells_who_the_peer_is(self) -> None:
        """Also if a proof under the key that nobody knows could be right."""
        for ends in (hmac_ends(), spake2plus_ends()):
            m1 = changed(ends.agent.initiator("engine").start(), key_id=bytes(16))
            hello = Hello.from_fields(fields_of(m1))
            self.refused(ends.engine._choose(hello).judge, hello)

    def test_nothing_is_kept_of_the_keys_that_strangers_name(self) -> None:
        ends = spake2plus_ends()
        m1 = ends.agent.initiator("engine").start()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        kept = []
        for number in range(600):
            acceptor = ends.engine.acceptor()
            acceptor.start()
            acceptor.receive(changed(m1, key_id=number.to_bytes(16, "big")))
            if number % 300 == 299:
                del acceptor
                gc.collect()
                kept.append(tracemalloc.get_traced_memory()[0])
        self.assertLess(kept[1] - kept[0], 300 * 100)

    def test_a_key_that_was_removed_is_forgotten_before_many_others_have_come(self) -> None:
        def records() -> int:
            gc.collect()
            return sum(isinstance(each, VerifierRecord) for each in gc.get_objects())

        ends = spake2plus_ends()
        before = records()
        for _ in range(200):
            record = ProverRecord(random_scalar(), random_scalar()).verifier_record()
            key = SharedKey(KeyId.random(), "spake2plus", "engine", "agent", record.encode())
            ends.more["engine_keys"].add(key)
            ends.engine_trust.add(TrustedPeer("agent", key.key_id, frozenset({"spake2plus"})))
            acceptor = ends.engine.acceptor()
            acceptor.start()
            acceptor.receive(
                changed(ends.agent.initiator("engine").start(), key_id=key.key_id.octets)
            )
            ends.engine_trust.remove(key.key_id)
            ends.more["engine_keys"].remove(key.key_id)
        self.assertLess(records() - before, 100)


class UnusableShares(EveryMechanism):
    def refuses_share(self, *share: bytes) -> None:
        ends = sign_ends()
        acceptor = ends.engine.acceptor()
        acceptor.start()
        m1 = changed(ends.agent.initiator("engine").start(), share=encode_fields(*share))
        self.refused(acceptor.receive, m1)

    def spki(self, key: ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey) -> bytes:
        return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def test_a_share_of_small_order_is_refused(self) -> None:
        good = self.spki(ec.generate_private_key(ec.SECP256R1()))
        for share in (bytes(32), b"\1" + bytes(31), bytes(31), b""):
            self.refuses_share(share, good)

    def test_a_key_that_is_neither_p256_nor_ed25519_is_refused(self) -> None:
        share = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
        for key in (ec.generate_private_key(ec.SECP384R1()), ed448.Ed448PrivateKey.generate()):
            self.refuses_share(share, self.spki(key))
        self.refuses_share(share, b"no key at all")


class Count:
    """Allows so many guesses, and keeps what it is told."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.begun: list[Hashable] = []
        self.right: list[Hashable] = []

    def begin(self, key: Hashable) -> bool:
        if len(self.begun) == self.allowed:
            return False
        self.begun.append(key)
        return True

    def succeeded(self, key: Hashable) -> None:
        self.right.append(key)


class Guessing(EveryMechanism):
    def test_a_thousand_guesses_get_nowhere_and_cost_the_holder_only_time(self) -> None:
        ends = spake2plus_ends()
        guesser = spake2plus_ends()
        for _ in range(1000):
            initiator, acceptor = guesser.agent.initiator("engine"), ends.engine.acceptor()
            acceptor.start()
            acceptor.receive(changed(initiator.start(), key_id=ends.agent_key.key_id.octets))
            self.refused(acceptor.receive, frame(encode_fields(bytes(32))))
            self.assertIsNone(acceptor.outcome)
        self.refused_even_with_the_right_secret(ends)
        ends.clock.advance(GUESS_INTERVAL_S)
        messages(*ends.dial())

    def refused_even_with_the_right_secret(self, ends: Ends) -> None:
        with self.assertRaises(AuthenticationError):
            messages(*ends.dial())

    def test_a_guess_is_counted_though_the_guesser_leaves_after_the_answer(self) -> None:
        ends = spake2plus_ends()
        for _ in range(GUESSES):
            initiator, acceptor = ends.dial()
            acceptor.start()
            acceptor.receive(initiator.start())
        self.refused_even_with_the_right_secret(ends)

    def test_a_proof_gives_the_attempts_back(self) -> None:
        ends = spake2plus_ends()
        for _ in range(3 * GUESSES):
            messages(*ends.dial())

    def test_who_counts_otherwise_is_asked_before_each_guess_and_told_of_a_right_one(
        self,
    ) -> None:
        prover, verifier = register_pair(Secret("7-tumor-guitar"), prover="a", verifier="e")
        wrong, _ = register_pair(
            Secret("7-tumor-melon"), prover="a", verifier="e", key_id=prover.key_id
        )
        engine = TrustedPeer("engine", prover.key_id, frozenset({"spake2plus"}))
        agent = TrustedPeer("agent", prover.key_id, frozenset({"spake2plus"}))
        count = Count(2)
        check = Spake2PlusAuthenticator(
            MemorySharedKeys([verifier]), MemoryTrustStore([agent]), attempts=count
        )

        def guess(half: SharedKey) -> None:
            holder = Spake2PlusAuthenticator(MemorySharedKeys([half]), MemoryTrustStore([engine]))
            messages(holder.initiator(), check.acceptor())

        self.refused(guess, wrong)
        guess(prover)
        self.assertEqual(count.begun, [prover.key_id] * 2)
        self.assertEqual(count.right, [prover.key_id])
        self.refused(guess, prover)  # there is none left
        self.assertEqual(count.right, [prover.key_id])

    def test_guesses_on_one_key_do_not_lock_another(self) -> None:
        ends = hmac_ends()
        second = SharedKey.generate("hmac", local="agent-2", peer="engine")
        ends.more["engine_keys"].add(second.for_peer())
        ends.engine_trust.add(TrustedPeer("agent-2", second.key_id, frozenset({"hmac"})))
        for _ in range(20):
            initiator, acceptor = ends.dial()
            acceptor.start()
            acceptor.receive(initiator.start())
        agent = HmacAuthenticator(
            MemorySharedKeys([second]),
            MemoryTrustStore([TrustedPeer("engine", second.key_id, frozenset({"hmac"}))]),
        )
        initiator, acceptor = agent.initiator("engine"), ends.engine.acceptor()
        messages(initiator, acceptor)
        self.assertEqual(acceptor.outcome.peer.name, "agent-2")


class ChannelBinding(EveryMechanism):
    def bound(self, ends: Ends, ours: bytes, theirs: bytes) -> tuple[str, str]:
        initiator = ends.agent.initiator("engine", ours)
        acceptor = ends.engine.acceptor(theirs)
        messages(initiator, acceptor)
        return initiator.outcome.facts["tls_path"], acceptor.outcome.facts["tls_path"]

    def test_both_ends_tell_whether_tls_ends_between_them(self) -> None:
        for ends in every_ends():
            self.assertEqual(self.bound(ends, b"a" * 32, b"a" * 32), ("direct", "direct"))
            self.assertEqual(self.bound(ends, b"a" * 32, b"b" * 32), ("proxied", "proxied"))
            self.assertEqual(self.bound(ends, b"a" * 32, b""), ("unknown", "unknown"))

    def test_where_a_direct_path_is_required_a_proxy_is_refused(self) -> None:
        for make in EVERY_MECHANISM.values():
            ends = make(require_direct=True)
            self.assertEqual(self.bound(ends, b"a" * 32, b"a" * 32), ("direct", "direct"))
            for theirs in (b"b" * 32, b""):
                with self.assertRaises(AuthenticationError):
                    self.bound(ends, b"a" * 32, theirs)

    def test_a_proxy_cannot_put_its_own_binding_in(self) -> None:
        for ends in every_ends():
            initiator = ends.agent.initiator("engine", b"a" * 32)
            acceptor = ends.engine.acceptor(b"b" * 32)
            acceptor.start()
            m1 = changed(initiator.start(), binding=b"b" * 32)
            with self.assertRaises(AuthenticationError):
                acceptor.receive(initiator.receive(acceptor.receive(m1)))


def _shares(queue: multiprocessing.SimpleQueue[list[bytes]], ends: Ends) -> None:
    queue.put([fields_of(ends.dial()[0].start())[6] for _ in range(200)])


class Freshness(EveryMechanism):
    def test_shares_never_repeat_also_in_a_forked_process(self) -> None:
        for ends in every_ends():
            context = multiprocessing.get_context("fork")
            queue = context.SimpleQueue()
            child = context.Process(target=_shares, args=(queue, ends))
            child.start()
            ours = [fields_of(ends.dial()[0].start())[6] for _ in range(200)]
            theirs = queue.get()
            child.join()
            self.assertEqual(len({*ours, *theirs}), 400)


class Secrecy(EveryMechanism):
    def test_no_secret_shows_in_a_repr(self) -> None:
        ends = hmac_ends()
        secret = ends.agent_key.secret.reveal()
        initiator, acceptor = ends.dial()
        messages(initiator, acceptor)
        shown = repr([ends.agent_key, ends.agent, initiator, initiator.outcome])
        self.assertNotIn(repr(secret)[2:-1], shown)
        self.assertNotIn(secret.hex(), shown)
