"""The port on which engines reach the agent, and those that are connected."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkengine.agent.control_verbs import Connection, ListeningAddress
from pkengine.agent.listening import cannot_listen, listening_address
from pkengine.channel import Channel, ChannelListener, Verbs, listen_channel
from pkengine.errors import AgentError, ChannelClosed
from pkengine.interfaces import IAuthenticator


class EngineListener(Service):
    """Listens for engines, and knows which are connected.

    Args:
        reactor: does the listening, and gives the time.
        endpoint: where engines come from.
        where: the endpoint as the administrator wrote it, for errors.
        authenticator: who the agent is and whom it accepts.
        verbs: what engines may call.
        changed: is called when the agent listens, and when an engine has come or gone.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamServerEndpoint,
        where: str,
        authenticator: IAuthenticator,
        verbs: Verbs,
        changed: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._where = where
        self._authenticator = authenticator
        self._verbs = verbs
        self._changed = changed
        self._listener: ChannelListener | None = None
        self._since: WeakKeyDictionary[Channel, datetime.datetime] = WeakKeyDictionary()

    def privilegedStartService(self) -> None:
        """Listen, while the process may still bind any port.

        Raises:
            AgentError: that is not possible.
        """
        Service.privilegedStartService(self)
        listening = Deferred.fromCoroutine(
            listen_channel(
                self._reactor,
                self._endpoint,
                self._authenticator,
                verbs=self._verbs,
                on_channel=self._connected,
            )
        )
        outcome: list[ChannelListener | Failure] = []
        listening.addBoth(outcome.append)
        if not outcome:
            listening.cancel()
            raise AgentError(f"Cannot listen on {self._where}: this endpoint needs time to begin.")
        if isinstance(outcome[0], Failure):
            raise cannot_listen(self._where, outcome[0].value) from outcome[0].value
        self._listener = outcome[0]
        self._log.info("Listening for engines on {address}", address=self.addresses()[0])
        self._changed()

    def stopService(self) -> Deferred[Any] | None:
        """Listen no more, and close every connection in order."""
        Service.stopService(self)
        listener, self._listener = self._listener, None
        return listener.stopListening() if listener is not None else None

    def addresses(self) -> list[ListeningAddress]:
        """Give where engines can reach the agent."""
        if self._listener is None:
            return []
        return [listening_address(self._listener.getHost())]

    def connections(self) -> list[Connection]:
        """Give the engines that are connected now, the one that came first at the front."""
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

    def _connected(self, channel: Channel) -> None:
        seconds = self._reactor.seconds()
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
