"""The header of the PROXY protocol, wherever the network splits it and whoever sends it."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.proxy_protocol import (
    HEADER_TIMEOUT_S,
    MalformedHeader,
    ProxiedConnections,
    UnnamedClient,
    read_header,
)
from pkengine.engine.trusted_proxies import TrustedProxies

PROXY = IPv4Address("TCP", "192.0.2.7", 40000)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 198.51.100.1 192.0.2.1 4711 443\r\n"
V1_OVER_IPV6 = b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n"
CLIENT = IPv4Address("TCP", "198.51.100.1", 4711)
CLIENT_OVER_IPV6 = IPv6Address("TCP", "2001:db8::9", 4711)


def v2(source: str, destination: str, *, command: int = 0x21, more: bytes = b"") -> bytes:
    """Make a header of version 2."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    family = 0x11 if ip_address(source).version == 4 else 0x21
    body = addresses + struct.pack("!HH", 4711, 443) + more
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


V2 = v2("198.51.100.1", "192.0.2.1")
V2_OVER_IPV6 = v2("2001:db8::9", "2001:db8::1", more=b"\x04\0\x05hello")
#: Health checks of HAProxy.
V2_LOCAL = SIGNATURE + b"\x20\0\0\0"

GOOD = {
    V1: CLIENT,
    V2: CLIENT,
    V1_OVER_IPV6: CLIENT_OVER_IPV6,
    V2_OVER_IPV6: CLIENT_OVER_IPV6,
    V2_LOCAL: PROXY,
    v2("198.51.100.1", "192.0.2.1", command=0x20): PROXY,
    b"PROXY UNKNOWN\r\n": UnnamedClient(PROXY),
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n": UnnamedClient(PROXY),
    SIGNATURE + b"\x21\0\0\0": UnnamedClient(PROXY),
    SIGNATURE + b"\x21\x31\0\xd8" + b"/run/x" + bytes(210): UnnamedClient(PROXY),
}
BAD = (
    b"\x16\x03\x01\x02\x00",  # TLS without a header
    b"GET / HTTP/1.1\r\n",
    b"PROXY TCP4 198.51.100.1 192.0.2.1 4711\r\n",
    b"PROXY TCP4 198.51.100.1 192.0.2.1 4711 443 5\r\n",
    b"PROXY TCP4  198.51.100.1 192.0.2.1 4711 443\r\n",
    b"PROXY TCP4 2001:db8::9 192.0.2.1 4711 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::1 4711 443\r\n",
    b"PROXY TCP4 evil.example 192.0.2.1 4711 443\r\n",
    b"PROXY TCP4 198.51.100.1 192.0.2.1 4711 65536\r\n",
    b"PROXY TCP4 198.51.100.1 192.0.2.1 -1 443\r\n",
    b"PROXY TCP4 198.51.100.1 192.0.2.1 \xb2 443\r\n",
    b"PROXY UDP4 198.51.100.1 192.0.2.1 4711 443\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4 " + b"1" * 200,
    SIGNATURE + b"\x11\x11\0\x0c" + bytes(12),  # version 1 in the form of 2
    SIGNATURE + b"\x22\x11\0\x0c" + bytes(12),
    SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
    SIGNATURE + b"\x21\x11\xff\xff",
)


class Recorder(Protocol):
    def connectionMade(self) -> None:
        self.peer = self.transport.getPeer()
        self.received = b""
        self.lost = 0

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure) -> None:
        self.lost += 1


class Headers(SynchronousTestCase):
    @given(st.binary(max_size=64), st.sampled_from((b"", b"PROXY ", SIGNATURE, SIGNATURE + b"!")))
    def test_any_octets_are_a_header_or_malformed_or_waited_on(
        self, data: bytes, begin: bytes
    ) -> None:
        try:
            header = read_header(begin + data)
        except MalformedHeader:
            return
        if header is not None:
            self.assertLessEqual(header.length, len(begin + data))


class Connections(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.made: list[Recorder] = []
        self.logged: list[str] = []

        def make() -> Recorder:
            self.made.append(Recorder())
            return self.made[-1]

        self.factory = ProxiedConnections(
            Factory.forProtocol(make), TrustedProxies.parse("192.0.2.7"), self.clock
        )

        def record(event: dict) -> None:
            self.logged.append(eventAsText(event))

        globalLogPublisher.addObserver(record)
        self.addCleanup(globalLogPublisher.removeObserver, record)

    def connect(self, address: IPv4Address = PROXY) -> None:
        self.transport = StringTransport(peerAddress=address)
        self.protocol = self.factory.buildProtocol(address)
        if self.protocol is not None:
            self.protocol.makeConnection(self.transport)

    def test_the_client_is_known_before_its_first_octet_wherever_the_header_is_split(self) -> None:
        for header, client in GOOD.items():
            whole = header + b"and then TLS"
            for split in range(1, len(whole)):
                self.connect()
                self.protocol.dataReceived(whole[:split])
                self.protocol.dataReceived(whole[split:])
                self.assertEqual(self.made[-1].peer, client, header)
                self.assertEqual(self.made[-1].received, b"and then TLS")
            self.protocol.dataReceived(b"!")
            self.assertEqual(self.made[-1].received, b"and then TLS!")

    def test_a_header_that_is_malformed_ends_the_connection_and_the_log_says_why(self) -> None:
        for octets in BAD:
            self.connect()
            self.protocol.dataReceived(octets)
            self.assertTrue(self.transport.disconnecting, octets)
            self.assertIn("Expected a proxy that is set up to send it", self.logged[-1])
            self.protocol.dataReceived(V1 + b"more")
            self.assertFalse(hasattr(self.made[-1], "peer"))
            self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_is_no_trusted_proxy_is_not_heard(self) -> None:
        self.connect(CLIENT)
        self.assertIs(self.protocol, None)
        self.assertEqual(self.made, [])
        self.assertIn("expected one of the trusted proxies", self.logged[-1])

    def test_a_header_that_does_not_come_is_not_waited_for(self) -> None:
        self.connect()
        self.protocol.dataReceived(V1[:20])
        self.clock.advance(HEADER_TIMEOUT_S)
        self.assertTrue(self.transport.disconnecting)
        self.assertIn("came within 10 s", self.logged[-1])

    def test_after_the_header_there_is_no_deadline_and_the_end_is_heard_once(self) -> None:
        self.connect()
        self.protocol.dataReceived(V2)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.made[-1].lost, 1)

    def test_a_connection_that_ends_within_the_header_was_never_there(self) -> None:
        self.connect()
        self.protocol.dataReceived(V2[:20])
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertFalse(hasattr(self.made[-1], "peer"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
