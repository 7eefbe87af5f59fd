"""Dials the engines that wait for this agent, and keeps a connection to each.

Theory of operation.  Each engine has one `_Line`::

    DIALLING ──authenticated──▶ CONNECTED ──lost──▶ WAITING ──pause──▶ DIALLING
        └──────────failed──────────────────────────────▲

The pause doubles each time, up to `LONGEST_PAUSE_S`; a random factor keeps a fleet that has
lost its engine from dialling in step.  A connection that held for `HELD_S` makes the next
pause the first one again; one that is cut before does not, so that whoever cuts connections
is not flooded with new ones.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.control_verbs import DialledStatus
from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.channel import Channel
from pkengine.errors import PkengineError

Connect = Callable[[str, DialledEngine], Awaitable[Channel]]

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
HELD_S = 30.0

#: How often it is looked whether the list of engines has changed.
REFRESH_S = 1.0

#: How long an orderly end may take.
CLOSE_TIMEOUT_S = 2.0


_CANCELLED = (CancelledError, ConnectingCancelledError)


class LineState(Enum):
    """How it stands with one engine."""

    DIALLING = "dialling"
    CONNECTED = "connected"
    WAITING = "waiting"


class EngineDialler(Service):
    """Keeps a connection to each engine that is to be dialled.

    Args:
        clock: gives the time.
        engines: which engines these are; changes are followed.
        connect: opens a channel to an engine, with a deadline.
        connected: learns of each connection.
        uniform: gives random numbers from 0.0 to 1.0.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        engines: DialledEngines,
        connect: Connect,
        connected: ConnectedEngines,
        *,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._engines = engines
        self._connect = connect
        self._connected = connected
        self._uniform = uniform
        self._lines: dict[str, _Line] = {}
        self._seen = -1
        self._loop = LoopingCall(self._refresh)
        self._loop.clock = clock

    def startService(self) -> None:
        """Dial, and follow changes from now on."""
        Service.startService(self)
        self._loop.start(REFRESH_S).addErrback(
            lambda failure: self._log.failure("Looking for engines to dial has failed", failure)
        )

    def stopService(self) -> Deferred[Any]:
        """Close every connection in order."""
        Service.stopService(self)
        if self._loop.running:
            self._loop.stop()
        lines, self._lines = self._lines, {}
        return gatherResults([line.stop() for line in lines.values()])

    def status(self) -> list[DialledStatus]:
        """Tell how it stands with each engine."""
        return [line.status() for line in self._lines.values()]

    def holds(self, channel: Channel) -> bool:
        """Tell whether a channel is one of those that this keeps."""
        return any(line.channel is channel for line in self._lines.values())

    def adopt(self, name: str, engine: DialledEngine, channel: Channel) -> None:
        """Keep a channel that was opened elsewhere, in place of the one that there is."""
        former = self._lines.pop(name, None)
        if former is not None:
            former.stop()
        self._begin(name, engine, channel)

    def look(self) -> None:
        """Follow the list of engines as it is now."""
        self._seen = self._engines.changed_at()
        wanted, errors = self._engines.all()
        for error in errors:
            self._log.error("An engine is not dialled: {reason}", reason=str(error))
        for name, line in list(self._lines.items()):
            if wanted.get(name) != line.engine:
                del self._lines[name]
                line.stop()
                self._log.info(
                    "{name} is dialled no longer at {url}", name=name, url=line.engine.url
                )
        for name, engine in wanted.items():
            if name not in self._lines:
                self._begin(name, engine)

    def _refresh(self) -> None:
        if self._engines.changed_at() != self._seen:
            self.look()

    def _begin(self, name: str, engine: DialledEngine, channel: Channel | None = None) -> None:
        line = _Line(self._clock, name, engine, self._connect, self._connected, self._uniform)
        self._lines[name] = line
        line.start(channel)


class _Line:
    """The connection to one engine, and the attempts to have one."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        name: str,
        engine: DialledEngine,
        connect: Connect,
        connected: ConnectedEngines,
        uniform: Callable[[], float],
    ) -> None:
        self.engine = engine
        self._clock = clock
        self._name = name
        self._connect = connect
        self._connected = connected
        self._uniform = uniform
        self._state = LineState.DIALLING
        self._since = clock.seconds()
        self._failures = 0
        self._last_failure = ""
        self._run: Deferred[None] | None = None
        self.channel: Channel | None = None

    def start(self, channel: Channel | None = None) -> None:
        """Dial, until `stop`; where there is a channel already, when that has ended."""
        self._run = Deferred.fromCoroutine(self._keep(channel))
        self._run.addErrback(lambda failure: failure.trap(*_CANCELLED))
        self._run.addErrback(
            lambda failure: self._log.failure("Dialling {name} failed", failure, name=self._name)
        )

    def stop(self) -> Deferred[None]:
        """End the connection, or the attempt; fires when it has ended."""
        run, done = self._run, Deferred[None]()
        assert run is not None, "a line is started once"
        run.addCallback(lambda _: done.callback(None))
        run.cancel()
        return done

    def status(self) -> DialledStatus:
        """Tell how it stands."""
        return DialledStatus(
            name=self._name,
            url=self.engine.url,
            mechanism=self.engine.mechanism,
            state=self._state.value,
            since=datetime.datetime.fromtimestamp(self._since, datetime.timezone.utc),
            last_failure=self._last_failure,
        )

    async def _keep(self, channel: Channel | None) -> None:
        while True:
            if channel is None:
                channel = await self._dial()
            if channel is not None:
                await self._hold(channel)
                channel = None
            self._move(LineState.WAITING)
            await deferLater(self._clock, self._pause_s())

    async def _dial(self) -> Channel | None:
        self._move(LineState.DIALLING)
        try:
            channel = await self._connect(self._name, self.engine)
        except _CANCELLED:
            raise
        except (PkengineError, ConnectError, ConnectionClosed, OSError) as error:
            self._failed(str(error) or type(error).__name__)
        except Exception as error:
            self._log.failure("Dialling {name} failed", name=self._name)
            self._failed(f"{type(error).__name__}; see the log.")
        else:
            self._connected.add(channel)
            return channel
        return None

    async def _hold(self, channel: Channel) -> None:
        """Wait until a connection has ended; close it where that is cancelled."""
        self._move(LineState.CONNECTED)
        self._last_failure = ""
        gone: Deferred[None] = Deferred()

        def ended(reason: Any) -> Any:
            self._last_failure = str(reason)
            if not gone.called:
                gone.callback(None)
            return reason

        channel.closed.addCallback(ended)
        self.channel = channel
        try:
            await gone
        except CancelledError:
            await self._close(channel)
            raise
        finally:
            self.channel = None
        if self._clock.seconds() - self._since >= HELD_S:
            self._failures = 0
        else:
            self._failures += 1

    async def _close(self, channel: Channel) -> None:
        done: Deferred[None] = Deferred()

        def ended(reason: Any) -> Any:
            done.callback(None)
            return reason

        channel.closed.addCallback(ended)
        timer = self._clock.callLater(CLOSE_TIMEOUT_S, channel.abort)
        channel.close()
        await done
        if timer.active():
            timer.cancel()

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if reason != self._last_failure:  # an engine that is away for days is told of once
            self._log.warn("Cannot connect to {name}: {reason}", name=self._name, reason=reason)
        self._last_failure = reason

    def _pause_s(self) -> float:
        whole = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(max(self._failures - 1, 0), 16))
        return whole * (0.5 + 0.5 * self._uniform())

    def _move(self, state: LineState) -> None:
        self._state = state
        self._since = self._clock.seconds()
