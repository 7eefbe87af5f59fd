"""The pin of a public key: the SHA-256 hash of its SubjectPublicKeyInfo."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkengine.errors import InvalidKeyText

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_PREFIX = "sha256//"


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """The identity of a peer: SHA-256 over the DER SubjectPublicKeyInfo (RFC 7469 §2.4).

    The one text form is curl's ``sha256//`` and the standard base64 of the hash, so that
    ``curl --pinnedpubkey`` takes it as it is, and so that it never looks like the
    fingerprint of an SSH host key.

    Attributes:
        digest: bytes, 32 long.
    """

    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != hashlib.sha256().digest_size:
            raise InvalidKeyText(f"A pin has 32 octets, this has {len(self.digest)}.")

    @classmethod
    def of(cls, public_key: PublicKey) -> Pin:
        """Make the pin of a public key."""
        return cls.of_spki(
            public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )

    @classmethod
    def of_spki(cls, spki: bytes) -> Pin:
        """Make the pin of a DER SubjectPublicKeyInfo."""
        return cls(hashlib.sha256(spki).digest())

    @classmethod
    def parse(cls, text: str) -> Pin:
        """Read the text form, and nothing but the text form.

        Raises:
            InvalidKeyText: it is anything else.
        """
        try:
            if not text.startswith(_PREFIX):
                raise ValueError
            digest = base64.b64decode(text[len(_PREFIX) :].encode("ascii"), validate=True)
            pin = cls(digest)
            if str(pin) != text:  # the last character has unused bits: one form only
                raise ValueError
        except (ValueError, binascii.Error) as error:
            raise InvalidKeyText(
                f"{text!r} is not a pin: expected 'sha256//' and the base64 form of 32 octets."
            ) from error
        return pin

    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(self.digest).decode("ascii")
