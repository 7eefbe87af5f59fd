"""Pairs of authenticators that trust each other, and ways to run them against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.task import Clock

from pkengine.auth.akep2 import HmacAuthenticator
from pkengine.auth.pake import Spake2PlusAuthenticator
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.auth.sigma import SignAuthenticator
from pkengine.auth.spake2plus import ProverRecord
from pkengine.auth.trust import MemoryTrustStore
from pkengine.interfaces import IAuthenticator, IExchange
from pkengine.keys import KeyPair, KeyType
from pkengine.keys.key_id import KeyId


@dataclass
class Ends:
    """An agent, which dials, and an engine, which is dialled."""

    mechanism: str
    agent: IAuthenticator
    engine: IAuthenticator
    agent_trust: MemoryTrustStore
    engine_trust: MemoryTrustStore
    clock: Clock
    agent_key: Any = None
    engine_key: Any = None
    more: dict[str, Any] = field(default_factory=dict)

    def dial(self, **arguments: Any) -> tuple[IExchange, IExchange]:
        return self.agent.initiator("engine", **arguments), self.engine.acceptor(**arguments)


def sign_ends(
    agent_type: KeyType = KeyType.P256, engine_type: KeyType = KeyType.ED25519, **policy: Any
) -> Ends:
    clock = Clock()
    agent = KeyPair.generate("agent", key_type=agent_type)
    engine = KeyPair.generate("engine", key_type=engine_type)
    at_agent = MemoryTrustStore([TrustedPeer("engine", engine.pin, frozenset({"sign"}))])
    at_engine = MemoryTrustStore([TrustedPeer("agent", agent.pin, frozenset({"sign"}))])
    policy.setdefault("monotonic", clock.seconds)
    return Ends(
        "sign",
        SignAuthenticator(agent, at_agent, **policy),
        SignAuthenticator(engine, at_engine, **policy),
        at_agent,
        at_engine,
        clock,
        agent,
        engine,
    )


def _shared_ends(
    factory: Callable[..., IAuthenticator], ours: SharedKey, theirs: SharedKey, **policy: Any
) -> Ends:
    clock = Clock()
    policy.setdefault("monotonic", clock.seconds)
    at_agent = MemoryTrustStore([TrustedPeer("engine", ours.key_id, frozenset({ours.mechanism}))])
    at_engine = MemoryTrustStore([TrustedPeer("agent", ours.key_id, frozenset({ours.mechanism}))])
    agent_keys, engine_keys = MemorySharedKeys([ours]), MemorySharedKeys([theirs])
    return Ends(
        ours.mechanism,
        factory(agent_keys, at_agent, **policy),
        factory(engine_keys, at_engine, **policy),
        at_agent,
        at_engine,
        clock,
        ours,
        theirs,
        {"agent_keys": agent_keys, "engine_keys": engine_keys},
    )


def hmac_ends(**policy: Any) -> Ends:
    key = SharedKey.generate("hmac", local="agent", peer="engine")
    return _shared_ends(HmacAuthenticator, key, key.for_peer(), **policy)


def spake2plus_ends(**policy: Any) -> Ends:
    """Skip the slow derivation from a password: its result is two numbers like these."""
    record = ProverRecord(0x1D0E5, 0xF00D5)
    key_id = KeyId.random()
    return _shared_ends(
        Spake2PlusAuthenticator,
        SharedKey(key_id, "spake2plus", "agent", "engine", record.encode()),
        SharedKey(key_id, "spake2plus", "engine", "agent", record.verifier_record().encode()),
        **policy,
    )


EVERY_MECHANISM: dict[str, Callable[..., Ends]] = {
    "hmac": hmac_ends,
    "sign": sign_ends,
    "spake2plus": spake2plus_ends,
}


def every_ends(**policy: Any) -> Iterator[Ends]:
    for make in EVERY_MECHANISM.values():
        yield make(**policy)


def messages(initiator: IExchange, acceptor: IExchange) -> tuple[bytes, bytes, bytes, bytes]:
    """Run an exchange to its end; give M1, M2, M3 and *ready* as they were on the wire."""
    m1 = initiator.start()
    acceptor.start()
    m2 = acceptor.receive(m1)
    m3 = initiator.receive(m2)
    ready = acceptor.receive(m3)
    initiator.receive(ready)
    return m1, m2, m3, ready
