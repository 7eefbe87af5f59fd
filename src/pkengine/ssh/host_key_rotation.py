"""Learn a host's other keys from the one that it proved (OpenSSH's PROTOCOL §2.5); no IO.

After a login, OpenSSH's server names all its host keys (``hostkeys-00@openssh.com``).  The
client may ask it to sign this very connection with them (``hostkeys-prove-00@openssh.com``).
As the connection was made with a key that is trusted, such a proof comes from the trusted host:
an administrator who puts a new key beside the old one, and removes the old one later, needs to
tell nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pkengine.errors import InvalidKeyText
from pkengine.keys import SshPublicKey
from pkengine.ssh.signature import SIGNATURE_ALGORITHMS, is_genuine
from pkengine.ssh.wire import MalformedMessage, Reader, string

ANNOUNCEMENT = b"hostkeys-00@openssh.com"
PROOF = b"hostkeys-prove-00@openssh.com"
_MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class HostKeyUpdate:
    """What a host says of its keys on a connection whose own key was accepted.

    Attributes:
        keys: all that it has now, of the types that are understood.
        added: those of them that were not known; it proved that it holds each.
        removed: those that were known and that it has no more.
    """

    keys: tuple[SshPublicKey, ...]
    added: tuple[SshPublicKey, ...]
    removed: tuple[SshPublicKey, ...]

    def __bool__(self) -> bool:
        """Tell whether there is anything new."""
        return bool(self.added or self.removed)


def announced_keys(payload: bytes) -> tuple[SshPublicKey, ...]:
    """Read an announcement; types that are not understood are left out.

    Raises:
        MalformedMessage: it is none.
    """
    reader = Reader(payload)
    keys: dict[SshPublicKey, None] = {}
    for _ in range(_MAX_KEYS):
        if not reader.rest:
            break
        try:
            key = SshPublicKey.from_blob(reader.string())
        except InvalidKeyText as error:
            raise MalformedMessage("a host key that is none") from error
        if key.key_type in SIGNATURE_ALGORITHMS:
            keys[key] = None
    return tuple(keys)


def unproven(
    announced: Iterable[SshPublicKey],
    known: Sequence[SshPublicKey],
    revoked: Sequence[SshPublicKey],
) -> tuple[SshPublicKey, ...]:
    """Give the announced keys for which a proof is wanted."""
    return tuple(key for key in announced if key not in known and key not in revoked)


def proof_request(keys: Iterable[SshPublicKey]) -> bytes:
    """Write the request to prove that the host holds these keys."""
    return b"".join(string(key.blob) for key in keys)


def first_without_proof(
    keys: Sequence[SshPublicKey], answer: bytes | None, session_id: bytes
) -> SshPublicKey | None:
    """Verify the answer to `proof_request`.

    Args:
        keys: those that were asked for, in that order.
        answer: what the host answers, or None where it refuses.
        session_id: the exchange hash of the connection's first key exchange.

    Returns:
        The first key whose signature is not genuine, or None where all are proved.
    """
    reader = Reader(answer or b"")
    for key in keys:
        signed = string(PROOF) + string(session_id) + string(key.blob)
        try:
            if not is_genuine(key, reader.string(), signed):
                return key
        except MalformedMessage:
            return key
    return None


def update(
    announced: Sequence[SshPublicKey],
    known: Sequence[SshPublicKey],
    proven: Sequence[SshPublicKey],
    shown: SshPublicKey,
) -> HostKeyUpdate:
    """Compare what is proved with what was known.

    Args:
        announced: the keys that the host names.
        known: the keys that it had before.
        proven: the keys that it proved now.
        shown: the key of this connection: the host has it, whatever it names.
    """
    keys = dict.fromkeys(key for key in announced if key in known or key in proven or key == shown)
    keys.setdefault(shown)
    removed = tuple(key for key in known if key not in keys)
    return HostKeyUpdate(tuple(keys), tuple(proven), removed)
