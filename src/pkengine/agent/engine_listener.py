"""The port on which engines reach the agent.

It is open while the service runs or, with a *demand*, only while an engine is accepted that
has to reach the agent because the agent does not dial it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.control_verbs import ListeningAddress
from pkengine.agent.listening import cannot_listen, listening_address
from pkengine.auth.peer import TrustedPeer
from pkengine.channel import ChannelListener, Verbs, listen_channel
from pkengine.errors import AgentError
from pkengine.interfaces import IAuthenticator

#: How often it is looked whether the demand has changed.
REFRESH_S = 1.0


def is_reached_by(peers: Iterable[TrustedPeer], mechanism: str, dialled: Iterable[str]) -> bool:
    """Tell whether one of the peers may come by that mechanism and is not dialled."""
    names = frozenset(dialled)
    return any(mechanism in peer.mechanisms and peer.name not in names for peer in peers)


class EngineListener(Service):
    """Listens for engines.

    Args:
        reactor: does the listening, and gives the time.
        endpoint: where engines come from.
        where: the endpoint as the administrator wrote it, for errors.
        authenticator: who the agent is and whom it accepts.
        verbs: what engines may call.
        connected: learns of each engine that comes.
        demand: tells whether anybody has to reach the agent, or None for always.
        changed: is called when listening has begun or ended.
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
        *,
        demand: Callable[[], bool] | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._where = where
        self._authenticator = authenticator
        self._verbs = verbs
        self._connected = connected
        self._demand = demand
        self._changed = changed
        self._listener: ChannelListener | None = None
        self._trouble = ""
        self._loop = LoopingCall(self.look)
        self._loop.clock = reactor

    @property
    def is_on_demand(self) -> bool:
        """Whether the port is open only while somebody needs it."""
        return self._demand is not None

    def privilegedStartService(self) -> None:
        """Listen, while the process may still bind any port.

        Raises:
            AgentError: that is not possible.
        """
        Service.privilegedStartService(self)
        if self._demand is None or self._demand():
            self._open()

    def startService(self) -> None:
        """Follow the demand from now on."""
        Service.startService(self)
        if self._demand is not None:
            self._loop.start(REFRESH_S).addErrback(
                lambda failure: self._log.failure("Looking who needs the port has failed", failure)
            )

    def stopService(self) -> Deferred[Any] | None:
        """Listen no more, and close every connection in order."""
        Service.stopService(self)
        if self._loop.running:
            self._loop.stop()
        return self._close()

    def addresses(self) -> list[ListeningAddress]:
        """Give where engines can reach the agent."""
        if self._listener is None:
            return []
        return [listening_address(self._listener.getHost())]

    def require(self) -> None:
        """Listen, if this does not yet; the demand decides for how long.

        Raises:
            AgentError: that is not possible.
        """
        if self._listener is None:
            self._open()
            self._changed()

    def look(self) -> None:
        """Listen, or stop listening, where the demand has changed."""
        is_wanted = self._demand is None or self._demand()
        if is_wanted:
            try:
                self.require()
            except AgentError as error:
                if str(error) != self._trouble:  # it is tried again each time
                    self._log.error("{reason}", reason=str(error))
                self._trouble = str(error)
        elif self._listener is not None:
            self._log.info("Listening no more: no engine has to reach this agent")
            self._close()
            self._changed()

    def _open(self) -> None:
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
        self._trouble = ""
        self._log.info("Listening for engines on {address}", address=self.addresses()[0])

    def _close(self) -> Deferred[Any] | None:
        listener, self._listener = self._listener, None
        return listener.stopListening() if listener is not None else None
