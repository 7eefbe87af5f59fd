"""The PROXY protocol, versions 1 and 2: a proxy in TCP mode says who is behind it.

Theory of operation.  The listener asks for the header on every connection, for a receiver must
not guess whether there is one (section 1 of the specification): behind a proxy that sends none,
a client could write one itself.  Who is no trusted proxy is refused before any octet is read.
What speaks above begins when the header is whole.

Twisted's own ``haproxy:`` endpoint is not used: it asks nobody whether the sender may be
believed, takes any text for an address, and knows no deadline.

Specification: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from pkengine.engine.trusted_proxies import TrustedProxies

HEADER_TIMEOUT_S = 10.0

_V1 = b"PROXY "
_V1_LONGEST = 107
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = struct.Struct("!12sBBH")
#: The addresses take at most 216 octets; what else a proxy tells is short.
_V2_LONGEST = 4096
_V2_FAMILIES = {0x11: (4, IPv4Address), 0x21: (16, IPv6Address)}


class MalformedHeader(ValueError):
    """What came is no header of the PROXY protocol."""


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class UnnamedClient:
    """Where somebody is of whom a proxy does not tell the address; it is nobody's to claim."""

    proxy: IAddress

    def __str__(self) -> str:
        return f"somebody behind {self.proxy}"


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Attributes:
        length: its octets.
        is_own: the proxy opened the connection for itself, to see whether anybody answers.
        source: the address of the client, or None where the header does not tell it.
    """

    length: int
    is_own: bool = False
    source: IAddress | None = None


def read_header(data: bytes) -> Header | None:
    """Read the header at the beginning of a stream; gives None where more must come first.

    Raises:
        MalformedHeader: there is none.
    """
    if data[: len(_V2)] == _V2[: len(data)]:
        return _read_v2(data)
    if data[: len(_V1)] == _V1[: len(data)]:
        return _read_v1(data)
    raise MalformedHeader("the connection does not begin with a header of the PROXY protocol")


def _read_v1(data: bytes) -> Header | None:
    line, end, _ = data[:_V1_LONGEST].partition(b"\r\n")
    if not end:
        if len(data) >= _V1_LONGEST:
            raise MalformedHeader(f"the line has more than {_V1_LONGEST} octets")
        return None
    length = len(line) + len(end)
    words = line.decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return Header(length)
    families = {"TCP4": (ipaddress.IPv4Address, IPv4Address)}
    families |= {"TCP6": (ipaddress.IPv6Address, IPv6Address)}  # type: ignore[dict-item]
    if len(words) != 6 or words[1] not in families or b"%" in line:  # zones mean nothing here
        raise MalformedHeader("the line has not the words that it should have")
    parse, address = families[words[1]]
    try:
        source, _ = parse(words[2]), parse(words[3])
    except ValueError as error:
        raise MalformedHeader(str(error)) from error
    source_port, _ = _port(words[4]), _port(words[5])
    return Header(length, source=address("TCP", str(source), source_port))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise MalformedHeader(f"{text!r} is no port")
    return int(text)


def _read_v2(data: bytes) -> Header | None:
    if len(data) < _V2_FIXED.size:
        return None
    _, version_and_command, family, size = _V2_FIXED.unpack_from(data)
    if version_and_command not in (0x20, 0x21):
        raise MalformedHeader(f"version and command are 0x{version_and_command:02x}")
    length = _V2_FIXED.size + size
    if length > _V2_LONGEST:
        raise MalformedHeader(f"it has {length} octets: at most {_V2_LONGEST} are taken")
    if len(data) < length:
        return None
    if version_and_command == 0x20:  # LOCAL: whatever else it says is to be ignored
        return Header(length, is_own=True)
    if family not in _V2_FAMILIES:  # the addresses of another family mean nothing here
        return Header(length)
    octets, address = _V2_FAMILIES[family]
    if size < 2 * octets + 4:
        raise MalformedHeader("the addresses are not whole")
    begin = _V2_FIXED.size
    source = ipaddress.ip_address(data[begin : begin + octets])
    (port,) = struct.unpack_from("!H", data, begin + 2 * octets)
    return Header(length, source=address("TCP", str(source), port))


class ProxiedConnection(ProtocolWrapper):
    """A connection whose other end a trusted proxy names before anything else is heard."""

    factory: ProxiedConnections
    _peer: IAddress | None = None
    _deadline: IDelayedCall | None = None
    _held = b""
    _has_begun = False
    _is_refused = False

    def connectionMade(self) -> None:
        """Wait for the header: what speaks above is not told of the connection yet."""
        self._deadline = self.factory.clock.callLater(HEADER_TIMEOUT_S, self._late)

    def makeConnection(self, transport: ITransport) -> None:
        """Begin; see `connectionMade`."""
        directlyProvides(self, providedBy(transport))
        self.connected = 1
        self.transport = transport
        self.factory.registerProtocol(self)  # type: ignore[no-untyped-call]
        self.connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take octets: first the header, then those of the client."""
        if self._has_begun:
            self.wrappedProtocol.dataReceived(data)
            return
        if self._is_refused:
            return
        self._held += data
        try:
            header = read_header(self._held)
        except MalformedHeader as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._begin(header)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell what speaks above, where it has begun."""
        self._stop_waiting()
        if self._has_begun:
            super().connectionLost(reason)  # type: ignore[no-untyped-call]
        else:
            self.factory.unregisterProtocol(self)  # type: ignore[no-untyped-call]

    def getPeer(self) -> IAddress:
        """Give the address of the client."""
        return self._peer or self._proxy()

    def _proxy(self) -> IAddress:
        assert self.transport is not None
        return self.transport.getPeer()

    def _begin(self, header: Header) -> None:
        self._stop_waiting()
        if not header.is_own:
            self._peer = header.source or UnnamedClient(self._proxy())
        self._has_begun = True
        rest, self._held = self._held[header.length :], b""
        self.wrappedProtocol.makeConnection(cast(ITransport, self))
        if rest:
            self.wrappedProtocol.dataReceived(rest)

    def _late(self) -> None:
        self._deadline = None
        self._refuse(f"no header of the PROXY protocol came within {HEADER_TIMEOUT_S:g} s")

    def _refuse(self, why: str) -> None:
        self._stop_waiting()
        self._is_refused = True
        self.factory.log.warn(
            "The connection from the proxy {proxy} is refused: {why}. Expected a proxy that is "
            "set up to send it, such as HAProxy with 'send-proxy-v2'.",
            proxy=self._proxy(),
            why=why,
        )
        assert self.transport is not None
        self.transport.loseConnection()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class ProxiedConnections(WrappingFactory):
    """Takes connections from trusted proxies alone, each with a header in front.

    Args:
        factory: speaks on the connections.
        proxies: who may send headers.
        clock: keeps the deadline for them.
    """

    protocol = ProxiedConnection
    noisy = False
    log = Logger()

    def __init__(
        self, factory: IProtocolFactory, proxies: TrustedProxies, clock: IReactorTime
    ) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self.clock = clock
        self._proxies = proxies

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:  # type: ignore[override]
        """Take a connection, or refuse it by None."""
        if not self._proxies.trusts(addr):
            self.log.warn(
                "A connection from {address} is refused: expected one of the trusted proxies, "
                "see --trusted-proxies.",
                address=addr,
            )
            return None
        return super().buildProtocol(addr)
