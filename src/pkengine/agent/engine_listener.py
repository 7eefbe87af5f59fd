"""The port on which engines reach the agent."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.control_verbs import ListeningAddress
from pkengine.agent.listening import cannot_listen, listening_address
from pkengine.channel import ChannelListener, Verbs, listen_channel
from pkengine.errors import AgentError
from pkengine.interfaces import IAuthenticator


class EngineListener(Service):
    """Listens for engines.

    Args:
        reactor: does the listening, and gives the time.
        endpoint: where engines come from.
        where: the endpoint as the administrator wrote it, for errors.
        authenticator: who the agent is and whom it accepts.
        verbs: what engines may call.
        connected: learns of each engine that comes.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamServerEndpoint,
        where: str,
        authenticator: IAuthenticator,
        verbs: Verbs,
        connected: ConnectedEngines,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._where = where
        self._authenticator = authenticator
        self._verbs = verbs
        self._connected = connected
        self._listener: ChannelListener | None = None

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
                on_channel=self._connected.add,
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
