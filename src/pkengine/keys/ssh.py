"""SSH public keys and their fingerprints, written as OpenSSH writes them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import struct
from dataclasses import dataclass
from typing import Literal

from pkengine.errors import InvalidKeyText

_MD5_FORM = re.compile(r"(?:MD5:)?((?:[0-9a-f]{2}:){15}[0-9a-f]{2})", re.IGNORECASE)
_KEY_TYPE = re.compile(r"[a-z0-9@.-]{1,64}")

HashName = Literal["SHA256", "MD5"]


@dataclass(frozen=True, slots=True)
class SshFingerprint:
    """The hash of an SSH public key as ``ssh-keygen -l`` prints it.

    ``SHA256:`` and unpadded base64 is the form that is printed.  ``MD5:`` and sixteen
    octets in hexadecimal with colons, with or without the prefix, is read as well,
    because older systems still show it.

    Attributes:
        algorithm: "SHA256" or "MD5".
        digest: bytes, 32 or 16 long.
    """

    algorithm: HashName
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> SshFingerprint:
        """Read a fingerprint.

        Raises:
            InvalidKeyText: it is in neither form.
        """
        stripped = text.strip()
        if match := _MD5_FORM.fullmatch(stripped):
            return cls("MD5", bytes.fromhex(match[1].replace(":", "")))
        if stripped.startswith("SHA256:"):
            encoded = stripped[len("SHA256:") :].rstrip("=")
            try:
                digest = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
            except (ValueError, binascii.Error):
                digest = b""
            fingerprint = cls("SHA256", digest)
            if len(digest) == 32 and str(fingerprint) == "SHA256:" + encoded:
                return fingerprint
        raise InvalidKeyText(
            f"{text!r} is not an SSH fingerprint: expected 'SHA256:' and 43 characters of "
            "base64, as 'ssh-keygen -l' prints it, or 'MD5:' and 16 octets in hexadecimal."
        )

    def matches(self, key: SshPublicKey) -> bool:
        """Tell whether this is the fingerprint of that key."""
        return hmac.compare_digest(self.digest, key.fingerprint(self.algorithm).digest)

    def __str__(self) -> str:
        if self.algorithm == "MD5":
            return "MD5:" + self.digest.hex(":")
        return "SHA256:" + base64.b64encode(self.digest).decode("ascii").rstrip("=")


@dataclass(frozen=True, slots=True)
class SshPublicKey:
    """An SSH public key, such as a host key (RFC 4253 §6.6).

    Attributes:
        key_type: the key's format name, such as ``ssh-ed25519`` or ``ssh-rsa``.
        blob: the key in the wire format, which begins with that name.
    """

    key_type: str
    blob: bytes

    @classmethod
    def from_blob(cls, blob: bytes) -> SshPublicKey:
        """Read the wire format; only the name in front is looked at.

        Raises:
            InvalidKeyText: no format name is in front.
        """
        if len(blob) > 4:
            (length,) = struct.unpack_from(">I", blob)
            name = blob[4 : 4 + length].decode("ascii", "replace")
            if length == len(name) and len(blob) > 4 + length and _KEY_TYPE.fullmatch(name):
                return cls(name, blob)
        raise InvalidKeyText("The octets are no SSH public key.")

    @classmethod
    def parse(cls, text: str) -> SshPublicKey:
        """Read OpenSSH's one-line form, ``TYPE BASE64 [COMMENT]``.

        Raises:
            InvalidKeyText: it is anything else, or the type named is not the key's.
        """
        if "PRIVATE KEY-----" in text:
            raise InvalidKeyText(
                "This is a private key, which belongs on no command line and into no request: "
                "expected the public one, which 'ssh-keygen' writes beside it with the ending "
                "'.pub'."
            )
        words = text.split(None, 2)
        try:
            if len(words) < 2 or len(text.strip().splitlines()) > 1:
                raise ValueError
            key = cls.from_blob(base64.b64decode(words[1].encode("ascii"), validate=True))
            if key.key_type != words[0]:
                raise ValueError
        except (ValueError, binascii.Error) as error:
            raise InvalidKeyText(
                f"{text.strip()[:60]!r} is not an SSH public key: expected one line such as "
                "'ssh-ed25519 AAAAC3Nz…', as it stands in /etc/ssh/ssh_host_ed25519_key.pub."
            ) from error
        return key

    def fingerprint(self, algorithm: HashName = "SHA256") -> SshFingerprint:
        """Make the fingerprint of this key."""
        if algorithm == "MD5":
            return SshFingerprint("MD5", hashlib.md5(self.blob, usedforsecurity=False).digest())
        return SshFingerprint("SHA256", hashlib.sha256(self.blob).digest())

    def __str__(self) -> str:
        """Give OpenSSH's one-line form, without a comment."""
        return f"{self.key_type} {base64.b64encode(self.blob).decode('ascii')}"
