"""Judge the key that a host shows, before anything is entrusted to the host.

Nothing in this file performs IO.  A `HostKeyVerifier` is asked during each key exchange:
first which key types to ask the host for, then what it thinks of the list of types that the
host offers, then of the key that the host shows.  A refusal is an exception, and whoever
drives the connection then ends it with nothing more sent.

A fingerprint does not tell the type of its key.  So where a fingerprint was given and the
host shows a key with another one, the types that the host offers beside it are asked for one
after the other, each on a connection of its own, until one matches or none is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pkengine.errors import HostKeyMismatch, HostKeyRefused, HostKeyTypeUnavailable
from pkengine.keys import SshFingerprint, SshPublicKey
from pkengine.ssh.wire import readable

#: How a host's key came to be trusted.
HostKeySource = Literal["given_fingerprint", "given_key", "stored", "first_use"]

#: The signature algorithms that are accepted for each type of host key.  The types come in
#: the order of preference of OpenSSH; RSA keys sign with SHA-2 only (RFC 8332).
SIGNATURE_ALGORITHMS: dict[str, tuple[str, ...]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}

#: Every type of host key that is understood, the most wanted first.
KEY_TYPES = tuple(SIGNATURE_ALGORITHMS)


def key_types_offered(algorithms: Iterable[str]) -> tuple[str, ...]:
    """Give the key types behind a server's list of host key algorithms, most wanted first.

    Types that are not understood are left out.
    """
    offered = set(algorithms)
    return tuple(
        key_type
        for key_type, signatures in SIGNATURE_ALGORITHMS.items()
        if offered.intersection(signatures)
    )


@dataclass(frozen=True, slots=True)
class HostKeyJudgement:
    """A host key that was accepted, and why.

    Attributes:
        source: what it was compared with; ``first_use`` means that there was nothing.
    """

    key: SshPublicKey
    source: HostKeySource


@dataclass(frozen=True, slots=True)
class HostKeyPolicy:
    """What a host's key is compared with.

    What was given outranks what is stored; with neither, the first key is trusted.

    Attributes:
        given: what the administrator gave with the request.
        stored: the keys that the host had when it was judged before, the current one first.
    """

    given: SshFingerprint | SshPublicKey | None = None
    stored: tuple[SshPublicKey, ...] = ()

    @property
    def source(self) -> HostKeySource:
        """What a key will have been compared with when it is accepted."""
        if isinstance(self.given, SshFingerprint):
            return "given_fingerprint"
        if self.given is not None:
            return "given_key"
        return "stored" if self.stored else "first_use"

    @property
    def expected_keys(self) -> tuple[SshPublicKey, ...]:
        """The keys of which the host must show one; empty where none of them is known.

        A given fingerprint may be that of a stored key, and then tells the type too.
        """
        if isinstance(self.given, SshFingerprint):
            return tuple(key for key in self.stored if self.given.matches(key))
        return self.stored if self.given is None else (self.given,)

    @property
    def key_types(self) -> tuple[str, ...]:
        """The types to ask the host for: those expected, or all."""
        if not self.expected_keys:
            return KEY_TYPES
        expected = dict.fromkeys(key.key_type for key in self.expected_keys)
        return tuple(key_type for key_type in expected if key_type in SIGNATURE_ALGORITHMS)

    def judge(self, key: SshPublicKey) -> HostKeyJudgement | None:
        """Accept the key, or give None."""
        if isinstance(self.given, SshFingerprint):
            accepted = self.given.matches(key)
        else:
            accepted = not self.expected_keys or key in self.expected_keys
        return HostKeyJudgement(key, self.source) if accepted else None


class IHostKeyVerifier(Protocol):
    """What a transport asks during its key exchange."""

    @property
    def key_types(self) -> Sequence[str]:
        """The key types to ask the host for, the most wanted first."""

    def offered(self, algorithms: Sequence[str]) -> None:
        """Hear which host key algorithms the host offers.

        Raises:
            HostKeyRefused: the exchange must end.
        """

    def judge(self, key: SshPublicKey) -> None:
        """Hear which key the host shows; that it holds it, is not proved yet.

        Raises:
            HostKeyRefused: the exchange must end.
        """


class HostKeyVerifier:
    """Applies a policy to one host, over as many connections as it takes.

    Args:
        where: the host as error texts name it.
        policy: what its key is compared with.

    Attributes:
        key_types: what to ask for on the next connection.
        judgement: the key that was accepted last, or None.
    """

    def __init__(self, where: str, policy: HostKeyPolicy) -> None:
        self.key_types = policy.key_types
        self.judgement: HostKeyJudgement | None = None
        self._where = where
        self._policy = policy
        self._untried: tuple[str, ...] | None = None
        self._shown: list[SshPublicKey] = []
        if not self.key_types:
            raise self._type_unavailable(())

    def offered(self, algorithms: Sequence[str]) -> None:
        """See `IHostKeyVerifier`."""
        types = key_types_offered(algorithms)
        if self._untried is None:
            self._untried = types
        if not set(types).intersection(self.key_types):
            raise self._type_unavailable(algorithms)

    def judge(self, key: SshPublicKey) -> None:
        """See `IHostKeyVerifier`."""
        self.judgement = None
        self._shown.append(key)
        self._untried = tuple(t for t in self._untried or () if t != key.key_type)
        self.judgement = self._policy.judge(key)
        if self.judgement is None:
            raise self.mismatch()

    def try_next_type(self) -> bool:
        """After a mismatch: ask for a type that was not shown yet.

        Returns:
            False where that is pointless, because the type was known or none is left.
        """
        if self._policy.source != "given_fingerprint" or self._policy.expected_keys:
            return False
        if not self._untried:
            return False
        self.key_types, self._untried = self._untried[:1], self._untried[1:]
        return True

    def mismatch(self, not_compared: str = "") -> HostKeyMismatch:
        """Compose the error about the keys shown so far.

        Args:
            not_compared: why further keys of the host could not be looked at.
        """
        given = self._policy.given
        found = [_describe(key) for key in self._shown]
        if isinstance(given, SshFingerprint):
            expected = f"the given fingerprint {given}"
            if given.algorithm == "MD5":
                found = [f"{_describe(key)} ({key.fingerprint('MD5')})" for key in self._shown]
        else:
            kind = "given" if self._policy.source == "given_key" else "stored"
            expected = f"the {kind} {_describe_all(self._policy.expected_keys)}"
        others = f" Its other keys could not be compared: {not_compared}" if not_compared else ""
        return HostKeyMismatch(
            f"The SSH host key of {self._where} does not match: expected {expected}, found "
            f"{', '.join(found)}.{others} Neither user name nor credential was sent. If "
            "the host was installed anew, read its fingerprint on its console with "
            f"'ssh-keygen -lf {_public_key_file(self._shown[-1].key_type)}' and give that "
            "one; if not, another machine may be answering at this address."
        )

    def _type_unavailable(self, algorithms: Sequence[str]) -> HostKeyRefused:
        offers = readable(", ".join(algorithms)) or "none that is understood here"
        if not self._policy.expected_keys:
            return HostKeyTypeUnavailable(
                f"{self._where} has no SSH host key of a type that is accepted: expected one of "
                f"{', '.join(self.key_types)}, but it offers {offers}. Neither user name nor "
                "credential was sent. Give the host an Ed25519 key with 'ssh-keygen -A'."
            )
        kind = "given" if self._policy.source == "given_key" else "stored"
        return HostKeyTypeUnavailable(
            f"{self._where} has no SSH host key of the expected type, so nothing could be "
            f"compared: expected the {kind} {_describe_all(self._policy.expected_keys)}, but the "
            f"host offers {offers}. Neither user name nor credential was sent. Fetch the host's "
            "fingerprints, compare them with those on its console, and give the one that is right."
        )


class HostKeyCollector:
    """Takes every key that a host has, without trusting any.

    Args:
        key_types: what to ask for.

    Attributes:
        shown: the keys that the host showed, in the order of the connections.
        types: the types that the host offers; empty before the first answer.
    """

    def __init__(self, key_types: Sequence[str] = KEY_TYPES) -> None:
        self.key_types = key_types
        self.types: tuple[str, ...] = ()
        self.shown: SshPublicKey | None = None

    def offered(self, algorithms: Sequence[str]) -> None:
        """See `IHostKeyVerifier`."""
        self.types = key_types_offered(algorithms)

    def judge(self, key: SshPublicKey) -> None:
        """See `IHostKeyVerifier`."""
        self.shown = key


def _describe(key: SshPublicKey) -> str:
    return f"{key.key_type} {key.fingerprint()}"


def _describe_all(keys: Iterable[SshPublicKey]) -> str:
    return " or ".join(_describe(key) for key in keys)


def _public_key_file(key_type: str) -> str:
    name = key_type.removeprefix("ssh-").partition("-")[0]
    return f"/etc/ssh/ssh_host_{name}_key.pub"
