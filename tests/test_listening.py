"""What an administrator says to listen on is what is listened on."""

from __future__ import annotations

import socket

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import TestCase

from pkengine import listening
from pkengine.errors import CannotListenThere
from pkengine.listening import listening_endpoint


class ListeningEndpointTests(TestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactor()

    def listen(self, text: str) -> list[tuple[int, str]]:
        self.successResultOf(
            listening_endpoint(self.reactor, text, example=54321).listen(Factory())
        )
        return [(port, interface) for port, _, _, interface in self.reactor.tcpServers]

    def test_port_means_all_addresses_of_both_families(self) -> None:
        self.patch(listening, "_ipv6_takes_ipv4", lambda: True)
        self.assertEqual(self.listen("54321"), [(54321, "::")])

    def test_port_means_all_ipv4_addresses_where_ipv6_would_not_take_them(self) -> None:
        self.patch(listening, "_ipv6_takes_ipv4", lambda: False)
        self.assertEqual(self.listen("54321"), [(54321, "")])

    def test_kernel_without_ipv6_is_noticed(self) -> None:
        def no_ipv6(*_: object) -> None:
            raise OSError(97, "Address family not supported by protocol")

        self.patch(socket, "socket", no_ipv6)
        self.assertIsInstance(
            listening_endpoint(self.reactor, "1", example=54321), TCP4ServerEndpoint
        )

    def test_anything_else_is_an_endpoint(self) -> None:
        self.assertEqual(self.listen("tcp:54321:interface=192.0.2.1"), [(54321, "192.0.2.1")])

    def test_what_is_neither_is_refused_with_an_example(self) -> None:
        for text in ("", "65536", "-1", "nonsense", "nonsense:1", "tcp:port", "tcp", "٣"):
            error = self.assertRaises(
                CannotListenThere, listening_endpoint, self.reactor, text, example=54321
            )
            self.assertIn("Cannot listen on", str(error), text)
