"""OpenSSH's ``known_hosts`` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): read and write it; no IO."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pkengine.errors import InvalidKeyText, KnownHostsError
from pkengine.keys import SshPublicKey
from pkengine.ssh.host_keys import HostKeyPolicy
from pkengine.ssh.patterns import matches_pattern
from pkengine.ssh.signature import SIGNATURE_ALGORITHMS
from pkengine.ssh.wire import readable

Marker = Literal["", "@revoked", "@cert-authority"]

_HASHED = re.compile(r"\|1\|([A-Za-z0-9+/=]+)\|([A-Za-z0-9+/=]+)")
_DEFAULT_PORT = 22
_SALT_LENGTH = _DIGEST_LENGTH = 20


@dataclass(frozen=True, slots=True)
class KnownHost:
    """One line.

    Attributes:
        names: the patterns that it is for, as they are written; or one hashed name.
        key: the host's, or that of an authority.
        marker: says that the key is revoked, or signs the certificates of such hosts.
    """

    names: tuple[str, ...]
    key: SshPublicKey
    marker: Marker = ""
    comment: str = ""

    @classmethod
    def parse(cls, line: str) -> KnownHost | None:
        """Read a line; None where it is empty or a comment.

        Raises:
            ValueError: it is anything else; the text says what is wrong.
        """
        words = line.split()
        if not words or words[0].startswith("#"):
            return None
        marker: Marker = ""
        if words[0].startswith("@"):
            if words[0] not in ("@revoked", "@cert-authority"):
                raise ValueError(f"{readable(words[0], 40)!r} is no marker that is known")
            marker = "@revoked" if words[0] == "@revoked" else "@cert-authority"
            del words[0]
        if len(words) < 3:
            raise ValueError("expected names, a key type and a key")
        names = tuple(words[0].split(","))
        if not all(names):
            raise ValueError("a name is empty")
        for name in names:
            _check_name(name)
        try:
            key = SshPublicKey.parse(" ".join(words[1:3]))
        except InvalidKeyText as error:
            raise ValueError(f"{readable(words[1], 40)!r} is followed by no such key") from error
        return cls(names, key, marker, " ".join(words[3:]))

    def is_for(self, address: str, port: int = _DEFAULT_PORT) -> bool:
        """Tell whether the line is for a host: one pattern matches, and no negated one."""
        name = host_name(address, port)
        matches = False
        for pattern in self.names:
            if pattern.startswith("!"):
                if _matches(pattern[1:], name):
                    return False
            else:
                matches = matches or _matches(pattern, name)
        return matches

    def __str__(self) -> str:
        """Give the line."""
        words = (self.marker, ",".join(self.names), str(self.key), self.comment)
        return " ".join(word for word in words if word)


class KnownHosts:
    """The lines of a file.

    Args:
        lines: in their order; what stands first is the preferred key of a host.
    """

    def __init__(self, lines: Iterable[KnownHost] = ()) -> None:
        self.lines = tuple(lines)

    @classmethod
    def parse(cls, text: str, *, file: str = "known_hosts") -> KnownHosts:
        """Read a file.

        Args:
            text: what is in it.
            file: its name, as error texts give it.

        Raises:
            KnownHostsError: a line is malformed; the text names file and line.
        """
        lines = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                known = KnownHost.parse(line)
            except ValueError as error:
                raise KnownHostsError(
                    f"{file}, line {number}: {error}. Expected lines such as "
                    "'node1.example.org ssh-ed25519 AAAAC3Nz…', as OpenSSH writes them; correct "
                    "the line or remove it."
                ) from error
            if known is not None:
                lines.append(known)
        return cls(lines)

    def policy(self, address: str, port: int = _DEFAULT_PORT) -> HostKeyPolicy:
        """Tell what a host's key is to be compared with.

        Keys of types that are not understood are left out.  A host of which the file says
        nothing gets a policy of trust on first use, save for revoked keys.  As for OpenSSH,
        authorities and revoked keys of a name are those of all its ports.
        """

        def keys(marker: Marker) -> tuple[SshPublicKey, ...]:
            return tuple(
                dict.fromkeys(
                    line.key
                    for line in self.lines
                    if line.marker == marker
                    and line.key.key_type in SIGNATURE_ALGORITHMS
                    and (line.is_for(address, port) or (marker and line.is_for(address)))
                )
            )

        revoked = keys("@revoked")
        return HostKeyPolicy(
            stored=tuple(key for key in keys("") if key not in revoked),
            authorities=keys("@cert-authority"),
            revoked=revoked,
        )

    def __str__(self) -> str:
        """Give the text of the file."""
        return "".join(f"{line}\n" for line in self.lines)


def known_host(
    address: str, port: int, key: SshPublicKey, *, is_hashed: bool = False, comment: str = ""
) -> KnownHost:
    """Make the line for a host's key.

    Args:
        address: the name or address by which it is reached.
        port: where its sshd listens.
        key: a plain key.
        is_hashed: do not let the file tell the host's name (``HashKnownHosts``).
        comment: what stands behind the key.
    """
    name = host_name(address, port)
    if is_hashed:
        salt = os.urandom(_SALT_LENGTH)
        salt_text, hash_text = (
            base64.b64encode(octets).decode() for octets in (salt, _hash(salt, name))
        )
        name = f"|1|{salt_text}|{hash_text}"
    return KnownHost((name,), key, comment=comment)


def host_name(address: str, port: int = _DEFAULT_PORT) -> str:
    """Write a host as the file has it: with brackets where the port is another than 22."""
    name = address.lower()
    return name if port == _DEFAULT_PORT else f"[{name}]:{port}"


def _hash(salt: bytes, name: str) -> bytes:
    return hmac.digest(salt, name.encode(), hashlib.sha1)


def _check_name(name: str) -> None:
    if name.startswith("|") and _unhashed(name) is None:
        raise ValueError(f"{readable(name, 80)!r} is no hashed name")


def _unhashed(name: str) -> tuple[bytes, bytes] | None:
    """Give salt and hash of a hashed name."""
    match = _HASHED.fullmatch(name)
    if match is None:
        return None
    try:
        salt, digest = (base64.b64decode(text, validate=True) for text in match.groups())
    except binascii.Error:
        return None
    return (salt, digest) if len(digest) == _DIGEST_LENGTH else None


def _matches(pattern: str, name: str) -> bool:
    hashed = _unhashed(pattern)
    if hashed is not None:
        salt, digest = hashed
        return hmac.compare_digest(_hash(salt, name), digest)
    return matches_pattern(pattern, name)
