"""The engine's own SSH keys, by which it enters its hosts.

Theory of operation.  The folder has the engine's key.  While that is rotated, the folder ``next``
in it has the key that is to take its place, and logins offer both.  The rotation ends by renaming,
and at every point of it a start finds one of these:

=====================  ======================================================================
the key alone          nothing is rotated
the key, and ``next``  a rotation is under way: which hosts have the new key, the database says
``next`` alone         a rotation was interrupted while it ended: it is ended now
=====================  ======================================================================
"""

from __future__ import annotations

import contextlib
import enum
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
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
_NEW_RSA_BITS = 3072
_NEXT = "next"


class SshKeyKind(enum.Enum):
    """The types of key that an engine may have, by the names that ``ssh-keygen -t`` has."""

    ED25519 = "ed25519"
    RSA = "rsa"


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
    def load_or_create(
        cls, directory: Path, *, comment: str = "pkengine", kind: SshKeyKind = SshKeyKind.ED25519
    ) -> SshIdentity:
        """Read ``id_ed25519`` and ``id_ed25519.pub`` of a folder; make what is missing.

        Where an administrator put an ``id_rsa`` there instead, for hosts that take nothing
        else, that is the key: it signs with SHA-2 only.

        A key that is made is of the kind that is asked for.

        The files are in OpenSSH's format, so ``ssh -i`` can use them too.  A key that is
        there is never replaced, also not by another process that starts at the same time.

        Raises:
            KeyFileError: a file cannot be read or written, is broken, or is too open.
        """
        make_private_directory(directory)
        path = _key_file(directory)
        if path is None:
            path = directory / _FILE_NAMES[kind]
            create_atomically(path, _serialize(_generate(kind)))
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
    def kind(self) -> SshKeyKind:
        """Its type."""
        is_rsa = isinstance(self.private_key, RSAPrivateKey)
        return SshKeyKind.RSA if is_rsa else SshKeyKind.ED25519

    @property
    def authorized_keys_line(self) -> str:
        """The line, without its end, that lets this key in on a host."""
        return f"{self.public} {self.comment}"

    def __repr__(self) -> str:
        return f"<SshIdentity {self.public.fingerprint()}>"


class SshKeyRing:
    """The key of an engine and, while it is rotated, the one that takes its place.

    Args:
        directory: the folder; what is missing in it is made.
        comment: what stands behind the keys in ``authorized_keys`` files.

    Attributes:
        current: the key that all hosts have, unless it is rotated.
        successor: the key that takes its place, or None while nothing is rotated.

    Raises:
        KeyFileError: a file cannot be read or written, is broken, or is too open.
    """

    def __init__(self, directory: Path, *, comment: str = "pkengine") -> None:
        self._directory = directory
        self._comment = comment
        self.successor: SshIdentity | None = None
        make_private_directory(directory)
        next_file = _key_file(directory / _NEXT)
        if next_file is not None and _key_file(directory) is None:
            self._promote(next_file)
        self.current = SshIdentity.load_or_create(directory, comment=comment)
        if _key_file(directory / _NEXT) is not None:
            self.successor = SshIdentity.load_or_create(directory / _NEXT, comment=comment)

    @property
    def newest(self) -> SshIdentity:
        """The key that hosts get from now on."""
        return self.successor or self.current

    @property
    def identities(self) -> tuple[SshIdentity, ...]:
        """All keys that hosts may still have, the newest first."""
        return (self.current,) if self.successor is None else (self.successor, self.current)

    @property
    def private_keys(self) -> tuple[Ed25519PrivateKey | RSAPrivateKey, ...]:
        """What logs in: each is offered once, the newest first."""
        return tuple(identity.private_key for identity in self.identities)

    def begin_rotation(self, kind: SshKeyKind) -> SshIdentity:
        """Make the key that is to take the place of the current one; both are valid now.

        Raises:
            KeyFileError: it cannot be written.
            ValueError: a rotation is under way already.
        """
        if self.successor is not None:
            raise ValueError("The key is rotated already.")
        self.successor = SshIdentity.load_or_create(
            self._directory / _NEXT, comment=self._comment, kind=kind
        )
        return self.successor

    def end_rotation(self) -> None:
        """Forget the old key; the new one takes its place.

        Raises:
            KeyFileError: a file cannot be renamed or removed; both keys stay valid.
            ValueError: no rotation is under way.
        """
        next_file = _key_file(self._directory / _NEXT)
        if self.successor is None or next_file is None:
            raise ValueError("No key is rotated.")
        self._promote(next_file)
        self.current, self.successor = self.successor, None

    def _promote(self, next_file: Path) -> None:
        """Put the new key in the place of the old one; a start completes what is cut off."""
        try:
            old = _key_file(self._directory)
            if old is not None and old.name != next_file.name:
                old.unlink()
                old.with_suffix(".pub").unlink(missing_ok=True)
            os.replace(next_file, self._directory / next_file.name)
            public = next_file.with_suffix(".pub")
            with contextlib.suppress(FileNotFoundError):
                os.replace(public, self._directory / public.name)
            # What an interrupted write left there is of no use to anybody.
            for leftover in next_file.parent.iterdir():
                leftover.unlink()
            next_file.parent.rmdir()
        except OSError as error:
            raise KeyFileError(
                f"Cannot put {next_file} in the place of the old key: {error.strerror}."
            ) from error


_FILE_NAMES = {SshKeyKind.ED25519: FILE_NAME, SshKeyKind.RSA: RSA_FILE_NAME}


def _key_file(directory: Path) -> Path | None:
    paths = (directory / name for name in _FILE_NAMES.values())
    return next((path for path in paths if path.exists()), None)


def _generate(kind: SshKeyKind) -> Ed25519PrivateKey | RSAPrivateKey:
    if kind is SshKeyKind.RSA:
        return generate_private_key(public_exponent=65537, key_size=_NEW_RSA_BITS)
    return Ed25519PrivateKey.generate()


def _serialize(private_key: Ed25519PrivateKey | RSAPrivateKey) -> bytes:
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
