"""How two ends make a new shared key over a connection that others may read.

The connection must be authentic: each end has proved itself, and nobody can change what is
said.  It need not be secret: a proxy that ends TLS, an argument list or a log may show it.
Each end sends a *share*, an X25519 public key (RFC 7748), and what comes of the two is known
to nobody else.  HKDF-SHA256 (RFC 5869) makes the key of it, bound to the mechanism, to both
names and to both shares, so the two halves fit only where the ends agree on all of these.

Nothing here proves that the other end has the same key: the mechanism does that, with the
first connection by it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pkengine.auth.fields import encode_fields
from pkengine.auth.key_schedule import PROTOCOL
from pkengine.auth.peer import Role
from pkengine.auth.shared_key import SECRET_SIZE, SHARED_KEY_MECHANISMS, SharedKey
from pkengine.auth.spake2plus import MATERIAL_SIZE, ProverRecord
from pkengine.errors import InvalidKeyText, UnknownMechanism
from pkengine.keys.key_id import KeyId
from pkengine.keys.secret import Secret

_LABEL = PROTOCOL + b" key agreement"
_KEY_ID_SIZE = 16

# 32 octets in base64url without padding; the last character has four bits of them.
_SHARE = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")


class KeyAgreement:
    """One end of one agreement, used once.

    Args:
        mechanism: what the key is for, one of `SHARED_KEY_MECHANISMS`.
        local: who this end is.
        peer: who the other end is.
        role: which role this end has when the key is used.  Under ``spake2plus`` the
            initiator proves the key, and the acceptor keeps a verifier's record alone.
        draw: where the ephemeral key comes from; only the tests hand in anything else.

    Attributes:
        share: what the other end needs, 43 characters of base64url; public.

    Raises:
        UnknownMechanism: the mechanism has no shared key.
    """

    def __init__(
        self,
        mechanism: str,
        *,
        local: str,
        peer: str,
        role: Role,
        draw: Callable[[], X25519PrivateKey] = X25519PrivateKey.generate,
    ) -> None:
        if mechanism not in SHARED_KEY_MECHANISMS:
            raise UnknownMechanism(
                f"The mechanism {mechanism!r} has no shared key to agree on: expected one of "
                f"{', '.join(SHARED_KEY_MECHANISMS)}."
            )
        self._mechanism = mechanism
        self._local = local
        self._peer = peer
        self._role = role
        self._ephemeral: X25519PrivateKey | None = draw()
        self._own = self._ephemeral.public_key().public_bytes_raw()
        self.share = base64.urlsafe_b64encode(self._own).decode("ascii").rstrip("=")

    def agree(self, peer_share: str) -> SharedKey:
        """Give this end's half of the key.

        Args:
            peer_share: the `share` of the other end.

        Raises:
            InvalidKeyText: it is malformed, this end's own, or such that the key would not
                be secret (RFC 7748 §6.1); or this agreement was used before, or its two
                ends have one name.
        """
        ephemeral, self._ephemeral = self._ephemeral, None
        if ephemeral is None:
            raise InvalidKeyText("A key agreement is used once.")
        theirs = _decode_share(peer_share)
        if theirs == self._own:
            raise InvalidKeyText("The share for a key agreement is this end's own.")
        try:
            secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError:
            # What cryptography says where the result is all zero.
            raise InvalidKeyText("The share for a key agreement would give no secret.") from None
        return self._derive(secret, theirs)

    def _derive(self, secret: bytes, theirs: bytes) -> SharedKey:
        ours = (self._local.encode(), self._own)
        others = (self._peer.encode(), theirs)
        initiator, acceptor = (ours, others) if self._role is Role.INITIATOR else (others, ours)
        is_hmac = self._mechanism == "hmac"
        material = HKDF(
            hashes.SHA256(),
            _KEY_ID_SIZE + (SECRET_SIZE if is_hmac else MATERIAL_SIZE),
            salt=PROTOCOL,
            info=encode_fields(_LABEL, self._mechanism.encode(), *initiator, *acceptor),
        ).derive(secret)
        key_id, material = KeyId(material[:_KEY_ID_SIZE]), material[_KEY_ID_SIZE:]
        half = Secret(material) if is_hmac else self._record(material)
        return SharedKey(key_id, self._mechanism, self._local, self._peer, half)

    def _record(self, material: bytes) -> Secret:
        """Give this end's SPAKE2+ record: the secret was drawn, so nothing slow is needed."""
        record = ProverRecord.from_material(material)
        if self._role is Role.INITIATOR:
            return record.encode()
        return record.verifier_record().encode()


def _decode_share(text: str) -> bytes:
    if not _SHARE.fullmatch(text):
        raise InvalidKeyText(
            "The share for a key agreement is malformed: expected 32 octets as 43 characters "
            "of base64url."
        )
    return base64.urlsafe_b64decode(text + "=")
