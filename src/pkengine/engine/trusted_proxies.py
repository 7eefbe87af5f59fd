"""Whose word is taken for where a request comes from.

A connection has one address that nobody can claim: that of its other end.  Where that is a
proxy which an administrator has named, what it says of the address behind it is believed: by
the PROXY protocol, where the listener asks for that, and by ``X-Forwarded-For``, to which each
proxy adds the address that it saw on the right.  So it is read from the right, as long as the
address so far is a trusted proxy's; what stands further to the left, anybody may have written.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from pkengine.errors import InvalidTrustedProxies

#: Stands for whoever can open a UNIX socket that the engine listens on.
UNIX = "unix"

_PORT = re.compile(r"[0-9]{1,5}")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The proxies that are believed; none, unless some are named.

    Attributes:
        networks: where they are.
        is_unix_trusted: whether everybody is believed who comes by a UNIX socket.
    """

    networks: tuple[_Network, ...] = ()
    is_unix_trusted: bool = False

    @classmethod
    def parse(cls, text: str) -> TrustedProxies:
        """Read addresses and networks such as ``192.0.2.7,2001:db8::/64``, and the word ``unix``.

        Raises:
            InvalidTrustedProxies: one of them is neither.
        """
        words = [word.strip() for word in text.split(",") if word.strip()]
        networks = []
        for word in words:
            if word == UNIX:
                continue
            try:
                networks.append(ipaddress.ip_network(word))
            except ValueError as error:
                raise InvalidTrustedProxies(
                    f"The trusted proxy {word!r} is malformed ({error}): expected addresses and "
                    "networks such as '192.0.2.7,2001:db8::/64', or 'unix'."
                ) from error
        return cls(tuple(networks), UNIX in words)

    def __bool__(self) -> bool:
        return bool(self.networks) or self.is_unix_trusted

    def trusts(self, address: IAddress) -> bool:
        """Tell whether the other end of a connection is one of them."""
        if isinstance(address, UNIXAddress):
            return self.is_unix_trusted
        found = _ip_address(getattr(address, "host", ""))
        return found is not None and self._has(found)

    def client(self, peer: IAddress, forwarded_for: Iterable[str]) -> IAddress:
        """Give the address that a request comes from, as far as it can be known.

        A malformed entry ends the search: the address of the proxy that wrote it stands.

        Args:
            peer: the other end of the connection; what the PROXY protocol says, where it does.
            forwarded_for: the values of ``X-Forwarded-For``, in their order.
        """
        if isinstance(peer, (IPv4Address, IPv6Address)):
            peer = _of_family(peer.type, peer.host, peer.port)
        if not self.trusts(peer):
            return peer
        client = peer
        for entry in reversed(",".join(forwarded_for).split(",")):
            found = _forwarded(entry.strip())
            if found is None:
                break
            client = _of_family("TCP", *found)
            if not self.trusts(client):
                break
        return client

    def _has(self, address: _IPAddress) -> bool:
        return any(address in network for network in self.networks)


def _ip_address(text: str) -> _IPAddress | None:
    """Read an address; an IPv4 one in IPv6's clothes is an IPv4 one (RFC 4291 §2.5.5.2)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _of_family(kind: str, host: str, port: int) -> IAddress:
    address = _ip_address(host)
    text = host if address is None else str(address)
    family = IPv4Address if isinstance(address, ipaddress.IPv4Address) else IPv6Address
    return family(kind, text, port)  # type: ignore[arg-type]


def _forwarded(entry: str) -> tuple[str, int] | None:
    """Read an entry of X-Forwarded-For: an address, which some proxies give with a port."""
    host, port = entry, "0"
    if entry.startswith("["):
        host, closing, behind = entry[1:].partition("]")
        if not closing or behind[:1] not in ("", ":"):
            return None
        port = behind[1:] if behind else "0"
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    # What is behind a percent sign means something on the machine that wrote it, if anywhere.
    address = None if "%" in host else _ip_address(host)
    if address is None or not (_PORT.fullmatch(port) and int(port) <= 65535):
        return None
    return str(address), int(port)
