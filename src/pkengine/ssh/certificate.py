"""OpenSSH's host certificates (PROTOCOL.certkeys): read them and verify them; no IO.

A certificate says that a key belongs to a host of certain names, for a certain time; an
authority signs it.  Only host certificates are of use here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from pkengine.errors import InvalidKeyText
from pkengine.keys import SshPublicKey
from pkengine.ssh.patterns import matches_pattern
from pkengine.ssh.signature import SIGNATURE_ALGORITHMS, is_genuine
from pkengine.ssh.wire import MalformedMessage, Reader, readable, string

#: What stands behind a key type, or a signature algorithm, where it is that of a certificate.
CERTIFICATE_SUFFIX = "-cert-v01@openssh.com"

#: The host key algorithms for each type of certificate.
CERTIFICATE_ALGORITHMS = {
    key_type + CERTIFICATE_SUFFIX: tuple(name + CERTIFICATE_SUFFIX for name in algorithms)
    for key_type, algorithms in SIGNATURE_ALGORITHMS.items()
}

_HOST = 2
_FOREVER = 2**64 - 1
_MAX_PRINCIPALS = 256
#: How many strings (or mpints) make up the public key, behind the nonce.
_KEY_FIELDS = {"ssh-ed25519": 1, "ssh-rsa": 2}
_ECDSA_KEY_FIELDS = 2


class CertificateRefused(ValueError):
    """A certificate does not vouch for this host at this time; the text says why."""


def is_certificate(key: SshPublicKey) -> bool:
    """Tell whether a host key is a certificate of a type that is understood."""
    return key.key_type in CERTIFICATE_ALGORITHMS


def certified_key(key: SshPublicKey) -> SshPublicKey:
    """Give a certificate's own key; and any other key as it is.

    Raises:
        MalformedMessage: the certificate is not well formed.
    """
    return HostCertificate.parse(key).key if is_certificate(key) else key


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """A certificate, taken apart.  What it says is not verified by reading it.

    Attributes:
        key: whom it is about.
        authority: who signed it.
        kind: 1 for a user, 2 for a host.
        valid_after, valid_before: seconds since 1970; the first is part of the time.
        critical_options: names of what must be understood, or the certificate is worthless.
        signed: what the signature covers.
    """

    key: SshPublicKey
    authority: SshPublicKey
    kind: int
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical_options: tuple[str, ...]
    signed: bytes
    signature: bytes

    @classmethod
    def parse(cls, certificate: SshPublicKey) -> HostCertificate:
        """Take apart what a host shows as its key.

        Raises:
            MalformedMessage: it is no certificate.
        """
        reader = Reader(certificate.blob)
        key_type = certificate.key_type.removesuffix(CERTIFICATE_SUFFIX)
        reader.string()
        reader.string()  # the nonce
        fields = [reader.string() for _ in range(_KEY_FIELDS.get(key_type, _ECDSA_KEY_FIELDS))]
        serial = int.from_bytes(reader.octets(8), "big")
        kind = reader.uint32()
        key_id = readable(reader.string())
        principals = tuple(name.decode("utf-8", "replace") for name in _strings(reader.string()))
        valid_after = int.from_bytes(reader.octets(8), "big")
        valid_before = int.from_bytes(reader.octets(8), "big")
        options = tuple(readable(name) for name in _strings(reader.string())[::2])
        reader.string()  # extensions, which a host has none of
        reader.string()  # reserved
        authority = reader.string()
        signed = certificate.blob[: len(certificate.blob) - len(reader.rest)]
        signature = reader.string()
        if reader.rest:
            raise MalformedMessage("octets behind a certificate")
        try:
            signer = SshPublicKey.from_blob(authority)
        except InvalidKeyText as error:
            raise MalformedMessage("a certificate without a signer") from error
        return cls(
            SshPublicKey(key_type, string(key_type.encode()) + b"".join(map(string, fields))),
            signer,
            kind,
            serial,
            key_id,
            principals,
            valid_after,
            valid_before,
            options,
            signed,
            signature,
        )

    def check(self, name: str, now: float, authorities: Sequence[SshPublicKey]) -> None:
        """See that it vouches for a host.

        Args:
            name: the name or the address by which the host is reached.
            now: seconds since 1970.
            authorities: whose certificates are accepted.

        Raises:
            CertificateRefused: it does not.
            MalformedMessage: its signature, or the key that made it, is none.
        """
        if self.authority not in authorities:
            raise CertificateRefused(
                f"it is signed by {self.authority.key_type} {self.authority.fingerprint()}, which "
                "is no authority for this host"
            )
        if not is_genuine(self.authority, self.signature, self.signed):
            raise CertificateRefused("its signature is not genuine")
        if self.kind != _HOST:
            raise CertificateRefused("it is a certificate for users, not for hosts")
        if now < self.valid_after:
            raise CertificateRefused(f"it is not valid before {_when(self.valid_after)}")
        if now >= self.valid_before:
            raise CertificateRefused(f"it expired at {_when(self.valid_before)}")
        if self.critical_options:
            options = ", ".join(self.critical_options)
            raise CertificateRefused(f"it has critical options that are not understood: {options}")
        if not any(matches_pattern(pattern, name) for pattern in self.principals):
            names = readable(", ".join(self.principals)) or "no host at all"
            raise CertificateRefused(f"it is for {names}, and not for {name}")


def _strings(packed: bytes) -> list[bytes]:
    reader, strings = Reader(packed), []
    while reader.rest:
        strings.append(reader.string())
        if len(strings) > 2 * _MAX_PRINCIPALS:
            raise MalformedMessage("a list in a certificate without end")
    return strings


def _when(seconds: int) -> str:
    if seconds >= _FOREVER:
        return "ever"
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"second {seconds}"
