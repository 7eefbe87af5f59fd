"""How often somebody may try to join."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.joining.entrance import (
    BURST_OF_ADDRESS,
    BURST_OF_ALL,
    INTERVAL_OF_ADDRESS_S,
    INTERVAL_OF_ALL_S,
    LimitedEndpoint,
    network_of,
)


class Endpoint:
    """Keeps the factory that listens on it."""

    def listen(self, factory: IProtocolFactory) -> None:
        self.factory = factory


class LimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        below = Endpoint()
        LimitedEndpoint(self.clock, below).listen(Factory.forProtocol(Protocol))
        self.factory = below.factory

    def come(self, address: IAddress) -> bool:
        return self.factory.buildProtocol(address) is not None

    def test_one_address_comes_so_often_and_then_once_each_interval(self) -> None:
        address = IPv4Address("TCP", "192.0.2.1", 4000)
        came = [self.come(address) for _ in range(BURST_OF_ADDRESS + 5)]
        self.assertEqual(came, [True] * BURST_OF_ADDRESS + [False] * 5)
        self.clock.advance(INTERVAL_OF_ADDRESS_S)
        self.assertEqual([self.come(address), self.come(address)], [True, False])

    def test_who_comes_too_often_keeps_nobody_else_out(self) -> None:
        for _ in range(10 * BURST_OF_ALL):
            self.come(IPv4Address("TCP", "192.0.2.1", 4000))
        self.assertTrue(self.come(IPv4Address("TCP", "192.0.2.2", 4000)))

    def test_all_together_come_so_often(self) -> None:
        came = [self.come(IPv4Address("TCP", f"192.0.2.{n}", 1)) for n in range(200)]
        self.assertEqual(came.count(True), BURST_OF_ALL)
        self.clock.advance(2 * INTERVAL_OF_ALL_S)
        came = [self.come(IPv4Address("TCP", f"198.51.100.{n}", 1)) for n in range(10)]
        self.assertEqual(came.count(True), 2)

    def test_a_machine_has_one_address_whatever_it_takes_for_one(self) -> None:
        self.assertEqual(network_of(IPv6Address("TCP", "2001:db8::1", 1)), "2001:db8::/64")
        self.assertEqual(
            network_of(IPv6Address("TCP", "2001:db8::ffff:1%eth0", 1)), "2001:db8::/64"
        )
        self.assertEqual(network_of(IPv6Address("TCP", "::ffff:192.0.2.1", 1)), "192.0.2.1")
        self.assertEqual(network_of(IPv4Address("TCP", "192.0.2.1", 1)), "192.0.2.1")
        self.assertEqual(network_of("somewhere"), "somewhere")
