"""CPU time of one exchange of each mechanism, both sides, and of one record with a MAC.

Run it with ``pip install pkengine spake2`` and ``python benchmarks/mechanisms.py``.  All is in
memory and in one process; rounds are interleaved and medians are printed.  The peer is the
``spake2`` package: SPAKE2 in pure Python, for an exchange that also proves a password.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from spake2 import SPAKE2_A, SPAKE2_B

from pkengine.auth.akep2 import HmacAuthenticator
from pkengine.auth.mac_records import MacRecords
from pkengine.auth.pake import Spake2PlusAuthenticator, register_pair
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.auth.sigma import SignAuthenticator
from pkengine.auth.trust import MemoryTrustStore
from pkengine.interfaces import IAuthenticator
from pkengine.keys import KeyPair, KeyType, Secret

ROUNDS = 9


def run(agent: IAuthenticator, engine: IAuthenticator) -> None:
    """Run one exchange from the first octet to *ready*."""
    initiator, acceptor = agent.initiator("engine"), engine.acceptor()
    to_acceptor, to_initiator = initiator.start(), acceptor.start()
    while initiator.outcome is None or acceptor.outcome is None:
        if acceptor.outcome is None:
            to_initiator += acceptor.receive(to_acceptor)
        to_acceptor = initiator.receive(to_initiator)
        to_initiator = b""


def by_keys(
    make: Callable[[KeyPair, MemoryTrustStore], IAuthenticator], mechanism: str, key_type: KeyType
) -> Callable[[], None]:
    agent, engine = (KeyPair.generate(name, key_type=key_type) for name in ("agent", "engine"))
    ours = make(
        agent, MemoryTrustStore([TrustedPeer("engine", engine.pin, frozenset({mechanism}))])
    )
    theirs = make(
        engine, MemoryTrustStore([TrustedPeer("agent", agent.pin, frozenset({mechanism}))])
    )
    return lambda: run(ours, theirs)


def by_secrets(
    make: Callable[[MemorySharedKeys, MemoryTrustStore], IAuthenticator],
    ours: SharedKey,
    theirs: SharedKey,
) -> Callable[[], None]:
    key, mechanism = ours.key_id, ours.mechanism
    agent = make(
        MemorySharedKeys([ours]),
        MemoryTrustStore([TrustedPeer("engine", key, frozenset({mechanism}))]),
    )
    engine = make(
        MemorySharedKeys([theirs]),
        MemoryTrustStore([TrustedPeer("agent", key, frozenset({mechanism}))]),
    )
    return lambda: run(agent, engine)


def spake2_package() -> None:
    one, other = SPAKE2_A(b"password"), SPAKE2_B(b"password")
    message, answer = one.start(), other.start()
    assert one.finish(answer) == other.finish(message)


def record() -> Callable[[], None]:
    one = MacRecords(b"a" * 32, b"b" * 32, clock=time.monotonic)
    other = MacRecords(b"b" * 32, b"a" * 32, clock=time.monotonic)
    payload = bytes(1024)

    def seal_and_open() -> None:
        assert len(other.open(one.seal(payload))) == 1024

    return seal_and_open


def cpu_ms(step: Callable[[], None], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - start) / count * 1e3


def main() -> None:
    shared = SharedKey.generate("hmac", local="agent", peer="engine")
    pair = register_pair(Secret("password"), prover="agent", verifier="engine")
    steps: dict[str, tuple[Callable[[], None], int, float | None]] = {
        "hmac": (by_secrets(HmacAuthenticator, shared, shared.for_peer()), 400, 0.15),
        "sign, P-256": (by_keys(SignAuthenticator, "sign", KeyType.P256), 150, 1.2),
        "sign, Ed25519": (by_keys(SignAuthenticator, "sign", KeyType.ED25519), 150, 1.2),
        "spake2plus": (by_secrets(Spake2PlusAuthenticator, *pair), 60, 2.2),
        "pin, P-256, in memory": (by_keys(PinAuthenticator, "pin", KeyType.P256), 100, None),
        "spake2 package": (spake2_package, 6, None),
        "record of 1 KiB, seal and open": (record(), 4000, 0.012),
    }
    for step, _, _ in steps.values():
        step()  # imports and caches
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, (step, count, _) in steps.items():
            times[name].append(cpu_ms(step, count))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'CPU ms, both sides':34}{'median':>9}{'min':>9}{'max':>9}{'goal':>9}")
    for name, (_, _, goal) in steps.items():
        low, high = min(times[name]), max(times[name])
        print(
            f"{name:34}{medians[name]:9.4f}{low:9.4f}{high:9.4f}"
            f"{'' if goal is None else format(goal, '9.3f'):>9}"
        )
    ratio = medians["spake2plus"] / medians["spake2 package"]
    print(f"spake2plus / spake2 package: {ratio:.3f} (goal 0.15)")


if __name__ == "__main__":
    main()
