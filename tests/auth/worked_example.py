"""The worked example of ``docs/handshake.md``.

Print it with ``python -m tests.auth.worked_example``.
"""

from __future__ import annotations

import datetime
from unittest import mock

from pkengine.auth import akep2
from pkengine.auth.akep2 import HmacAuthenticator
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.auth.trust import MemoryTrustStore
from pkengine.keys import Secret
from pkengine.keys.key_id import KeyId
from tests.auth.exchanges import messages

KEY = SharedKey(
    KeyId(bytes(range(0x10, 0x20))), "hmac", "agent", "engine", Secret(bytes(range(0x40, 0x60)))
)
NONCES = [bytes([0xA0 + i % 16 for i in range(32)]), bytes([0xE0 + i % 16 for i in range(32)])]
TIME = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.timezone.utc)


def worked_example() -> dict[str, bytes]:
    """Give the octets on the wire of one exchange of `hmac` and one record behind it."""
    agent = HmacAuthenticator(
        MemorySharedKeys([KEY]),
        MemoryTrustStore([TrustedPeer("engine", KEY.key_id, frozenset({"hmac"}))]),
        clock=lambda: TIME,
    )
    engine = HmacAuthenticator(
        MemorySharedKeys([KEY.for_peer()]),
        MemoryTrustStore([TrustedPeer("agent", KEY.key_id, frozenset({"hmac"}))]),
        clock=lambda: TIME,
    )
    with mock.patch.object(akep2.secrets, "token_bytes", side_effect=NONCES):
        initiator, acceptor = agent.initiator("engine"), engine.acceptor()
        m1, m2, m3, ready = messages(initiator, acceptor)
    return {
        "M1": m1,
        "M2": m2,
        "M3": m3,
        "ready": ready,
        "record": initiator.protection().seal(b"hello"),
    }


def hexadecimal(octets: bytes) -> str:
    """Write octets as lines of 32."""
    return "\n".join(octets[i : i + 32].hex(" ", -4) for i in range(0, len(octets), 32))


if __name__ == "__main__":
    for name, octets in worked_example().items():
        print(f"{name} ({len(octets)} octets)\n{hexadecimal(octets)}\n")
