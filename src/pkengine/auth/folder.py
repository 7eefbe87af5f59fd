"""The folder in which one end keeps who it is and whom it trusts.

::

    DIR/                 0700
    ├── identity.key     0600  its private key
    ├── identity.crt           the self-signed certificate of it
    ├── peers                  whom it trusts, one line a key
    └── secrets/         0700
        └── ….json       0600  what it shares with a peer, one file a key
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pkengine.auth.shared_key import SharedKeyFolder
from pkengine.auth.trust import FileTrustStore
from pkengine.keys.files import make_private_directory
from pkengine.keys.keypair import KeyPair, KeyType

_IDENTITY = "identity"


def is_yes(text: str) -> bool:
    """Read an argument that is "yes" or "no".

    Raises:
        ValueError: it is anything else.
    """
    if text not in ("yes", "no"):
        raise ValueError(f"{text!r} is neither 'yes' nor 'no'.")
    return text == "yes"


class TrustFolder:
    """One end's folder; each part is read when it is first asked for.

    Args:
        directory: the folder.
        identity: the folder with the key pair, where it is another.
    """

    def __init__(self, directory: Path, identity: Path | None = None) -> None:
        self.directory = directory
        self.identity_directory = identity or directory

    def make_identity(self, key_type: KeyType = KeyType.P256) -> KeyPair:
        """Make the key pair where there is none; give it.

        Raises:
            KeyFileError: it cannot be written, or what is there is broken.
        """
        return KeyPair.load_or_create(self.identity_directory, _IDENTITY, key_type=key_type)

    @cached_property
    def key_pair(self) -> KeyPair:
        """Who this end is.

        Raises:
            KeyFileError: there is no key pair, or it is broken or too open.
        """
        return KeyPair.load(self.identity_directory, _IDENTITY)

    @cached_property
    def trust(self) -> FileTrustStore:
        """Whom this end trusts.

        Raises:
            TrustFileError: the file is malformed or too open.
        """
        make_private_directory(self.directory)
        return FileTrustStore(self.directory / "peers")

    @cached_property
    def secrets(self) -> SharedKeyFolder:
        """What this end shares with its peers.

        Raises:
            KeyFileError: a file is broken or too open.
        """
        make_private_directory(self.directory)
        return SharedKeyFolder(self.directory / "secrets")
