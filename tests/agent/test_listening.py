"""Where the agent listens is told in one form."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import TestCase

from pkengine.agent.listening import listening_address


class ListeningAddressTests(TestCase):
    def test_addresses_are_written_as_in_urls(self) -> None:
        for address, text in (
            (IPv4Address("TCP", "192.0.2.1", 54321), "192.0.2.1:54321"),
            (IPv6Address("TCP", "::", 54321), "[::]:54321"),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 54321), "192.0.2.1:54321"),
            (UNIXAddress("/run/pkagent.sock"), "/run/pkagent.sock"),
        ):
            self.assertEqual(str(listening_address(address)), text)
