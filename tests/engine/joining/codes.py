"""Codes of tests: registered in no time, proved by whoever knows them."""

from __future__ import annotations

import hashlib

from pkengine.auth.join_code import INVITING_ENGINE, JOINING_HOST, JoinCode, join_key_id
from pkengine.auth.p256 import ORDER
from pkengine.auth.pake import Spake2PlusAuthenticator
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.auth.spake2plus import ProverRecord
from pkengine.auth.trust import MemoryTrustStore


async def register(code: JoinCode) -> tuple[SharedKey, SharedKey]:
    """Do what `JoinCode.register` does, without its slow derivation."""
    halves = [
        int.from_bytes(hashlib.sha512(f"{half} {code.reveal()}".encode()).digest(), "big") % ORDER
        for half in ("w0", "w1")
    ]
    record = ProverRecord(*halves)
    key_id = join_key_id(code.number)
    return (
        SharedKey(key_id, "spake2plus", JOINING_HOST, INVITING_ENGINE, record.encode()),
        SharedKey(
            key_id,
            "spake2plus",
            INVITING_ENGINE,
            JOINING_HOST,
            record.verifier_record().encode(),
        ),
    )


async def prover(code: JoinCode) -> Spake2PlusAuthenticator:
    """Give what proves a code."""
    proof, _ = await register(code)
    engine = TrustedPeer(INVITING_ENGINE, proof.key_id, frozenset({"spake2plus"}))
    return Spake2PlusAuthenticator(MemorySharedKeys([proof]), MemoryTrustStore([engine]))


def wrong(code: JoinCode) -> JoinCode:
    """Give a code of the same number with other words."""
    first, second = code.words
    return JoinCode(code.number, ("abacus" if first != "abacus" else "zodiac", second))
