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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pkengine.errors import (
    HostKeyMismatch,
    HostKeyRefused,
    HostKeyRevoked,
    HostKeyTypeUnavailable,
)
from pkengine.keys import SshFingerprint, SshPublicKey
from pkengine.ssh.certificate import (
    CERTIFICATE_ALGORITHMS,
    CertificateRefused,
    HostCertificate,
    is_certificate,
)
from pkengine.ssh.signature import SIGNATURE_ALGORITHMS
from pkengine.ssh.wire import readable

#: How a host's key came to be trusted.
HostKeySource = Literal[
    "given_fingerprint", "given_key", "stored", "certificate", "dns", "first_use"
]

#: The algorithms that are accepted for each type of what a host shows as its key.
HOST_KEY_ALGORITHMS = SIGNATURE_ALGORITHMS | CERTIFICATE_ALGORITHMS

#: Every type of host key that is understood, the most wanted first.
KEY_TYPES = tuple(SIGNATURE_ALGORITHMS)


def key_types_offered(
    algorithms: Iterable[str], among: Iterable[str] = KEY_TYPES
) -> tuple[str, ...]:
    """Give the key types behind a server's list of host key algorithms, most wanted first.

    Args:
        algorithms: what the server offers.
        among: the types to look for; others are left out.
    """
    offered = set(algorithms)
    return tuple(
        key_type for key_type in among if offered.intersection(HOST_KEY_ALGORITHMS[key_type])
    )


@dataclass(frozen=True, slots=True)
class HostKeyJudgement:
    """A host key that was accepted, and why.

    Attributes:
        key: a plain key; a certificate's own key, where the host showed a certificate.
        source: what it was compared with; ``first_use`` means that there was nothing.
        certificate: the certificate that vouched for it, or None.
    """

    key: SshPublicKey
    source: HostKeySource
    certificate: HostCertificate | None = None


@dataclass(frozen=True, slots=True)
class HostKeyPolicy:
    """What a host's key is compared with.

    What was given outranks what is stored, that outranks a certificate, and that what DNS
    says; with none of these, the first key is trusted.

    Attributes:
        given: what the administrator gave with the request.
        stored: the keys that the host had when it was judged before, the current one first.
        authorities: whose certificates vouch for the host, beside the stored keys.
        published: fingerprints from DNS, of which it is known that nobody changed them.
        revoked: keys of hosts and of authorities that are never accepted.
    """

    given: SshFingerprint | SshPublicKey | None = None
    stored: tuple[SshPublicKey, ...] = ()
    authorities: tuple[SshPublicKey, ...] = ()
    published: tuple[SshFingerprint, ...] = ()
    revoked: tuple[SshPublicKey, ...] = ()

    @property
    def source(self) -> HostKeySource:
        """What a plain key will have been compared with when it is accepted."""
        if isinstance(self.given, SshFingerprint):
            return "given_fingerprint"
        if self.given is not None:
            return "given_key"
        if self.stored:
            return "stored"
        if self.authorities:
            return "certificate"
        return "dns" if self.published else "first_use"

    @property
    def expected_keys(self) -> tuple[SshPublicKey, ...]:
        """The keys of which the host must show one; empty where none of them is known.

        A given fingerprint may be that of a stored key, and then tells the type too.
        """
        if isinstance(self.given, SshFingerprint):
            return tuple(key for key in self.stored if self.given.matches(key))
        return self.stored if self.given is None else (self.given,)

    @property
    def expected_fingerprints(self) -> tuple[SshFingerprint, ...]:
        """The fingerprints of which the host's key must have one, where no key is known."""
        if isinstance(self.given, SshFingerprint):
            return (self.given,)
        return self.published if self.source == "dns" else ()

    @property
    def accepted_authorities(self) -> tuple[SshPublicKey, ...]:
        """Whose certificates are looked at: nobody's, where something was given."""
        return self.authorities if self.given is None else ()

    @property
    def key_types(self) -> tuple[str, ...]:
        """The types to ask the host for: those expected, or all."""
        certificates = tuple(CERTIFICATE_ALGORITHMS) if self.accepted_authorities else ()
        expected = dict.fromkeys(key.key_type for key in self.expected_keys)
        if not expected and not certificates:
            return KEY_TYPES
        return certificates + tuple(t for t in expected if t in SIGNATURE_ALGORITHMS)

    def judge(self, key: SshPublicKey) -> HostKeyJudgement | None:
        """Accept a plain key, or give None."""
        if self.expected_fingerprints:
            accepted = any(fingerprint.matches(key) for fingerprint in self.expected_fingerprints)
        elif self.expected_keys:
            accepted = key in self.expected_keys
        else:
            accepted = self.source == "first_use"
        return HostKeyJudgement(key, self.source) if accepted else None


class IHostKeyVerifier(Protocol):
    """What a transport asks during its key exchange.

    Attributes:
        is_key_enough: nothing is wanted but a key of which the host proved that it holds it.
    """

    is_key_enough: bool

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
        name: what a certificate must be for: the host's name or address, as it was given.
        now: gives the seconds since 1970.

    Attributes:
        key_types: what to ask for on the next connection.
        judgement: the key that was accepted last, or None.
    """

    is_key_enough = False

    def __init__(
        self,
        where: str,
        policy: HostKeyPolicy,
        *,
        name: str = "",
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.key_types = policy.key_types
        self.judgement: HostKeyJudgement | None = None
        self._where = where
        self._policy = policy
        self._name = name
        self._now = now
        self._untried: tuple[str, ...] | None = None
        self._shown: list[SshPublicKey] = []
        self._refused_certificate = ""
        if not self.key_types:
            raise self._type_unavailable(())

    def offered(self, algorithms: Sequence[str]) -> None:
        """See `IHostKeyVerifier`."""
        if self._untried is None:
            self._untried = key_types_offered(algorithms)
        if not key_types_offered(algorithms, self.key_types):
            raise self._type_unavailable(algorithms)

    def judge(self, key: SshPublicKey) -> None:
        """See `IHostKeyVerifier`."""
        self.judgement = None
        certificate = HostCertificate.parse(key) if is_certificate(key) else None
        plain = key if certificate is None else certificate.key
        self._refuse_revoked(plain)
        if certificate is not None:
            self._refuse_revoked(certificate.authority)
            self.judgement = self._judge_certificate(certificate)
        self._shown.append(plain)
        self._untried = tuple(t for t in self._untried or () if t != plain.key_type)
        self.judgement = self.judgement or self._policy.judge(plain)
        if self.judgement is None:
            raise self.mismatch()

    def _judge_certificate(self, certificate: HostCertificate) -> HostKeyJudgement | None:
        """Accept it, or keep in mind why not: its key may be a stored one all the same."""
        try:
            certificate.check(self._name, self._now(), self._policy.accepted_authorities)
        except CertificateRefused as refusal:
            self._refused_certificate = str(refusal)
            return None
        return HostKeyJudgement(certificate.key, "certificate", certificate)

    def _refuse_revoked(self, key: SshPublicKey) -> None:
        if key in self._policy.revoked:
            raise HostKeyRevoked(
                f"The SSH key {_describe(key)} that {self._where} shows, or that signed its "
                "certificate, is revoked. Neither user name nor credential was sent. Whoever "
                "holds that key may be at this address: give the host a new key on its console, "
                "with 'ssh-keygen -A' after removing the old one."
            )

    def try_next_type(self) -> bool:
        """After a mismatch: ask for a type that was not shown yet.

        Returns:
            False where that is pointless, because the type was known or none is left.
        """
        if not self._policy.expected_fingerprints or self._policy.expected_keys:
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
        found = [_describe(key) for key in self._shown]
        fingerprints = self._policy.expected_fingerprints
        if any(fingerprint.algorithm == "MD5" for fingerprint in fingerprints):
            found = [f"{_describe(key)} ({key.fingerprint('MD5')})" for key in self._shown]
        if self._refused_certificate:
            found.append(f"a certificate that does not count, because {self._refused_certificate}")
        others = f" Its other keys could not be compared: {not_compared}" if not_compared else ""
        return HostKeyMismatch(
            f"The SSH host key of {self._where} does not match: expected {self._expected()}, "
            f"found {', '.join(found)}.{others} Neither user name nor credential was sent. If "
            "the host was installed anew, read its fingerprint on its console with "
            f"'ssh-keygen -lf {_public_key_file(self._shown[-1].key_type)}' and give that "
            "one; if not, another machine may be answering at this address.",
            map(str, self._shown),
        )

    def _expected(self) -> str:
        policy = self._policy
        if isinstance(policy.given, SshFingerprint):
            return f"the given fingerprint {policy.given}"
        if policy.source == "dns":
            return "one of those in DNS, " + " or ".join(map(str, policy.published))
        kind = "given" if policy.source == "given_key" else "stored"
        parts = [f"the {kind} {_describe_all(policy.expected_keys)}"] * bool(policy.expected_keys)
        if policy.accepted_authorities:
            parts.append(f"a certificate by {_describe_all(policy.accepted_authorities)}")
        return " or ".join(parts)

    def _type_unavailable(self, algorithms: Sequence[str]) -> HostKeyRefused:
        offers = readable(", ".join(algorithms)) or "none that is understood here"
        if not self._policy.expected_keys and not self._policy.accepted_authorities:
            return HostKeyTypeUnavailable(
                f"{self._where} has no SSH host key of a type that is accepted: expected one of "
                f"{', '.join(self.key_types)}, but it offers {offers}. Neither user name nor "
                "credential was sent. Give the host an Ed25519 key with 'ssh-keygen -A'."
            )
        return HostKeyTypeUnavailable(
            f"{self._where} has no SSH host key of the expected type, so nothing could be "
            f"compared: expected {self._expected()}, but the "
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

    is_key_enough = True

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
