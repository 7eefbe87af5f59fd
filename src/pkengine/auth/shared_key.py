"""Secrets that two ends share, and where they are kept."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zope.interface import implementer

from pkengine.errors import InvalidKeyText, KeyFileError
from pkengine.interfaces import ISharedKeyStore
from pkengine.keys.files import make_private_directory, read_private, write_atomically
from pkengine.keys.key_id import KeyId
from pkengine.keys.secret import Secret

#: Octets of a new shared key.
SECRET_SIZE = 32

#: The mechanisms of pkengine that prove a shared key.
SHARED_KEY_MECHANISMS = ("hmac", "spake2plus")


@dataclass(frozen=True, slots=True)
class SharedKey:
    """One half of what two ends share.

    A key belongs to one pair of ends and one mechanism, and each half says which end it is
    for, so that a key never proves an end to itself (RFC 9257 §5).

    Attributes:
        key_id: the public name of the key, the same in both halves.
        mechanism: the one mechanism that it serves.
        local: who the holder of this half is.
        peer: who the holder of the other half is.
        secret: the key, or the half of it that this end keeps.
    """

    key_id: KeyId
    mechanism: str
    local: str
    peer: str
    secret: Secret

    def __post_init__(self) -> None:
        if not self.local or not self.peer or self.local == self.peer:
            raise InvalidKeyText(
                f"A shared key needs two different ends, not {self.local!r} and {self.peer!r}."
            )

    @classmethod
    def generate(cls, mechanism: str, *, local: str, peer: str) -> SharedKey:
        """Draw a new key for two ends."""
        return cls(
            KeyId.random(), mechanism, local, peer, Secret(secrets.token_bytes(SECRET_SIZE))
        )

    def for_peer(self) -> SharedKey:
        """Give the half of the other end, for a key that is the same in both."""
        return SharedKey(self.key_id, self.mechanism, self.peer, self.local, self.secret)

    def encode(self) -> bytes:
        """Write the key as one JSON object, for a private file."""
        return (
            json.dumps(
                {
                    "id": str(self.key_id),
                    "mechanism": self.mechanism,
                    "local": self.local,
                    "peer": self.peer,
                    "secret": base64.b64encode(self.secret.reveal()).decode("ascii"),
                },
                indent=1,
            ).encode()
            + b"\n"
        )

    @classmethod
    def decode(cls, encoded: bytes) -> SharedKey:
        """Read what `encode` wrote.

        Raises:
            InvalidKeyText: it is anything else.
        """
        try:
            value = json.loads(encoded)
            texts = [value[name] for name in ("id", "mechanism", "local", "peer", "secret")]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError
            key_id, mechanism, local, peer, secret = texts
            octets = base64.b64decode(secret, validate=True)
            return cls(KeyId.parse(key_id), mechanism, local, peer, Secret(octets))
        except (ValueError, KeyError, TypeError, binascii.Error):
            # The content may be the secret itself, so neither it nor the cause is shown.
            raise InvalidKeyText("The file is not a shared key as pkengine writes it.") from None


@implementer(ISharedKeyStore)
class MemorySharedKeys:
    """Shared keys in memory."""

    def __init__(self, keys: Iterable[SharedKey] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}

    def key(self, key_id: KeyId) -> SharedKey | None:
        """Give a key, or None."""
        return self._keys.get(key_id)

    def keys(self) -> list[SharedKey]:
        """Give every key."""
        return list(self._keys.values())

    def add(self, key: SharedKey) -> None:
        """Keep a key."""
        self._keys[key.key_id] = key

    def remove(self, key_id: KeyId) -> None:
        """Forget a key."""
        del self._keys[key_id]


@implementer(ISharedKeyStore)
class SharedKeyFolder:
    """Shared keys as private files of a private folder, one file a key.

    The folder is read again when it has changed, so that a key that is known and one that
    is not are looked up in the same time.

    Args:
        directory: the folder; it is made where it is missing.

    Raises:
        KeyFileError: a file is broken or too open.
    """

    def __init__(self, directory: Path) -> None:
        make_private_directory(directory)
        self._directory = directory
        self._keys: dict[KeyId, SharedKey] = {}
        self._seen = 0
        self._refresh()

    def path(self, key_id: KeyId) -> Path:
        """Tell in which file a key is kept."""
        return self._directory / f"{key_id.octets.hex()}.json"

    def key(self, key_id: KeyId) -> SharedKey | None:
        """Give a key, or None.

        Raises:
            KeyFileError: a file of the folder is broken or too open.
        """
        self._refresh()
        return self._keys.get(key_id)

    def keys(self) -> list[SharedKey]:
        """Give every key.

        Raises:
            KeyFileError: a file of the folder is broken or too open.
        """
        self._refresh()
        return list(self._keys.values())

    def add(self, key: SharedKey) -> None:
        """Keep a key."""
        write_atomically(self.path(key.key_id), key.encode())
        self._seen = 0

    def remove(self, key_id: KeyId) -> None:
        """Forget a key.

        Raises:
            KeyError: there is no such key.
        """
        try:
            self.path(key_id).unlink()
        except FileNotFoundError:
            raise KeyError(key_id) from None
        self._seen = 0

    def _refresh(self) -> None:
        changed = self._directory.stat().st_mtime_ns
        if changed != self._seen:
            keys = [self._read(path) for path in sorted(self._directory.glob("*.json"))]
            self._keys = {key.key_id: key for key in keys}
            self._seen = changed

    def _read(self, path: Path) -> SharedKey:
        try:
            key = SharedKey.decode(read_private(path))
        except InvalidKeyText as error:
            raise KeyFileError(f"{path}: {error}") from None
        if self.path(key.key_id) != path:
            raise KeyFileError(
                f"{path} holds the key {key.key_id}: expected it in {self.path(key.key_id)}."
            )
        return key
