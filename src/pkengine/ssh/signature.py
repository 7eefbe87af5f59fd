"""Verify signatures made with SSH keys; no IO."""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

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

#: What the algorithms hash with; Ed25519 needs nothing from here.
_HASHES: dict[str, HashAlgorithm] = {
    "ecdsa-sha2-nistp256": SHA256(),
    "ecdsa-sha2-nistp384": SHA384(),
    "ecdsa-sha2-nistp521": SHA512(),
    "rsa-sha2-512": SHA512(),
    "rsa-sha2-256": SHA256(),
}
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
    value = reader.string()
    if reader.rest:
        raise MalformedMessage("octets behind a signature")
    accepted = SIGNATURE_ALGORITHMS.get(key.key_type, ())
    if name not in accepted or (algorithm is not None and name != algorithm):
        return False
    try:
        _verify(key, name, value, signed)
    except InvalidSignature:
        return False
    except MalformedMessage:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedMessage(f"a {key.key_type} key or signature that is none") from error
    return True


def _verify(key: SshPublicKey, algorithm: str, value: bytes, signed: bytes) -> None:
    public = load_ssh_public_key(f"{key.key_type} ".encode() + base64.b64encode(key.blob))
    if isinstance(public, Ed25519PublicKey):
        public.verify(value, signed)
    elif isinstance(public, EllipticCurvePublicKey):  # RFC 5656 §3.1.2
        reader = Reader(value)
        r, s = (int.from_bytes(reader.string(), "big", signed=True) for _ in range(2))
        public.verify(encode_dss_signature(r, s), signed, ECDSA(_HASHES[algorithm]))
    elif isinstance(public, RSAPublicKey):
        if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
            raise MalformedMessage(f"an RSA key of {public.key_size} bits")
        # Some servers leave leading zeros out, which OpenSSH puts up with too.
        value = value.rjust((public.key_size + 7) // 8, b"\0")
        public.verify(value, signed, PKCS1v15(), _HASHES[algorithm])
    else:
        raise InvalidSignature
