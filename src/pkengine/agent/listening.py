"""Where the agent listens: what ``--listen`` may say, and what came of it."""

from __future__ import annotations

import errno
import socket
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint

from pkengine.agent.control_verbs import ListeningAddress
from pkengine.errors import AgentError

#: Where agents listen when nothing else is said; vdsm's port.
DEFAULT_PORT = 54321

#: What ``--listen`` says where the agent only dials.
NOWHERE = "none"


def listening_address(address: IAddress) -> ListeningAddress:
    """Put down an address of Twisted in the form in which it is told."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        # A peer by IPv4 on a socket of both families has a mapped address (RFC 4291 §2.5.5.2).
        return ListeningAddress(address.host.removeprefix("::ffff:"), address.port)
    if isinstance(address, UNIXAddress):
        return ListeningAddress((address.name or b"").decode("utf-8", "replace"))
    return ListeningAddress(str(address))


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
            f"Cannot listen on {text!r} ({error}): expected a port such as {DEFAULT_PORT}, or an "
            f"endpoint such as 'tcp:{DEFAULT_PORT}:interface=127.0.0.1'."
        ) from error


def cannot_listen(where: str, error: BaseException | None) -> AgentError:
    """Say in a sentence why an attempt to listen came to nothing."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    advice = ""
    if getattr(cause, "errno", None) == errno.EADDRINUSE:
        advice = " Another agent may run there: stop it, or say --listen with another port."
    return AgentError(f"Cannot listen on {where}: {reason.rstrip('.')}.{advice}")


def _ipv6_takes_ipv4() -> bool:
    """Tell whether a socket on all IPv6 addresses gets connections by IPv4 as well."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            return probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    except OSError:  # a kernel without IPv6
        return False
