"""The engine's own SSH key, by which it enters its hosts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from pkengine.errors import KeyFileError
from pkengine.keys import SshPublicKey
from pkengine.keys.files import (
    create_atomically,
    make_private_directory,
    read_private,
    write_atomically,
)

FILE_NAME = "id_ed25519"
RSA_FILE_NAME = "id_rsa"
MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True, repr=False)
class SshIdentity:
    """A key pair for logging in by ``publickey``: Ed25519 (RFC 8709) or RSA (RFC 8332).

    Attributes:
        private_key: signs; goes into `pkengine.ssh.client.SshCredentials`.
        comment: what stands behind the key in an ``authorized_keys`` file.
    """

    private_key: Ed25519PrivateKey | RSAPrivateKey
    comment: str

    @classmethod
    def load_or_create(cls, directory: Path, *, comment: str = "pkengine") -> SshIdentity:
        """Read ``id_ed25519`` and ``id_ed25519.pub`` of a folder; make what is missing.

        Where an administrator put an ``id_rsa`` there instead, for hosts that take nothing
        else, that is the key: it signs with SHA-2 only.

        The files are in OpenSSH's format, so ``ssh -i`` can use them too.  A key that is
        there is never replaced, also not by another process that starts at the same time.

        Raises:
            KeyFileError: a file cannot be read or written, is broken, or is too open.
        """
        make_private_directory(directory)
        path = directory / FILE_NAME
        if not path.exists() and (directory / RSA_FILE_NAME).exists():
            path = directory / RSA_FILE_NAME
        if not path.exists():
            create_atomically(path, _serialize(Ed25519PrivateKey.generate()))
        identity = cls(_load(path), comment)
        public_path = path.with_suffix(".pub")
        line = identity.authorized_keys_line + "\n"
        if not public_path.exists() or public_path.read_text("utf-8", "replace") != line:
            write_atomically(public_path, line.encode(), mode=0o644)
        return identity

    @property
    def public(self) -> SshPublicKey:
        """The public half."""
        text = self.private_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return SshPublicKey.parse(text.decode("ascii"))

    @property
    def authorized_keys_line(self) -> str:
        """The line, without its end, that lets this key in on a host."""
        return f"{self.public} {self.comment}"

    def __repr__(self) -> str:
        return f"<SshIdentity {self.public.fingerprint()}>"


def _serialize(private_key: Ed25519PrivateKey) -> bytes:
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _load(path: Path) -> Ed25519PrivateKey | RSAPrivateKey:
    try:
        private_key = load_ssh_private_key(read_private(path), password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} holds no unencrypted OpenSSH private key.") from error
    if isinstance(private_key, RSAPrivateKey):
        if private_key.key_size < MIN_RSA_BITS:
            raise KeyFileError(
                f"{path} holds an RSA key of {private_key.key_size} bits: expected {MIN_RSA_BITS} "
                "or more."
            )
        return private_key
    if not isinstance(private_key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds an SSH key of another type: expected Ed25519 or RSA.")
    return private_key
