"""The folder in which an engine keeps what must outlive it."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from pkengine.engine.store import Seal
from pkengine.errors import EngineError, KeyFileError
from pkengine.keys import KeyPair
from pkengine.keys.files import make_private_directory
from pkengine.ssh import SshKeyRing


class StateFolder:
    """Names and makes what is in the state folder of one engine.

    Attributes:
        directory: the folder; only its owner may enter it.
        initial_admin_password: the file with the password that the first start made.
        bundles: the archives that carry the agent to hosts.
        https_url: the file that tells where the API is served while the engine runs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.initial_admin_password = self.directory / "initial-admin-password"
        self.bundles = self.directory / "bundles"
        self.https_url = self.directory / "https.url"

    @property
    def default_database_url(self) -> str:
        """The database where none is named."""
        return f"sqlite:///{self.directory / 'engine.db'}"

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            KeyFileError: it cannot be made, or lets other users in.
        """
        make_private_directory(self.directory)

    def lock(self) -> int:
        """Keep other engines from this folder for as long as this process lives.

        Returns:
            The file descriptor that holds the lock; closing it gives the lock back.

        Raises:
            EngineError: another engine has it.
            KeyFileError: the lock file cannot be opened.
        """
        path = self.directory / "engine.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeyFileError(f"Cannot open {path}: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise EngineError(
                f"Another engine runs with the state folder {self.directory}: stop that one "
                "first, or give this one a folder of its own with --state."
            ) from error
        return descriptor

    def key_pair(self) -> KeyPair:
        """Give what agents know this engine by.

        Raises:
            KeyFileError: it cannot be read or made.
        """
        return KeyPair.load_or_create(self.directory, "engine")

    def https_key_pair(self) -> KeyPair:
        """Give the certificate of the HTTPS listener, which clients verify by name.

        Raises:
            KeyFileError: it cannot be read or made.
        """
        return KeyPair.load_or_create(
            self.directory, "https", subject_alternative_names=local_names()
        )

    def seal(self, *, is_in_use: bool) -> Seal:
        """Give what the secrets in the database are encrypted with; see `Seal.load`.

        Raises:
            KeyFileError: it cannot be read or made, or is missing while it is in use.
        """
        return Seal.load(self.directory / "secrets.key", is_in_use=is_in_use)

    def ssh_keys(self, marker: str) -> SshKeyRing:
        """Give what the engine logs in to hosts with.

        Args:
            marker: by what it knows its own lines in ``authorized_keys``.

        Raises:
            KeyFileError: it cannot be read or made.
        """
        return SshKeyRing(self.directory / "ssh", comment=marker)


def local_names() -> list[str]:
    """Give the names and addresses by which clients may call this machine."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()]
    return list(dict.fromkeys(name for name in names if name and name.isascii()))
