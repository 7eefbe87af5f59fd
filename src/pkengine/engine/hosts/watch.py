"""Keep one connection to one host: dial, examine, poll until it ends, pause, dial again.

A watch reports what it sees as triggers; the life cycle decides what they mean, and ignores
those that do not fit.  Only how long a lost host may take until it is non-responsive, is
measured here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pkengine.auth.channel_binding import PROXIED, UNKNOWN
from pkengine.channel.verbs import GET_STATS, HostStats, Nothing
from pkengine.engine.hosts.agent_report import AgentChannel, AgentReport, examine
from pkengine.engine.hosts.lifecycle import Trigger, advance, permits
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.model import Event, Host, HostStatus
from pkengine.engine.tasks import Tasks
from pkengine.errors import CallRefused, ChannelSuperseded, NotFound, PkengineError, StoreError

Connect = Callable[[Host], Awaitable[AgentChannel]]


@dataclass(frozen=True)
class Patience:
    """How long a watch waits for what, in seconds.

    Attributes:
        poll_s: between two looks at a host's statistics.
        call_timeout_s: how long one such look may take.
        grace_s: how long a lost host is `connecting` before it is `non_responsive`.
        first_pause_s, longest_pause_s: between two attempts to connect.  The pause doubles
            each time, and a random factor keeps a fleet from dialling in step.
        close_timeout_s: how long an orderly end may take.
    """

    poll_s: float = 10.0
    call_timeout_s: float = 30.0
    grace_s: float = 60.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    close_timeout_s: float = 2.0

    def pause_s(self, attempt: int, uniform: Callable[[], float]) -> float:
        """Give the pause after an attempt, counted from 0; `uniform` gives 0.0 to 1.0."""
        whole = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(attempt, 32))
        return whole * (0.5 + 0.5 * uniform())


class HostWatch:
    """Watches one host until it is cancelled.

    Args:
        host: as it is when the watch begins; only its id, address and port matter.
        registry: learns what is seen.
        connect: opens an authenticated channel to the host's agent, with a deadline.
        clock: for pauses.
        patience: how long they are.
        uniform: gives random numbers from 0.0 to 1.0.

    Attributes:
        channel: the connection, or None while there is none.
        statistics: what the host said last on this connection, or None.
        task: the run of this watch, once whoever runs it has put it here.
    """

    _log = Logger()

    def __init__(
        self,
        host: Host,
        registry: HostRegistry,
        connect: Connect,
        clock: IReactorTime,
        *,
        patience: Patience,
        uniform: Callable[[], float],
    ) -> None:
        self.host = host
        self.channel: AgentChannel | None = None
        self.statistics: HostStats | None = None
        self.task: Deferred[None] | None = None
        self._registry = registry
        self._connect = connect
        self._clock = clock
        self._patience = patience
        self._uniform = uniform
        self._failures = 0
        self._last_failure = ""
        self._path = host.tls_path
        self._grace: IDelayedCall | None = None
        self._wake: Deferred[None] | None = None
        self._replaced: Deferred[None] | None = None
        self._tasks = Tasks()

    async def run(self) -> None:
        """Watch; returns when the host is gone, else only by cancellation."""
        try:
            while True:
                try:
                    await self._watch_one_connection()
                except ChannelSuperseded:
                    # The newer connection is there already, or will be, so nothing was lost.
                    await self._until_replaced()
                    continue
                except NotFound:
                    return
                except StoreError as error:
                    self._log.error("{host}: {error}", host=self.host.name, error=error)
                await self._sleep(self._patience.pause_s(self._failures, self._uniform))
                self._failures += 1
        finally:
            self._end_grace()
            await self._tasks.stop()

    @contextlib.contextmanager
    def replacing(self) -> Iterator[None]:
        """Miss no connection that ends meanwhile: another one takes its place afterwards."""
        replaced: Deferred[None] = Deferred()
        self._replaced = replaced
        try:
            yield
        finally:
            self._replaced = None
            replaced.callback(None)

    def retry(self) -> None:
        """Look at the host now, and begin with short pauses again."""
        self._failures = 0
        self._rouse()

    async def _watch_one_connection(self) -> None:
        try:
            await self._dial_and_poll()
        except (NotFound, StoreError, CancelledError, ChannelSuperseded):
            raise
        except CallRefused as error:
            await self._report(Trigger.UNFIT, detail=str(error))
        except (PkengineError, ConnectError, ConnectionClosed, OSError) as error:
            if self._replaced is not None:
                raise ChannelSuperseded("The connection is being replaced.") from error
            # The channel knows a host by its id, a person by its name.
            await self._lost(str(error).replace(str(self.host.id), self.host.name))
        except Exception as error:
            self._log.failure("Watching {host} failed", host=self.host.name)
            await self._lost(f"The engine failed: {type(error).__name__}; see its log.")

    async def _dial_and_poll(self) -> None:
        channel = await self._connect(self.host)
        gone: Deferred[None] = Deferred()

        def closed(reason: object) -> object:
            if not gone.called:
                gone.callback(None)
            self._rouse()
            return reason

        channel.closed.addBoth(closed)
        try:
            self.channel = channel
            await self._answered(await examine(channel))
            await self._came_by(channel.authenticated.facts.get("tls_path", UNKNOWN))
            while True:
                self.statistics = await channel.call(
                    GET_STATS,
                    Nothing(),
                    result_type=HostStats,
                    timeout_s=self._patience.call_timeout_s,
                )
                self._failures = 0
                if not gone.called:
                    await self._sleep(self._patience.poll_s)
        finally:
            self.channel = self.statistics = None
            await self._close(channel, gone)

    async def _close(self, channel: AgentChannel, gone: Deferred[None]) -> None:
        channel.close()
        timer = self._clock.callLater(self._patience.close_timeout_s, channel.abort)
        try:
            await gone
        finally:
            if timer.active():
                timer.cancel()

    async def _until_replaced(self) -> None:
        if self._replaced is not None:
            done: Deferred[None] = Deferred()
            self._replaced.addCallback(lambda _: None if done.called else done.callback(None))
            await done

    async def _answered(self, report: AgentReport) -> None:
        self._end_grace()

        def learn(host: Host) -> Host:
            return replace(
                host,
                capabilities=report.capabilities,
                hardware=report.hardware,
                agent_version=report.version.version,
            )

        await self._report(Trigger.ANSWERED, learn=learn)

    async def _came_by(self, path: str) -> None:
        """Keep whether a proxy ends TLS on the way, and tell of it where that has changed."""
        if path == self._path:
            return
        before = ""

        def change(host: Host) -> Host:
            nonlocal before
            before = host.tls_path
            return replace(host, tls_path=path)

        def tell(host: Host) -> list[Event]:
            # When an agent answers first, only a proxy is news.
            if path == before or (not before and path != PROXIED):
                return []
            return [self._registry.announcements.path_found(host, before)]

        await self._registry.change(self.host.id, change, tell)
        self._path = path

    async def _lost(self, reason: str) -> None:
        self._last_failure = reason
        host = await self._report(Trigger.LOST, detail=reason)
        if host.status is HostStatus.CONNECTING and self._grace is None:
            self._grace = self._clock.callLater(self._patience.grace_s, self._grace_ended)

    def _grace_ended(self) -> None:
        self._grace = None
        self._tasks.spawn(f"watching {self.host.name}", self._give_up())

    async def _give_up(self) -> None:
        try:
            await self._report(Trigger.GRACE_ENDED, detail=self._last_failure)
        except NotFound:
            pass  # it was removed in that moment
        except StoreError as error:
            self._log.error("{host}: {error}", host=self.host.name, error=error)

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    async def _report(
        self,
        trigger: Trigger,
        *,
        detail: str = "",
        learn: Callable[[Host], Host] = lambda host: host,
    ) -> Host:
        is_fitting = False

        def change(host: Host) -> Host:
            nonlocal is_fitting
            is_fitting = permits(host.status, trigger)
            return advance(learn(host), trigger, detail=detail) if is_fitting else host

        def tell(host: Host) -> list[Event]:
            if not is_fitting:
                return []
            return [self._registry.announcements.seen(host, trigger, detail)]

        return await self._registry.change(self.host.id, change, tell)

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until `_rouse`."""
        wake = self._wake = Deferred()
        timer = self._clock.callLater(seconds, self._rouse)
        try:
            await wake
        finally:
            self._wake = None
            if timer.active():
                timer.cancel()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.called:
            self._wake.callback(None)
