"""The engines that are connected now, whoever dialled whom."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.agent.control_verbs import Connection
from pkengine.agent.listening import listening_address
from pkengine.channel import Channel
from pkengine.errors import ChannelClosed


class ConnectedEngines:
    """Knows the channels that are open.

    Args:
        clock: gives the time.
        changed: is called when an engine has come or gone.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._since: WeakKeyDictionary[Channel, datetime.datetime] = WeakKeyDictionary()

    def add(self, channel: Channel) -> None:
        """Note a channel that has opened; its end is noted, too."""
        seconds = self._clock.seconds()
        self._since[channel] = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
        self._log.info(
            "{name} is connected from {address}",
            name=channel.peer_name,
            address=listening_address(channel.peer_address),
        )

        def disconnected(reason: ChannelClosed) -> ChannelClosed:
            self._since.pop(channel, None)
            self._log.info(
                "{name} is disconnected: {reason}", name=channel.peer_name, reason=str(reason)
            )
            self._changed()
            return reason

        channel.closed.addCallback(disconnected)
        self._changed()

    def list(self) -> list[Connection]:
        """Give the engines that are connected, the one that came first at the front."""
        return [
            Connection(
                name=channel.peer_name,
                pin=str(channel.authenticated.peer.key),
                mechanism=channel.authenticated.mechanism,
                address=str(listening_address(channel.peer_address)),
                since=since,
            )
            for channel, since in sorted(self._since.items(), key=lambda item: item[1])
        ]
