"""The key schedule that follows a handshake: HKDF (RFC 5869) over transcript hashes.

Every derivation names this protocol, the mechanism and the purpose, and covers the hash of
all that was said so far, as in TLS 1.3 (RFC 8446 §7.1).  A key made for one mechanism can
therefore never serve another, and two handshakes that differ in one octet share no key.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from pkengine.keys.secret import Secret

#: The name and version of the protocol, in every salt, label and signature.
PROTOCOL = b"pkengine auth 1"

KEY_SIZE = 32


class KeySchedule:
    """Derives keys from one secret input.

    Args:
        mechanism: the mechanism's name.
        secret: the input keying material: a shared key or the result of a key exchange.
    """

    __slots__ = ("_mechanism", "_prk")

    def __init__(self, mechanism: str, secret: Secret) -> None:
        self._mechanism = mechanism.encode("ascii")
        salt = PROTOCOL + b" " + self._mechanism
        # HKDF-Extract is an HMAC keyed with the salt (RFC 5869 §2.2).
        self._prk = hmac.digest(salt, secret.reveal(), "sha256")

    def derive(self, purpose: bytes, transcript_hash: bytes) -> bytes:
        """Derive a key of 32 octets for one purpose.

        Args:
            purpose: such as ``b"initiator finished"``.
            transcript_hash: SHA-256 over all messages up to here.
        """
        info = b"\0".join((PROTOCOL, self._mechanism, purpose)) + b"\0" + transcript_hash
        return HKDFExpand(hashes.SHA256(), KEY_SIZE, info).derive(self._prk)

    def finished(self, purpose: bytes, transcript_hash: bytes) -> bytes:
        """Make a Finished MAC (RFC 8446 §4.4.4): proof of the secret over the transcript."""
        return hmac.digest(self.derive(purpose, transcript_hash), transcript_hash, "sha256")


def transcript_hash(*messages: bytes) -> bytes:
    """Hash messages in order; each one must tell its own length."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(message)
    return digest.digest()
