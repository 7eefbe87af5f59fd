"""A host's fingerprints from DNS (SSHFP records, RFC 4255), where DNSSEC vouches for them.

Whether an answer is authentic is said by the resolver, in the AD bit (RFC 4035 §3.2.3).  So only
a resolver is asked of which that can be believed: one on this machine, or one to which the way
is safe.  An answer without the bit is as good as none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from twisted.internet.defer import TimeoutError
from twisted.internet.error import BindError
from twisted.internet.interfaces import IReactorTime, IReactorUDP
from twisted.names import dns

from pkengine.errors import DnsError, InvalidResolver
from pkengine.keys import SshFingerprint

DNS_PORT = 53
_RESOLVER = re.compile(r"\[([^\]]*)\](?::([0-9]{1,5}))?|([^:]*)(?::([0-9]{1,5}))?|(.*)")
_SHA256 = 2
_SHA256_LENGTH = 32


class IReactor(IReactorTime, IReactorUDP):
    """What is needed of a reactor: time and UDP."""


@dataclass(frozen=True, slots=True)
class ValidatingResolver:
    """A resolver that validates DNSSEC and whose word is believed.

    Args:
        address: an IP address: one of this machine's own, unless the way to it is safe.
        port: where it listens.
        has_safe_path: nobody can change what is sent to it and what it answers.
    """

    address: str
    port: int = DNS_PORT
    has_safe_path: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be believed.

        Raises:
            InvalidResolver: the resolver is across a network, and nothing is said of the way.
        """
        if not self.has_safe_path and not ipaddress.ip_address(self.address).is_loopback:
            raise InvalidResolver(
                f"The resolver {self.address} is not on this machine, so anybody in between can "
                "claim that its answers are authentic: name a local resolver that validates "
                "DNSSEC, such as 127.0.0.53 or 127.0.0.1."
            )

    @classmethod
    def parse(cls, text: str) -> ValidatingResolver:
        """Read ``ADDRESS[:PORT]``, with an IPv6 address in brackets where a port follows.

        Raises:
            InvalidResolver: it is malformed, or cannot be believed.
        """
        match = _RESOLVER.fullmatch(text)
        try:
            bracketed, port_6, plain, port_4, bare = match.groups() if match else ("",) * 5
            address = ipaddress.ip_address(bracketed or plain or bare or "")
            port = int(port_6 or port_4 or DNS_PORT)
        except ValueError:
            raise InvalidResolver(
                f"The resolver {text!r} is malformed: expected an IP address such as 127.0.0.53, "
                "or [::1]:5353 with a port."
            ) from None
        return cls(str(address), port)

    def __str__(self) -> str:
        return self.address if self.port == DNS_PORT else f"{self.address} port {self.port}"


class _Query(dns.DNSDatagramProtocol):
    """Asks with the AD bit set, which says that it is wanted in the answer (RFC 6840 §5.7)."""

    def writeMessage(self, message: Any, address: Any) -> None:
        message.authenticData = 1
        super().writeMessage(message, address)

    def messageReceived(self, message: Any, protocol: Any, address: Any = None) -> None:
        """Leave out what was not asked for; the controller's part."""


async def published_fingerprints(
    reactor: IReactor, resolver: ValidatingResolver, name: str, *, timeout_s: float = 5.0
) -> tuple[SshFingerprint, ...]:
    """Look up the fingerprints of a host in DNS.

    Returns:
        The SHA-256 ones; empty where there are none, or where DNSSEC does not vouch for them.

    Raises:
        DnsError: the resolver does not answer, or not with an answer.
    """
    protocol = _Query(None, reactor=reactor)
    protocol.controller = protocol
    interface = "::" if ":" in resolver.address else ""
    try:
        port = reactor.listenUDP(0, cast(Any, protocol), interface, 4096)
    except BindError as error:
        raise DnsError(f"No query can be sent to the resolver {resolver}: {error}.") from error
    question = dns.Query(name.rstrip("."), dns.SSHFP, dns.IN)
    try:
        answer = await protocol.query((resolver.address, resolver.port), [question], timeout_s)
    except (TimeoutError, dns.DNSQueryTimeoutError):
        raise DnsError(
            f"The resolver {resolver} did not answer within {timeout_s:g} s. Check that it runs."
        ) from None
    finally:
        port.stopListening()
    return fingerprints(answer, name, resolver)


def fingerprints(answer: Any, name: str, resolver: object) -> tuple[SshFingerprint, ...]:
    """Take the fingerprints from an answer, if DNSSEC vouches for it.

    Raises:
        DnsError: it tells of a failure; a name that does not exist is none.
    """
    if answer.rCode not in (dns.OK, dns.ENAME):
        raise DnsError(
            f"The resolver {resolver} could not look up the SSHFP records of {name} (response "
            f"code {answer.rCode}). Where that is SERVFAIL (2), DNSSEC may have found them forged."
        )
    if answer.trunc:
        raise DnsError(f"The resolver {resolver} has more SSHFP records of {name} than fit.")
    if not answer.authenticData:
        return ()
    return _sha256(record.payload for record in answer.answers if record.type == dns.SSHFP)


def _sha256(records: Any) -> tuple[SshFingerprint, ...]:
    found: Sequence[SshFingerprint] = [
        SshFingerprint("SHA256", bytes(record.fingerprint))
        for record in records
        if record.fingerprintType == _SHA256 and len(record.fingerprint) == _SHA256_LENGTH
    ]
    return tuple(dict.fromkeys(found))
