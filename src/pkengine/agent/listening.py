"""Where the agent listens: what ``--listen`` may say, and what came of it."""

from __future__ import annotations

import errno

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress

from pkengine.agent.control_verbs import ListeningAddress
from pkengine.errors import AgentError

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


def cannot_listen(where: str, error: BaseException | None) -> AgentError:
    """Say in a sentence why an attempt to listen came to nothing."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    advice = ""
    if getattr(cause, "errno", None) == errno.EADDRINUSE:
        advice = " Another agent may run there: stop it, or say --listen with another port."
    return AgentError(f"Cannot listen on {where}: {reason.rstrip('.')}.{advice}")
