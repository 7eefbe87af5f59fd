"""Where the agent listens: what ``--listen`` may say, and what came of it."""

from __future__ import annotations

import socket
from typing import Any, cast

import msgspec
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
)
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint

from pkengine.errors import AgentError

#: Where agents listen when nothing else is said; vdsm's port.
DEFAULT_PORT = 54321


class ListeningAddress(msgspec.Struct, frozen=True, rename="camel"):
    """Where an agent can be reached; a UNIX socket has no port, and its path as address."""

    address: str
    port: int | None = None

    @classmethod
    def of(cls, address: IAddress) -> ListeningAddress:
        """Take down an address of Twisted."""
        if isinstance(address, (IPv4Address, IPv6Address)):
            return cls(address.host, address.port)
        if isinstance(address, UNIXAddress):
            return cls((address.name or b"").decode("utf-8", "replace"))
        return cls(str(address))

    def __str__(self) -> str:
        if self.port is None:
            return self.address or "unix"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def listening_endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    """Read what ``--listen`` says.

    Args:
        reactor: does the listening.
        text: a port, on all addresses; or an endpoint of Twisted, such as
            ``tcp:54321:interface=192.0.2.1``, ``unix:/run/pkagent.sock`` or
            ``systemd:domain=INET6:index=0``.

    Raises:
        AgentError: it is neither.
    """
    if text.isascii() and text.isdigit():
        port = int(text)
        if port > 65535:
            raise AgentError(f"Cannot listen on port {port}: ports end at 65535.")
        if _ipv6_takes_ipv4():
            return TCP6ServerEndpoint(reactor, port)
        return TCP4ServerEndpoint(reactor, port)
    try:
        return cast(IStreamServerEndpoint, serverFromString(reactor, text))
    except (ValueError, TypeError, LookupError) as error:
        raise AgentError(
            f"Cannot listen on {text!r}: expected a port such as {DEFAULT_PORT}, or an "
            f"endpoint such as 'tcp:{DEFAULT_PORT}:interface=127.0.0.1'."
        ) from error


def _ipv6_takes_ipv4() -> bool:
    """Tell whether a socket on all IPv6 addresses gets connections by IPv4 as well."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            return probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    except OSError:  # a kernel without IPv6
        return False
