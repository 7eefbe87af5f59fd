"""What authenticators read about hosts, kept as the keys of the hosts say.

A host may have several keys, and a key may be accepted in several mechanisms.  A trust store
has one record a key, so the keys of a host are brought together here; the secrets behind
them are opened once, when the key is met first, and never written in clear.
"""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections import defaultdict
from collections.abc import Iterator

from pkengine.auth.peer import PeerKey, TrustedPeer
from pkengine.auth.shared_key import SharedKey
from pkengine.engine.model import Host, HostKey, KeySource
from pkengine.engine.store.sealing import Seal
from pkengine.errors import Conflict
from pkengine.interfaces import ISharedKeyStore, ITrustStore
from pkengine.keys import Pin, Secret
from pkengine.keys.key_id import KeyId

#: What an agent proves itself by: its own key, or one that it shares with this engine.
AgentKey = Pin | SharedKey


class HostTrust:
    """Keeps a trust store and the shared keys in step with the hosts.

    Attributes:
        peers: whose keys are accepted; a host's name there is its id as text.
        secrets: what the engine shares with hosts.

    Args:
        peers, secrets: the same.
        seal: opens the secrets that come from the database.
    """

    def __init__(self, peers: ITrustStore, secrets: ISharedKeyStore, seal: Seal) -> None:
        self.peers = peers
        self.secrets = secrets
        self._seal = seal
        self._followed: dict[uuid.UUID, dict[PeerKey, TrustedPeer]] = {}

    def host_key(
        self, key: AgentKey, mechanism: str, source: KeySource, added: datetime.datetime
    ) -> HostKey:
        """Give a key in the form in which a host has it, a secret being sealed."""
        if isinstance(key, Pin):
            return HostKey(key=key, mechanism=mechanism, source=source, added=added)
        return HostKey(
            key=key.key_id,
            mechanism=mechanism,
            source=source,
            added=added,
            sealed=self._seal.seal(Secret(key.encode()), key.peer, str(key.key_id), mechanism),
        )

    @contextlib.contextmanager
    def trying(self, host: Host, key: AgentKey) -> Iterator[TrustedPeer]:
        """Accept a key that its agent has not proved yet, by the host's mechanism.

        Where the host has not got it by the end, trust in it is withdrawn.

        Raises:
            Conflict: it is the key of another host.
        """
        record = _record(host, key)
        known = self.peers.lookup(record.key)
        if known is not None:
            raise Conflict(is_copied(host, known.comment))
        if isinstance(key, SharedKey):
            self.secrets.add(key)
        self.peers.add(record)
        try:
            yield record
        finally:
            is_kept = record.key in self._followed.get(host.id, {})
            if not is_kept and self.peers.lookup(record.key) is not None:
                self._remove({record.key})

    def follow(self, host: Host) -> None:
        """Trust just the keys that the host has; connections by any other close now.

        Raises:
            KeyFileError: a secret cannot be opened; nothing has changed then.
        """
        before = self._followed.get(host.id, {})
        wanted = _records(host)
        opened = [
            self._open(host.id, key, key.sealed)
            for key in host.keys
            if key.sealed is not None and key.key not in before
        ]
        self._remove(set(before) - set(wanted))
        for secret in opened:
            self.secrets.add(secret)
        for key, record in wanted.items():
            if before.get(key) != record:
                self.peers.add(record)
        if wanted:
            self._followed[host.id] = wanted
        else:
            self._followed.pop(host.id, None)

    def forget(self, host_id: uuid.UUID) -> None:
        """Trust no key of a host any more; its connections close now."""
        self._remove(set(self._followed.pop(host_id, ())))

    def _remove(self, keys: set[PeerKey]) -> None:
        for key in keys:
            self.peers.remove(key)
            if isinstance(key, KeyId):
                self.secrets.remove(key)

    def _open(self, host_id: uuid.UUID, key: HostKey, sealed: bytes) -> SharedKey:
        opened = self._seal.open(sealed, peer_name(host_id), str(key.key), key.mechanism)
        return SharedKey.decode(opened.reveal())


def _record(host: Host, key: AgentKey) -> TrustedPeer:
    key_id = key if isinstance(key, Pin) else key.key_id
    return TrustedPeer(peer_name(host.id), key_id, frozenset({host.mechanism}), comment=host.name)


def _records(host: Host) -> dict[PeerKey, TrustedPeer]:
    mechanisms: dict[PeerKey, set[str]] = defaultdict(set)
    for key in host.keys:
        mechanisms[key.key].add(key.mechanism)
    name = peer_name(host.id)
    return {
        key: TrustedPeer(name, key, frozenset(accepted), comment=host.name)
        for key, accepted in mechanisms.items()
    }


def is_copied(host: Host, other: str) -> str:
    """Say of a host's agent that it has the key of another host, which has that name."""
    return (
        f"The agent at {host.address} has the key of Host {other}, so both are one "
        f"machine, or a copy of one: remove Host {other}, or give the copy a key of its "
        "own by removing agent.key and agent.crt from its state folder."
    )


def peer_name(host_id: uuid.UUID) -> str:
    """Give the name by which trust stores know a host: it never changes."""
    return str(host_id)
