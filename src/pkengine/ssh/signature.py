"""Verify signatures made with SSH keys; no IO."""

from __future__ import annotations

import struct

from cryptography.exceptions import UnsupportedAlgorithm
from twisted.conch.ssh.keys import BadKeyError, Key

from pkengine.keys import SshPublicKey
from pkengine.ssh.wire import MalformedMessage, Reader

#: The signature algorithms that are accepted for each type of key.  The types come in the
#: order of preference of OpenSSH; RSA keys sign with SHA-2 only (RFC 8332).
SIGNATURE_ALGORITHMS: dict[str, tuple[str, ...]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}

#: What conch shows a broken key or signature by.
_UNREADABLE = (BadKeyError, UnsupportedAlgorithm, ValueError, IndexError, struct.error)
#: An RSA key shorter than this, in bits, proves nothing (OpenSSH's RequiredRSASize).
MIN_RSA_BITS = 1024
#: Longer ones would hold up everything else.
MAX_RSA_BITS = 16384


def is_genuine(
    key: SshPublicKey, signature: bytes, signed: bytes, *, algorithm: str | None = None
) -> bool:
    """Tell whether a signature was made with that key.

    Args:
        key: a plain key, no certificate.
        signature: in the wire format, which begins with the name of its algorithm.
        signed: what was signed.
        algorithm: the only one that will do; None means any of `SIGNATURE_ALGORITHMS`.

    Raises:
        MalformedMessage: the key or the signature is none.
    """
    reader = Reader(signature)
    name = reader.string().decode("ascii", "replace")
    reader.string()
    if reader.rest:
        raise MalformedMessage("octets behind a signature")
    accepted = SIGNATURE_ALGORITHMS.get(key.key_type, ())
    if name not in accepted or (algorithm is not None and name != algorithm):
        return False
    try:
        public = Key.fromString(key.blob, "BLOB")
        size = public.size()
        if key.key_type == "ssh-rsa" and not MIN_RSA_BITS <= size <= MAX_RSA_BITS:
            raise MalformedMessage(f"an RSA key of {size} bits")
        return bool(public.verify(signature, signed))
    except MalformedMessage:
        raise
    except _UNREADABLE as error:
        raise MalformedMessage(f"a {key.key_type} key or signature that is none") from error
