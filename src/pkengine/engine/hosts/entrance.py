"""Where agents dial in: resources of the engine's HTTPS site, one for each mechanism.

The mechanism stands in the path, because an acceptor must know it before the first octet:
``/pkengine/agent/pin``.  Who is accepted, and by which mechanism, is the trust store's: an
agent that comes by another one than its record says is refused.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from twisted.logger import Logger
from twisted.web.resource import Resource

from pkengine.channel import Channel, ChannelListener, Verbs, listen_channel
from pkengine.channel.admission import Admission
from pkengine.channel.engine_url import AGENT_PATH
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.engine.events import EventCode, Events
from pkengine.engine.hosts.arrivals import Arrivals
from pkengine.engine.hosts.direct_paths import DirectPaths
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.model import Severity
from pkengine.engine.tasks import Tasks
from pkengine.errors import NotFound
from pkengine.interfaces import IAuthenticator


class Entrance:
    """Takes agents in while it is open.

    Args:
        reactor: keeps the deadlines.
        authenticators: the mechanisms that are taken.
        arrivals: gets the channels.
        arrived: is called with the id of each host whose agent has come.
        paths: knows who must come by a direct path.
        registry: knows the names of hosts.
        events: hears of an agent that comes twice.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        authenticators: Iterable[IAuthenticator],
        arrivals: Arrivals,
        *,
        arrived: Callable[[uuid.UUID], object],
        paths: DirectPaths,
        registry: HostRegistry,
        events: Events,
    ) -> None:
        self._reactor = reactor
        self._arrivals = arrivals
        self._arrived = arrived
        self._paths = paths
        self._registry = registry
        self._events = events
        self._tasks = Tasks()
        self._admission = Admission(reactor)
        self._listeners: list[ChannelListener] = []
        self._ways = [
            (
                WebSocketResource(
                    reactor, f"{AGENT_PATH}/{each.mechanism}", admission=self._admission
                ),
                each,
            )
            for each in authenticators
        ]

    def put_into(self, folder: Resource) -> None:
        """Put the resources into the folder that stands at `AGENT_PATH`."""
        for way, authenticator in self._ways:
            folder.putChild(authenticator.mechanism.encode("ascii"), way)

    async def open(self) -> None:
        """Take agents in from now on."""
        for way, authenticator in self._ways:
            listener = await listen_channel(
                self._reactor,
                way,
                authenticator,
                verbs=Verbs(),
                on_channel=self._came,
                settled=self._admission.settled,
            )
            self._listeners.append(listener)

    async def close(self) -> None:
        """Take no more agents, and close the connections of all that have come."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.stopListening()
        await self._tasks.stop()

    def _came(self, channel: Channel) -> None:
        host_id = uuid.UUID(channel.peer_name)  # trust knows hosts by their ids
        self._log.info(
            "The agent of host {host} dialled in from {address} by {mechanism}",
            host=channel.peer_name,
            address=channel.peer_address,
            mechanism=channel.authenticated.mechanism,
        )
        if not self._paths.takes(host_id, channel):
            return
        former = self._arrivals.add(host_id, channel)
        if former is not None:
            self._tasks.spawn("telling of an agent", self._tell(host_id, channel, former))
        self._arrived(host_id)

    async def _tell(self, host_id: uuid.UUID, new: Channel, former: Channel) -> None:
        with contextlib.suppress(NotFound):  # it was removed meanwhile
            host = await self._registry.get(host_id)
            await self._events.add(
                EventCode.AGENT_DIALLED_IN_ANEW,
                Severity.WARNING,
                f"The agent of Host {host.name} dialled in anew from {_address(new)} while it was "
                f"connected from {_address(former)}: the newer connection is used. Where this "
                "repeats, two machines may have one key.",
                host=host,
            )


def _address(channel: Channel) -> str:
    return str(getattr(channel.peer_address, "host", channel.peer_address))
