"""What an administrator may say to listen on: a port, or an endpoint of Twisted."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from pkengine.errors import CannotListenThere

#: Where agents listen when nothing else is said; vdsm's port.
AGENT_PORT = 54321

#: So many connections may wait to be taken: a fleet comes back at once.
_BACKLOG = 4096


def listening_endpoint(reactor: Any, text: str, *, example: int) -> IStreamServerEndpoint:
    """Read what a person says to listen on.

    Args:
        reactor: does the listening.
        text: a port, on all addresses; or an endpoint of Twisted, such as
            ``tcp:54321:interface=192.0.2.1``, ``unix:/run/pkagent.sock`` or
            ``systemd:domain=INET6:index=0``.
        example: the port for the sentence that says what was expected.

    Raises:
        CannotListenThere: it is neither.
    """
    if text.isascii() and text.isdigit():
        port = int(text)
        if port > 65535:
            raise CannotListenThere(f"Cannot listen on port {port}: ports end at 65535.")
        if _ipv6_takes_ipv4():
            return TCP6ServerEndpoint(reactor, port, backlog=_BACKLOG)
        return TCP4ServerEndpoint(reactor, port, backlog=_BACKLOG)
    try:
        return cast(IStreamServerEndpoint, serverFromString(reactor, text))
    except Exception as error:  # the parsers of endpoints raise what they like
        raise CannotListenThere(
            f"Cannot listen on {text!r} ({error}): expected a port such as {example}, or an "
            f"endpoint such as 'tcp:{example}:interface=127.0.0.1'."
        ) from error


def _ipv6_takes_ipv4() -> bool:
    """Tell whether a socket on all IPv6 addresses gets connections by IPv4 as well."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            return probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    except OSError:  # a kernel without IPv6
        return False
