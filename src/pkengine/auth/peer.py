"""Who a peer is, and what an authenticated connection knows about it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pkengine.keys.key_id import KeyId
from pkengine.keys.pin import Pin
from pkengine.keys.secret import Secret

#: What a peer is known by: the pin of its public key, or the id of a shared secret.
PeerKey = Pin | KeyId


def parse_peer_key(text: str) -> PeerKey:
    """Read the text form of a pin or of a key id.

    Raises:
        InvalidKeyText: it is neither.
    """
    return KeyId.parse(text) if text.startswith("kid//") else Pin.parse(text)


class Role(Enum):
    """Which part an end plays in an authentication, whoever dialled."""

    INITIATOR = "initiator"
    ACCEPTOR = "acceptor"


@dataclass(frozen=True, slots=True)
class TrustedPeer:
    """One key that is accepted, and for whom.

    A peer that has several keys, such as an old and a new one, is several of these with
    one name.

    Attributes:
        name: who the peer is; what the rest of a program knows it by.
        key: the pin of its public key, or the id of the secret that it shares with us.
        mechanisms: the mechanisms that the peer may use with this key.  It is one of them,
            except while a change from one to another is under way.
        expires: when this trust ends, with a time zone, or None for never.
        comment: what a person wrote beside it.
    """

    name: str
    key: PeerKey
    mechanisms: frozenset[str] = frozenset({"pin"})
    expires: datetime.datetime | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The outcome of an authentication.

    Attributes:
        peer: the record of trust that was met.
        mechanism: the name of the mechanism that proved it.
        session_key: the fresh shared key for the records that follow, or None where TLS
            is end to end and protects them.
        facts: what a person may want to see, such as ``tls_version`` and ``tls_group``.
    """

    peer: TrustedPeer
    mechanism: str
    session_key: Secret | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
