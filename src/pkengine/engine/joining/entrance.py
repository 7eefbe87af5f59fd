"""Where hosts join: one more resource beside those where agents dial in.

Whoever comes here has to prove a code before anything else is listened to.  Trying costs the
engine a handshake, so there is an end to it: for each address, and for all together, so that
guessing neither succeeds nor keeps the engine from its work.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.web.resource import Resource
from zope.interface import implementer

from pkengine.auth.attempts import AttemptLimit
from pkengine.channel import Channel, ChannelListener, Verbs, listen_channel
from pkengine.channel.engine_url import JOIN_PATH
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.interfaces import IAuthenticator

#: Attempts of one address in a row, and how long one more takes after that.
BURST_OF_ADDRESS = 10
INTERVAL_OF_ADDRESS_S = 6.0

#: The same for all addresses together; an attempt takes a few milliseconds.
BURST_OF_ALL = 60
INTERVAL_OF_ALL_S = 0.2

#: Who has proved a code has so long to join.
JOIN_TIMEOUT_S = 120.0


class JoinEntrance:
    """Takes hosts in that know a code, while it is open.

    Args:
        reactor: keeps the deadlines.
        authenticator: accepts who proves a code.
        verbs: what a host may ask then.
    """

    def __init__(self, reactor: Any, authenticator: IAuthenticator, verbs: Verbs) -> None:
        self._reactor = reactor
        self._authenticator = authenticator
        self._verbs = verbs
        self._way = WebSocketResource(reactor, JOIN_PATH)
        self._listener: ChannelListener | None = None

    def put_into(self, folder: Resource) -> None:
        """Put the resource into the folder in which those of the agents are."""
        folder.putChild(JOIN_PATH.rpartition("/")[2].encode("ascii"), self._way)

    async def open(self) -> None:
        """Take hosts in from now on."""
        self._listener = await listen_channel(
            self._reactor,
            LimitedEndpoint(self._reactor, self._way),
            self._authenticator,
            verbs=self._verbs,
            on_channel=self._came,
        )

    async def close(self) -> None:
        """Take no more hosts in, and let go of those that are joining."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stopListening()

    def _came(self, channel: Channel) -> None:
        deadline = self._reactor.callLater(JOIN_TIMEOUT_S, channel.abort)

        def ended(reason: object) -> object:
            if deadline.active():
                deadline.cancel()
            return reason

        channel.closed.addCallback(ended)


@implementer(IStreamServerEndpoint)
class LimitedEndpoint:
    """An endpoint where nobody connects all too often.

    Args:
        clock: gives the time.
        endpoint: where the connections come from.
    """

    def __init__(self, clock: IReactorTime, endpoint: IStreamServerEndpoint) -> None:
        self._endpoint = endpoint
        self._clock = clock

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; the factory is asked where there were not too many connections."""
        return self._endpoint.listen(_LimitedFactory(self._clock, protocolFactory))


@implementer(IProtocolFactory)
class _LimitedFactory:
    """Asks another factory, unless there were too many connections a short while ago."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, factory: IProtocolFactory) -> None:
        self.doStart: Callable[[], None] = factory.doStart
        self.doStop: Callable[[], None] = factory.doStop
        self._factory = factory
        seconds = clock.seconds
        self._each = AttemptLimit(
            seconds, burst=BURST_OF_ADDRESS, interval_s=INTERVAL_OF_ADDRESS_S
        )
        self._all = AttemptLimit(seconds, burst=BURST_OF_ALL, interval_s=INTERVAL_OF_ALL_S)

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """Give a protocol, or None."""
        # Who has used up its own share takes nothing from the others'.
        if self._each.begin(network_of(addr)) and self._all.begin("all"):
            return self._factory.buildProtocol(addr)
        return None


def network_of(address: object) -> str:
    """Give what one machine cannot change at will: its address, or the /64 of IPv6."""
    text = str(getattr(address, "host", address))
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))
