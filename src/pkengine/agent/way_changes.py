"""Changes of the way between this agent and an engine, over the way that there is.

Theory of operation.  An engine that is connected asks for another way, and the agent accepts
that one beside the old one, in memory only.  Then a connection by the new way is made, by
whichever end dials in it, and only on that connection can the engine make it the only way::

    engine, by the old way            agent
    Engine.prepare              -->   accepts the new way, too
    Engine.try                  -->   dials by the new way, where it is the one that dials
    engine, by the new way
    Engine.commit               -->   keeps the new way on disk, and no other

What is prepared is forgotten at `Engine.cancel`, after `TRIAL_S` seconds, when both
connections are gone, and when the agent ends.  Until the commit nothing is on disk, and the
commit itself is cut off at no point where neither way works (see `engine_ways`).

A commit by a connection that is not on trial says that the engine stays with the way by
which that one came.  That ends a trial, and completes a commit which was cut off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.agent.engine_ways import EngineWay, EngineWays
from pkengine.agent.trial_trust import TrialTrust
from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.peer import PeerKey, Role, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, SharedKey
from pkengine.channel import Channel
from pkengine.channel.verbs import CommittedWay, PreparedWay, PrepareWay
from pkengine.errors import AgentError, ChannelClosed, PkengineError
from pkengine.keys import Pin

#: How long a new way may be on trial.
TRIAL_S = 60.0

#: Dials an engine, with the secret that goes with it where that is not on disk.
Connect = Callable[[str, DialledEngine, SharedKey | None], Awaitable[Channel]]


class Dialler(Protocol):
    """What keeps the connections to engines that are dialled."""

    def holds(self, channel: Channel) -> bool:
        """Tell whether a channel is one of these."""

    def adopt(self, name: str, engine: DialledEngine, channel: Channel) -> None:
        """Keep a channel in place of the one that there is."""

    def look(self) -> None:
        """Notice now that engines are dialled otherwise, or no longer."""


class Listener(Protocol):
    """Where engines reach the agent."""

    def require(self) -> None:
        """Listen from now on.

        Raises:
            AgentError: that is not possible.
        """


class WayChanges:
    """Keeps what is on trial, at most one way for each engine.

    Args:
        clock: keeps the deadlines.
        own: the agent's own key.
        trust: what is accepted, for now and for good.
        ways: puts ways on disk.
        dialled: the engines that are dialled.
        dialler: keeps connections to them.
        listener: where engines reach the agent, or None where it listens nowhere.
        connect: opens a channel to an engine, with a deadline.
        connected: learns of each connection.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        *,
        own: Pin,
        trust: TrialTrust,
        ways: EngineWays,
        dialled: DialledEngines,
        dialler: Dialler,
        listener: Listener | None,
        connect: Connect,
        connected: ConnectedEngines,
    ) -> None:
        self._clock = clock
        self._own = own
        self._trust = trust
        self._ways = ways
        self._dialled = dialled
        self._dialler = dialler
        self._listener = listener
        self._connect = connect
        self._connected = connected
        self._trials: dict[str, _Trial] = {}

    def is_engine_awaited(self) -> bool:
        """Tell whether an engine is to dial this agent for a trial."""
        return any(trial.way.engine is None for trial in self._trials.values())

    def prepare(self, request: PrepareWay, channel: Channel) -> PreparedWay:
        """Accept another way of the engine that asks, beside the one that there is.

        Raises:
            AgentError: it asks for another engine, for what cannot be, or a second time.
            PkengineError: one of the texts is malformed.
        """
        name = channel.peer_name
        if request.name != name:
            raise AgentError(
                f"The engine {name!r} may change its own way, and not that of {request.name!r}."
            )
        if name in self._trials:
            raise AgentError(f"A change of the way of {name!r} is under way already.")
        way, share = self._read(request)
        trial = self._trials[name] = _Trial(way)
        trial.timer = self._clock.callLater(TRIAL_S, self._forget, name, "it took too long")
        self._trust.begin(way.peer)
        self._follow(name, trial, channel)
        try:
            if way.engine is None:
                self._open_port()
        except AgentError as error:
            self._forget(name, str(error))
            raise
        self._log.info(
            "{name} tries another way, {connection} by {mechanism}",
            name=name,
            connection=request.connection,
            mechanism=request.mechanism,
        )
        return PreparedWay(pin=str(self._own), share=share)

    async def attempt(self, channel: Channel) -> None:
        """Dial the engine by the way that is prepared.

        Raises:
            AgentError: nothing is prepared, the engine is to dial, or it cannot be reached;
                then the text says why.
        """
        name = channel.peer_name
        trial = self._trials.get(name)
        if trial is None or trial.way.engine is None or trial.has_begun:
            raise AgentError("There is no way on trial in which this agent is to dial.")
        trial.has_begun = True
        engine = trial.way.engine
        try:
            new = await self._connect(name, engine, trial.way.secret)
        except CancelledError:
            self._forget_this(name, trial, "the engine gave up")
            raise
        except (PkengineError, ConnectError, ConnectionClosed, OSError) as error:
            reason = str(error) or type(error).__name__
            self._forget_this(name, trial, reason)
            raise AgentError(f"No connection from this host to {engine.url}: {reason}") from error
        if self._trials.get(name) is not trial:
            new.close()
            raise AgentError("The way was given up while this agent dialled.")
        trial.channel = new
        self._connected.add(new)
        self._follow(name, trial, new)

    def commit(self, channel: Channel) -> CommittedWay:
        """Make the way by which a channel came the only one of its engine, for good.

        Raises:
            KeyFileError, TrustFileError: it cannot be written; doing it again completes it.
        """
        name = channel.peer_name
        trial = self._trials.get(name)
        if trial is None or not self._is_by(channel, trial):
            self._stay(channel, name)
            return CommittedWay(is_new=False)
        self._ways.make_only(trial.way)
        self._end(name, trial)
        if trial.channel is not None and trial.way.engine is not None:
            self._dialler.adopt(name, trial.way.engine, trial.channel)
        self._dialler.look()
        self._log.info("{name} has changed its way, the old one is gone", name=name)
        return CommittedWay(is_new=True)

    def cancel(self, channel: Channel) -> None:
        """Forget what the engine of a channel has prepared, if it has."""
        if channel.peer_name in self._trials:
            self._forget(channel.peer_name, "the engine gave it up")

    def stop(self) -> None:
        """Forget all that is on trial."""
        for name in tuple(self._trials):
            self._forget(name, "the agent stops")

    def _read(self, request: PrepareWay) -> tuple[EngineWay, str | None]:
        """Give the way that is asked for, and the agent's share of a new key if there is one."""
        is_dialled, mechanism = request.connection == "agent-dials", request.mechanism
        if not is_dialled and mechanism != "pin":
            raise AgentError(f"An engine that dials proves itself by 'pin', not by {mechanism!r}.")
        if not is_dialled and self._listener is None:
            raise AgentError("This agent listens nowhere, so no engine can dial it.")
        engine = None
        if is_dialled:
            former = self._dialled.all()[0].get(request.name)
            engine = DialledEngine(
                request.url, mechanism, request.server, former.proxy if former else None
            )
            engine.check()
        needs_share = mechanism in SHARED_KEY_MECHANISMS
        if needs_share != (request.share is not None):
            raise AgentError(
                f"The mechanism {mechanism!r} {'needs' if needs_share else 'has no'} share."
            )
        secret = share = None
        key: PeerKey = self._engine_pin(request)
        if request.share is not None:
            agreement = KeyAgreement(
                mechanism, local=request.host_id, peer=request.name, role=Role.INITIATOR
            )
            secret, share = agreement.agree(request.share), agreement.share
            key = secret.key_id
        peer = TrustedPeer(request.name, key, frozenset({mechanism}))
        return EngineWay(peer, engine, secret), share

    def _engine_pin(self, request: PrepareWay) -> Pin:
        pin = Pin.parse(request.engine_pin)
        known = self._trust.lookup(pin)
        if pin == self._own or (known is not None and known.name != request.name):
            raise AgentError(f"{pin} is not a key of {request.name!r}.")
        return pin

    def _open_port(self) -> None:
        assert self._listener is not None, "a way by which nobody could come was refused"
        self._listener.require()

    def _is_by(self, channel: Channel, trial: _Trial) -> bool:
        """Tell whether a channel came by the way that is on trial."""
        if trial.way.engine is not None:
            return channel is trial.channel
        peer, met = trial.way.peer, channel.authenticated
        return (
            met.peer.key == peer.key
            and met.mechanism in peer.mechanisms
            and not self._dialler.holds(channel)
        )

    def _stay(self, channel: Channel, name: str) -> None:
        """Make the way of a channel that is not on trial the only one."""
        engine = None
        if self._dialler.holds(channel):
            engine = self._dialled.all()[0].get(name)
            if engine is None:
                raise AgentError(f"This agent no longer dials {name!r}.")
        met = channel.authenticated
        kept = self._trust.lookup(met.peer.key)
        if kept is None:
            raise AgentError(f"The key {met.peer.key} is not accepted any more.")
        if name in self._trials:
            self._forget(name, "the engine stays with the way that it has")
        self._ways.make_only(
            EngineWay(
                TrustedPeer(
                    name,
                    met.peer.key,
                    frozenset({met.mechanism}),
                    expires=kept.expires,
                    comment=kept.comment,
                ),
                engine,
            )
        )
        self._dialler.look()

    def _follow(self, name: str, trial: _Trial, channel: Channel) -> None:
        """Forget a trial when the last connection of it has ended."""
        trial.open.append(channel)

        def closed(reason: ChannelClosed) -> ChannelClosed:
            trial.open.remove(channel)
            if not trial.open:
                self._forget_this(name, trial, "its connections have ended")
            return reason

        channel.closed.addCallback(closed)

    def _forget_this(self, name: str, trial: _Trial, reason: str) -> None:
        if self._trials.get(name) is trial:
            self._forget(name, reason)

    def _forget(self, name: str, reason: str) -> None:
        trial = self._trials[name]
        self._end(name, trial)
        self._log.info("The other way of {name} is forgotten: {reason}", name=name, reason=reason)
        if trial.channel is not None:
            trial.channel.close()

    def _end(self, name: str, trial: _Trial) -> None:
        del self._trials[name]
        if trial.timer is not None and trial.timer.active():
            trial.timer.cancel()
        self._trust.end(trial.way.peer.key)


class _Trial:
    """A way on trial.

    Attributes:
        way: the way.
        timer: forgets it.
        has_begun: the agent has dialled, or is about to.
        channel: the connection that the agent has made by it.
        open: the connections on which the engine can still speak of it.
    """

    def __init__(self, way: EngineWay) -> None:
        self.way = way
        self.timer: IDelayedCall | None = None
        self.has_begun = False
        self.channel: Channel | None = None
        self.open: list[Channel] = []
