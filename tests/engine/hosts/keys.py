"""Keys of hosts, as an installation leaves them, and what follows them."""

from __future__ import annotations

import datetime
from pathlib import Path

from pkengine.auth.peer import PeerKey
from pkengine.auth.shared_key import MemorySharedKeys
from pkengine.auth.trust import MemoryTrustStore
from pkengine.engine.hosts.trust import HostTrust
from pkengine.engine.model import Host, HostKey, KeySource
from pkengine.engine.store import Seal
from pkengine.interfaces import ISharedKeyStore, ITrustStore
from pkengine.keys import Pin, Secret

ADDED = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def pinned(*pins: Pin, mechanism: str = "pin") -> tuple[HostKey, ...]:
    """Give the keys of a host whose agent proves itself by these pins."""
    return tuple(
        HostKey(key=pin, mechanism=mechanism, source=KeySource.DEPLOYED, added=ADDED)
        for pin in pins
    )


def keys_of(host: Host) -> tuple[PeerKey, ...]:
    """Give what the agent of a host is trusted by."""
    return tuple(key.key for key in host.keys)


def seal() -> Seal:
    """Give a seal, always the same."""
    return Seal(Secret(b"s" * 32), str(Path("secrets.key")))


def host_trust(
    peers: ITrustStore | None = None, secrets: ISharedKeyStore | None = None
) -> HostTrust:
    """Give what keeps these stores, or new ones, in step with hosts."""
    return HostTrust(peers or MemoryTrustStore(), secrets or MemorySharedKeys(), seal())
