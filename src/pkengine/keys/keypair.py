"""A key pair and the self-signed certificate that carries its public half in TLS."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from pkengine.errors import KeyFileError
from pkengine.keys.files import (
    create_atomically,
    make_private_directory,
    read_private,
    write_atomically,
)
from pkengine.keys.pin import Pin

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

#: "No well-defined expiration date" (RFC 5280 §4.1.2.5).
NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc)
_COMMON_NAME_OCTETS = 64  # ub-common-name (RFC 5280 appendix A.1), in the narrower reading
_ALWAYS = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class KeyType(Enum):
    """The kinds of key that peers may have."""

    P256 = "p256"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KeyPair:
    """A private key with its self-signed certificate.

    The certificate is only the container that TLS asks for: it never expires, and peers
    compare nothing but the public key in it.
    """

    private_key: PrivateKey
    certificate: x509.Certificate

    @classmethod
    def generate(
        cls,
        common_name: str,
        *,
        key_type: KeyType = KeyType.P256,
        subject_alternative_names: Iterable[str] = (),
    ) -> KeyPair:
        """Make a new key pair.

        Args:
            common_name: the subject of the certificate, for people to read.
            key_type: which kind of key.
            subject_alternative_names: DNS names and IP addresses, for a certificate that
                clients verify by name.
        """
        private_key: PrivateKey
        if key_type is KeyType.ED25519:
            private_key = ed25519.Ed25519PrivateKey.generate()
        else:
            private_key = ec.generate_private_key(ec.SECP256R1())
        return cls(private_key, _certify(private_key, common_name, subject_alternative_names))

    @classmethod
    def load_or_create(
        cls,
        directory: Path,
        name: str,
        *,
        key_type: KeyType = KeyType.P256,
        subject_alternative_names: Iterable[str] = (),
    ) -> KeyPair:
        """Read ``NAME.key`` and ``NAME.crt`` of a folder; make what is missing.

        The key is made first and never replaced, so that an interruption between the two
        files, or two processes at once, end with one key and its certificate.

        Raises:
            KeyFileError: a file cannot be read or written, is broken, or is too open.
        """
        make_private_directory(directory)
        key_path, certificate_path = directory / f"{name}.key", directory / f"{name}.crt"
        names = tuple(subject_alternative_names)
        if not key_path.exists():
            new = cls.generate(name, key_type=key_type, subject_alternative_names=names)
            if create_atomically(key_path, new.private_key_pem()):
                write_atomically(certificate_path, new.certificate_pem(), mode=0o644)
                return new
        if not certificate_path.exists():
            private_key = _load_private_key(key_path)
            pair = cls(private_key, _certify(private_key, name, names))
            write_atomically(certificate_path, pair.certificate_pem(), mode=0o644)
            return pair
        return cls.load(directory, name)

    @classmethod
    def load(cls, directory: Path, name: str) -> KeyPair:
        """Read ``NAME.key`` and ``NAME.crt`` of a folder.

        Raises:
            KeyFileError: a file cannot be read, is broken or too open, or the two do not
                belong together.
        """
        key_path, certificate_path = directory / f"{name}.key", directory / f"{name}.crt"
        private_key = _load_private_key(key_path)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        except (OSError, ValueError) as error:
            raise KeyFileError(
                f"Cannot read a certificate from {certificate_path}: "
                "remove it, and it is made anew from the key."
            ) from error
        if certificate.public_key() != private_key.public_key():
            raise KeyFileError(
                f"{certificate_path} is not the certificate of {key_path}: "
                f"remove {certificate_path}, and it is made anew from the key."
            )
        return cls(private_key, certificate)

    @property
    def pin(self) -> Pin:
        """What peers know this key pair by."""
        return Pin.of(self.private_key.public_key())

    def private_key_pem(self) -> bytes:
        """The private key as unencrypted PKCS #8 PEM, for a private file."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def __repr__(self) -> str:
        return f"<KeyPair {self.pin}>"


def _load_private_key(path: Path) -> PrivateKey:
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} holds no unencrypted private key in PEM form.") from error
    if isinstance(key, ed25519.Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return key
    raise KeyFileError(f"{path} holds a key that is neither P-256 nor Ed25519.")


def _certify(
    private_key: PrivateKey, common_name: str, subject_alternative_names: Iterable[str]
) -> x509.Certificate:
    shown = common_name.encode("utf-8")[:_COMMON_NAME_OCTETS].decode("utf-8", "ignore")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, shown)])
    public_key = private_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_ALWAYS)
        .not_valid_after(NEVER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    names = [_general_name(text) for text in subject_alternative_names]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    algorithm = None if isinstance(private_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(private_key, algorithm)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
