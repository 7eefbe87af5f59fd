"""Watch the hosts that are active, each by a `HostWatch` of its own."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Callable

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from pkengine.auth.peer import Authenticated
from pkengine.channel.verbs import HostStats
from pkengine.engine.hosts.agent_report import AgentChannel
from pkengine.engine.hosts.lifecycle import MONITORED
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.watch import Connect, HostWatch, Patience
from pkengine.engine.model import Host, HostConnection
from pkengine.engine.tasks import Tasks


class Monitor:
    """Begins and ends the watches as the statuses of the hosts ask for it.

    Args:
        registry: tells which hosts there are, and learns how they are.
        connect: opens an authenticated channel to a host's agent, with a deadline.
        clock: for pauses.
        patience: how long they are.
        dials_at_once: when so many connections are being made, others wait for their turn.
        uniform: gives random numbers from 0.0 to 1.0.
    """

    def __init__(
        self,
        registry: HostRegistry,
        connect: Connect,
        clock: IReactorTime,
        *,
        patience: Patience | None = None,
        dials_at_once: int = 64,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._registry = registry
        self._connect = connect
        self._clock = clock
        self._patience = patience or Patience()
        self._turns = DeferredSemaphore(dials_at_once)
        self._uniform = uniform
        self._watches: dict[uuid.UUID, HostWatch] = {}
        self._ending: dict[uuid.UUID, Deferred[None]] = {}
        self._tasks = Tasks()
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Follow the registry from now on."""
        self._unsubscribe = self._registry.subscribe(self._changed, self._removed)

    async def stop(self) -> None:
        """Close every connection; the statuses stay as they are."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._watches.clear()
        await self._tasks.stop()

    async def quiet(self, host_id: uuid.UUID) -> None:
        """Wait until the connection to a host that is active no more has ended."""
        ending = self._ending.get(host_id)
        if ending is not None:
            ended: Deferred[None] = Deferred()
            ending.addCallback(lambda _: None if ended.called else ended.callback(None))
            await ended

    @contextlib.asynccontextmanager
    async def replacing(self, host_id: uuid.UUID) -> AsyncIterator[None]:
        """Miss no connection to a host that ends meanwhile: another one takes its place."""
        watch = self._watches.get(host_id)
        if watch is None:
            yield
        else:
            with watch.replacing():
                yield

    def retry(self, host_id: uuid.UUID) -> None:
        """Look at a host now that somebody says it is back."""
        watch = self._watches.get(host_id)
        if watch is not None:
            watch.retry()

    def statistics(self, host_id: uuid.UUID) -> HostStats | None:
        """Give what a host said last on the connection that there is, or None."""
        watch = self._watches.get(host_id)
        return watch.statistics if watch else None

    def authenticated(self, host_id: uuid.UUID) -> Authenticated | None:
        """Tell who answers on the connection to a host, or None where there is none."""
        watch = self._watches.get(host_id)
        return watch.channel.authenticated if watch and watch.channel else None

    def _changed(self, host: Host) -> None:
        is_wanted = host.status in MONITORED and bool(host.keys)
        watch = self._watches.get(host.id)
        if watch is not None:
            if is_wanted and _reached(watch.host) == _reached(host):
                return
            self._removed(host)
        if is_wanted:
            self._begin(host)

    def _begin(self, host: Host) -> None:
        watch = HostWatch(
            host,
            self._registry,
            self._dial,
            self._clock,
            patience=self._patience,
            uniform=self._uniform,
        )
        # Known before it runs: what it reports comes back here as a change.
        self._watches[host.id] = watch
        watch.task = self._tasks.spawn(f"watching {host.name}", watch.run())

    def _removed(self, host: Host) -> None:
        watch = self._watches.pop(host.id, None)
        if watch is None or watch.task is None:
            return
        ending = watch.task
        self._ending[host.id] = ending

        def ended(_: None) -> None:
            if self._ending.get(host.id) is ending:
                del self._ending[host.id]

        ending.addCallback(ended)
        ending.cancel()

    async def _dial(self, host: Host) -> AgentChannel:
        if host.connection is HostConnection.AGENT_DIALS:
            return await self._connect(host)  # it is the agent that makes the connection
        async with self._turns:
            return await self._connect(host)


def _reached(host: Host) -> tuple[object, ...]:
    """Give what a watch depends on."""
    return host.connection, host.address, host.port
