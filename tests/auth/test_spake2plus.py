"""SPAKE2+: the published vector, and what an attacker may try on the exchange itself."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.p256 import GENERATOR, ORDER, encode_point
from pkengine.auth.spake2plus import (
    Binding,
    Prover,
    ProverRecord,
    Verifier,
    VerifierRecord,
    register,
)
from pkengine.errors import AuthenticationError
from pkengine.keys import Secret

VECTORS = json.loads((Path(__file__).parent / "vectors" / "rfc9383.json").read_text())["vectors"]
BINDING = Binding(b"test", b"agent", b"engine")
RECORD = ProverRecord(w0=0x1234567, w1=0x7654321)


def exchange(
    prover: Prover, verifier: Verifier, binding: Binding = BINDING, other: Binding = BINDING
) -> tuple[Secret, Secret]:
    confirm_v = verifier.respond(other, prover.share)
    confirm_p, key = prover.finish(binding, verifier.share, confirm_v)
    return key, verifier.finish(confirm_p)


class PublishedVector(SynchronousTestCase):
    def test_every_value_of_the_vector_is_reproduced(self) -> None:
        for vector in VECTORS:
            octets = {
                name: bytes.fromhex(value)
                for name, value in vector.items()
                if name not in ("context", "idProver", "idVerifier")
            }
            binding = Binding(
                vector["context"].encode(),
                vector["idProver"].encode(),
                vector["idVerifier"].encode(),
            )
            record = ProverRecord(int(vector["w0"], 16), int(vector["w1"], 16))
            prover = Prover(record, draw_scalar=lambda v=vector: int(v["x"], 16))
            verifier = Verifier(
                record.verifier_record(), draw_scalar=lambda v=vector: int(v["y"], 16)
            )
            self.assertEqual(record.verifier_record().l_encoded, octets["L"])
            self.assertEqual(prover.share, octets["shareP"])
            self.assertEqual(verifier.share, octets["shareV"])
            self.assertEqual(verifier.respond(binding, prover.share), octets["confirmV"])
            confirm_p, key = prover.finish(binding, verifier.share, octets["confirmV"])
            self.assertEqual(confirm_p, octets["confirmP"])
            self.assertEqual(key.reveal(), octets["K_shared"])
            self.assertEqual(verifier.finish(confirm_p), key)

    def test_w0_takes_32_octets_in_the_transcript_also_when_it_is_small(self) -> None:
        record, x, y = ProverRecord(5, 7), 11, 13
        prover = Prover(record, draw_scalar=lambda: x)
        verifier = Verifier(record.verifier_record(), draw_scalar=lambda: y)
        z = encode_point(GENERATOR * (x * y % ORDER))
        v = encode_point(GENERATOR * (record.w1 * y % ORDER))
        vector = VECTORS[0]["TT"]
        m_and_n = bytes.fromhex(vector)[-(8 + 32) - 6 * 73 : -(8 + 32) - 4 * 73]
        transcript = b"".join(
            [
                *(struct.pack("<Q", len(f)) + f for f in (b"test", b"agent", b"engine")),
                m_and_n,
                *(
                    struct.pack("<Q", len(f)) + f
                    for f in (prover.share, verifier.share, z, v, bytes(31) + b"\5")
                ),
            ]
        )
        main = hashlib.sha256(transcript).digest()
        shared = HKDF(hashes.SHA256(), 32, salt=None, info=b"SharedKey").derive(main)
        key, _ = exchange(prover, verifier)
        self.assertEqual(key.reveal(), shared)


class BothSidesAgree(SynchronousTestCase):
    def test_the_same_secret_gives_the_same_fresh_key(self) -> None:
        verifier_record = RECORD.verifier_record()
        keys = set()
        for _ in range(5):
            ours, theirs = exchange(Prover(RECORD), Verifier(verifier_record))
            self.assertEqual(ours, theirs)
            keys.add(ours.reveal())
        self.assertEqual(len(keys), 5)

    def test_registration_gives_records_that_agree(self) -> None:
        record = register(
            Secret("7-correct-horse"), id_prover=b"agent", id_verifier=b"engine", salt=b"id"
        )
        exchange(Prover(record), Verifier(record.verifier_record()))

    def test_registration_depends_on_every_argument(self) -> None:
        given = {"id_prover": b"agent", "id_verifier": b"engine", "salt": b"id"}
        records = {(register(Secret("a"), **given).w0)}
        records.add(register(Secret("b"), **given).w0)
        for name in given:
            records.add(register(Secret("a"), **{**given, name: b"other"}).w0)
        self.assertEqual(len(records), 5)

    def test_registration_wants_both_identities(self) -> None:
        with self.assertRaises(ValueError):
            register(Secret("a"), id_prover=b"", id_verifier=b"engine", salt=b"id")
        with self.assertRaises(ValueError):
            register(Secret("a"), id_prover=b"agent", id_verifier=b"", salt=b"id")

    def test_records_survive_writing_and_reading(self) -> None:
        self.assertEqual(ProverRecord.decode(RECORD.encode()), RECORD)
        verifier_record = RECORD.verifier_record()
        self.assertEqual(VerifierRecord.decode(verifier_record.encode()), verifier_record)

    def test_broken_records_are_refused(self) -> None:
        good = RECORD.encode().reveal()
        for octets in (b"", good[:-1], good + b"\0", bytes(64), b"\xff" * 64):
            with self.assertRaises(ValueError):
                ProverRecord.decode(Secret(octets))
        good = RECORD.verifier_record().encode().reveal()
        for octets in (b"", good[:-1], good + b"\0", bytes(97), good[:32] + b"\4" + bytes(64)):
            with self.assertRaises(ValueError):
                VerifierRecord.decode(Secret(octets))

    def test_records_do_not_show_their_secrets(self) -> None:
        for record in (RECORD, RECORD.verifier_record()):
            self.assertNotIn(str(RECORD.w0), repr(record))
            self.assertNotIn(str(RECORD.w1), repr(record))


class Attacks(SynchronousTestCase):
    """Each of these ends in an error, and no key is given."""

    def refused(self, prover: Prover, verifier: Verifier, **bindings: Binding) -> None:
        with self.assertRaises(AuthenticationError):
            exchange(prover, verifier, **bindings)

    def test_wrong_w0_is_refused(self) -> None:
        self.refused(
            Prover(ProverRecord(RECORD.w0 + 1, RECORD.w1)), Verifier(RECORD.verifier_record())
        )

    def test_wrong_w1_is_refused_by_both_sides(self) -> None:
        thief = Prover(ProverRecord(RECORD.w0, RECORD.w1 + 1))
        verifier = Verifier(RECORD.verifier_record())
        confirm_v = verifier.respond(BINDING, thief.share)
        with self.assertRaises(AuthenticationError):
            thief.finish(BINDING, verifier.share, confirm_v)
        with self.assertRaises(AuthenticationError):
            verifier.finish(hmac.digest(bytes(32), verifier.share, "sha256"))

    def test_each_malformed_share_is_refused_by_both_sides(self) -> None:
        for share in (b"", b"\0", b"\4" + bytes(64), b"\4" + b"\xff" * 64):
            with self.assertRaises(AuthenticationError):
                Verifier(RECORD.verifier_record()).respond(BINDING, share)
            with self.assertRaises(AuthenticationError):
                Prover(RECORD).finish(BINDING, share, bytes(32))

    def test_a_share_that_is_only_the_mask_is_refused_by_both_sides(self) -> None:
        with self.assertRaises(AuthenticationError):
            Verifier(RECORD.verifier_record()).respond(BINDING, encode_point(RECORD.w0_m))
        with self.assertRaises(AuthenticationError):
            Prover(RECORD).finish(BINDING, encode_point(RECORD.w0_n), bytes(32))

    def test_a_reflected_share_is_refused(self) -> None:
        prover = Prover(RECORD)
        with self.assertRaises(AuthenticationError):
            prover.finish(BINDING, prover.share, hmac.digest(bytes(32), prover.share, "sha256"))

    def test_a_reflected_confirmation_is_refused(self) -> None:
        prover, verifier = Prover(RECORD), Verifier(RECORD.verifier_record())
        confirm_v = verifier.respond(BINDING, prover.share)
        with self.assertRaises(AuthenticationError):
            verifier.finish(confirm_v)

    def test_another_identity_or_context_is_refused(self) -> None:
        for other in (
            Binding(b"test", b"agent-2", b"engine"),
            Binding(b"test", b"agent", b"engine-2"),
            Binding(b"other", b"agent", b"engine"),
            Binding(b"testa", b"gent", b"engine"),
        ):
            self.refused(Prover(RECORD), Verifier(RECORD.verifier_record()), other=other)

    def test_every_flipped_bit_of_a_confirmation_is_refused(self) -> None:
        for bit in range(256):
            flip = bytes(1 << bit % 8 if i == bit // 8 else 0 for i in range(32))
            prover, verifier = Prover(RECORD), Verifier(RECORD.verifier_record())
            confirm_v = verifier.respond(BINDING, prover.share)
            wrong = bytes(a ^ b for a, b in zip(confirm_v, flip, strict=True))
            with self.assertRaises(AuthenticationError):
                prover.finish(BINDING, verifier.share, wrong)
            if bit % 32:
                continue  # the other direction is the same comparison; a sample is enough
            prover, verifier = Prover(RECORD), Verifier(RECORD.verifier_record())
            confirm_v = verifier.respond(BINDING, prover.share)
            confirm_p, _ = prover.finish(BINDING, verifier.share, confirm_v)
            with self.assertRaises(AuthenticationError):
                verifier.finish(bytes(a ^ b for a, b in zip(confirm_p, flip, strict=True)))

    def test_a_confirmation_of_another_length_is_refused(self) -> None:
        for length in (0, 1, 31, 33):
            prover, verifier = Prover(RECORD), Verifier(RECORD.verifier_record())
            confirm_v = verifier.respond(BINDING, prover.share)
            with self.assertRaises(AuthenticationError):
                prover.finish(BINDING, verifier.share, (confirm_v + b"\0")[:length])

    def test_a_stolen_verifier_record_does_not_make_a_prover(self) -> None:
        stolen = RECORD.verifier_record()
        guess = int.from_bytes(hashlib.sha256(stolen.l_encoded).digest(), "big") % ORDER
        self.refused(Prover(ProverRecord(stolen.w0, guess)), Verifier(stolen))

    def test_a_stolen_verifier_record_does_make_a_verifier(self) -> None:
        """By design, and documented: the record is what the verifier proves itself with."""
        stolen = VerifierRecord.decode(RECORD.verifier_record().encode())
        ours, thiefs = exchange(Prover(RECORD), Verifier(stolen))
        self.assertEqual(ours, thiefs)

    def test_an_exchange_is_used_once(self) -> None:
        prover, verifier = Prover(RECORD), Verifier(RECORD.verifier_record())
        exchange(prover, verifier)
        with self.assertRaises(AuthenticationError):
            verifier.respond(BINDING, prover.share)
        with self.assertRaises(AuthenticationError):
            prover.finish(BINDING, verifier.share, bytes(32))
        with self.assertRaises(AuthenticationError):
            verifier.finish(bytes(32))

    def test_a_failed_exchange_is_not_used_again(self) -> None:
        verifier = Verifier(RECORD.verifier_record())
        with self.assertRaises(AuthenticationError):
            verifier.respond(BINDING, b"")
        with self.assertRaises(AuthenticationError):
            verifier.respond(BINDING, Prover(RECORD).share)

    def test_the_verifier_gives_no_key_before_a_confirmation(self) -> None:
        verifier = Verifier(RECORD.verifier_record())
        with self.assertRaises(AuthenticationError):
            verifier.finish(bytes(32))
