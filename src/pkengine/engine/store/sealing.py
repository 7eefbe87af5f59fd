"""Secrets at rest: encrypted with a key that lies in a file and not in the database.

What is sealed says for what it was sealed, so that a row which is put in the place of another
one opens nothing.  The form is ``01 | nonce (12) | ciphertext and tag`` (AES-256-GCM, NIST
SP 800-38D, with random nonces), and the *context*, a list of texts, is its associated data.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pkengine.errors import KeyFileError
from pkengine.keys import Secret
from pkengine.keys.files import create_atomically, read_private

_KEY_SIZE = 32
_NONCE_SIZE = 12
_FORM = b"\x01"


class Seal:
    """Seals secrets for the database, and opens what it sealed.

    Args:
        key: bytes, 32 long.
        name: what the key is called where it does not fit.
        random: gives that many random octets.
    """

    def __init__(
        self, key: Secret, name: str, *, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._cipher = AESGCM(key.reveal())
        self._name = name
        self._random = random

    @classmethod
    def load(cls, path: Path, *, is_in_use: bool) -> Seal:
        """Read the key from a private file, which is made where it is missing.

        Args:
            path: the file.
            is_in_use: something is sealed already, so the file must not be made anew.

        Raises:
            KeyFileError: the file is too open, holds no key, or is missing while it is in use.
        """
        if not is_in_use and not os.path.lexists(path):
            create_atomically(path, base64.b64encode(secrets.token_bytes(_KEY_SIZE)) + b"\n")
        if not path.exists():
            raise KeyFileError(
                f"The file {path} is missing, with which the secrets in the database were "
                "sealed: put it back from the backup of this state folder. Nothing was changed."
            )
        try:
            key = Secret(base64.b64decode(read_private(path).strip(), validate=True))
            if len(key.reveal()) != _KEY_SIZE:
                raise ValueError
        except (ValueError, binascii.Error):
            raise KeyFileError(
                f"The file {path} holds no key: expected {_KEY_SIZE} octets in Base64. Put it "
                "back from the backup of this state folder."
            ) from None
        return cls(key, str(path))

    def seal(self, secret: Secret, *context: str) -> bytes:
        """Encrypt a secret; it opens for the same context only."""
        nonce = self._random(_NONCE_SIZE)
        return _FORM + nonce + self._cipher.encrypt(nonce, secret.reveal(), _encode(context))

    def open(self, sealed: bytes, *context: str) -> Secret:
        """Decrypt what `seal` gave.

        Raises:
            KeyFileError: it was sealed with another key or for another context, or changed.
        """
        form, nonce, rest = sealed[:1], sealed[1 : 1 + _NONCE_SIZE], sealed[1 + _NONCE_SIZE :]
        try:
            if form != _FORM:
                raise ValueError
            return Secret(self._cipher.decrypt(nonce, rest, _encode(context)))
        except (ValueError, InvalidTag):
            raise KeyFileError(
                f"A secret in the database cannot be opened with the key in {self._name}: either "
                "this is not the file that belongs to this database, or the database was "
                "tampered with. Put both back from one backup."
            ) from None


def _encode(context: tuple[str, ...]) -> bytes:
    return json.dumps(context).encode()
