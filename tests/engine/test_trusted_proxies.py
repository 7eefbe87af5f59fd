"""Whose word is taken for where a request comes from."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.proxy_protocol import UnnamedClient
from pkengine.engine.trusted_proxies import TrustedProxies
from pkengine.errors import InvalidTrustedProxies

STRANGER = IPv4Address("TCP", "203.0.113.9", 40000)
PROXY = IPv4Address("TCP", "192.0.2.7", 40000)


def seen(peer: IAddress, *forwarded_for: str, trusted: str = "192.0.2.0/24,2001:db8::7") -> str:
    """Give the address that a request seems to come from."""
    address = TrustedProxies.parse(trusted).client(peer, forwarded_for)
    return getattr(address, "host", str(address))


class WhoIsBelieved(SynchronousTestCase):
    def test_nobody_is_unless_an_administrator_says_so(self) -> None:
        self.assertFalse(TrustedProxies())
        self.assertEqual(seen(PROXY, "198.51.100.1", trusted=""), "192.0.2.7")

    def test_a_stranger_cannot_claim_another_address(self) -> None:
        self.assertEqual(seen(STRANGER, "198.51.100.1"), "203.0.113.9")
        self.assertEqual(seen(STRANGER, "192.0.2.8", "198.51.100.1, 192.0.2.7"), "203.0.113.9")

    def test_a_proxy_says_who_is_behind_it(self) -> None:
        self.assertEqual(seen(PROXY, "198.51.100.1"), "198.51.100.1")
        self.assertEqual(seen(PROXY), "192.0.2.7")

    def test_what_the_client_wrote_itself_stands_further_left_and_is_not_believed(self) -> None:
        self.assertEqual(seen(PROXY, "127.0.0.1, 198.51.100.1"), "198.51.100.1")
        self.assertEqual(seen(PROXY, "127.0.0.1", "198.51.100.1"), "198.51.100.1")

    def test_a_chain_of_proxies_is_followed_as_long_as_each_is_trusted(self) -> None:
        chain = "127.0.0.1, 198.51.100.1, 2001:db8::7, 192.0.2.8"
        self.assertEqual(seen(PROXY, chain), "198.51.100.1")
        self.assertEqual(seen(PROXY, "198.51.100.1, 2001:db8::8, 192.0.2.8"), "2001:db8::8")

    def test_a_request_of_a_proxy_itself_is_that_proxys(self) -> None:
        self.assertEqual(seen(PROXY, "192.0.2.9, 192.0.2.8"), "192.0.2.9")

    def test_where_an_entry_is_malformed_the_proxy_that_wrote_it_stands(self) -> None:
        for entry in (
            "unknown",
            "",
            "198.51.100.1, ",
            "198.51.100.1, evil",
            "999.1.1.1",
            "198.51.100.1:port",
            "198.51.100.1:99999",
            "[2001:db8::9",
            "[2001:db8::9]x",
            "198.51.100.1\x00",
            "\N{SUPERSCRIPT ONE}.1.1.1",
            "198.51.100.1:" + "1" * 5000,
            "2001:db8::9%eth0",
            "[2001:db8::9%somebody else]:4711",
        ):
            self.assertEqual(seen(PROXY, entry), "192.0.2.7", entry)
        self.assertEqual(seen(PROXY, "198.51.100.1, x, 192.0.2.8"), "192.0.2.8")

    def test_some_proxies_give_a_port_too(self) -> None:
        self.assertEqual(seen(PROXY, "198.51.100.1:4711"), "198.51.100.1")
        self.assertEqual(seen(PROXY, "[2001:db8::9]:4711"), "2001:db8::9")
        self.assertEqual(seen(PROXY, "[2001:db8::9]"), "2001:db8::9")
        self.assertEqual(seen(PROXY, "2001:db8::9"), "2001:db8::9")

    def test_an_address_has_one_text_form(self) -> None:
        mapped = IPv6Address("TCP", "::ffff:192.0.2.7", 40000)
        self.assertEqual(seen(mapped), "192.0.2.7")
        self.assertEqual(seen(mapped, "::FFFF:198.51.100.1"), "198.51.100.1")
        self.assertEqual(seen(PROXY, "2001:DB8:0:0::9"), "2001:db8::9")
        self.assertEqual(seen(IPv6Address("TCP", "::ffff:203.0.113.9", 1)), "203.0.113.9")

    def test_whoever_comes_by_a_unix_socket_is_believed_only_if_that_is_said(self) -> None:
        path = UNIXAddress("/run/pkengine.sock")
        self.assertEqual(seen(path, "198.51.100.1", trusted="unix"), "198.51.100.1")
        self.assertEqual(TrustedProxies.parse("192.0.2.7").client(path, ["198.51.100.1"]), path)

    def test_who_has_no_name_behind_a_proxy_cannot_claim_one(self) -> None:
        unnamed = UnnamedClient(PROXY)
        self.assertIs(TrustedProxies.parse("192.0.2.7").client(unnamed, ["1.2.3.4"]), unnamed)

    def test_what_names_no_proxies_is_refused(self) -> None:
        for text in ("proxy.example", "192.0.2.7/33", "192.0.2.7/24", "192.0.2.7;192.0.2.8"):
            with self.assertRaises(InvalidTrustedProxies) as caught:
                TrustedProxies.parse(text)
            self.assertIn("expected addresses and networks", str(caught.exception))
