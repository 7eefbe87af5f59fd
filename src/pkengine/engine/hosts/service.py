"""The hosts: what is known of them, and the parts that do something to them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from pkengine.auth.peer import Authenticated
from pkengine.channel.verbs import HostStats
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import request
from pkengine.engine.hosts.admission import Admission
from pkengine.engine.hosts.agent_ways import is_other_way
from pkengine.engine.hosts.installation import INTERRUPTED
from pkengine.engine.hosts.key_changes import KeyChanges, Settlement, is_other_key
from pkengine.engine.hosts.known_keys import KnownKeys
from pkengine.engine.hosts.known_logins import KnownLogins
from pkengine.engine.hosts.lifecycle import Trigger, advance, permits
from pkengine.engine.hosts.maintenance import Maintenance
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.rekeying import Rekeying
from pkengine.engine.hosts.upgrade import Upgrades
from pkengine.engine.hosts.upkeep import Upkeep
from pkengine.engine.model import (
    Event,
    Host,
    HostChange,
    HostSsh,
    HostStatus,
    JumpLogin,
    Origin,
    ShownKey,
)
from pkengine.engine.paging import Pages
from pkengine.engine.search import Search


class Hosts:
    """Knows the hosts, has them watched, and has the parts that do something to them.

    Args:
        context: what operations on hosts share.
        known_keys: SSH keys that are known beside those of the hosts.

    Attributes:
        admission: adds hosts, and installs the agent.
        maintenance: takes them out of service and back, and removes them.
        upkeep: what keeps installed agents in good order.
        rekeying: changes how hosts connect.
        upgrades: what brings them to the engine's version.
        key_changes: SSH host keys that wait for a decision.
        logins: log in to hosts that are known.
        known_keys: SSH keys that are known beside those of the hosts.
    """

    def __init__(self, context: OperationContext, known_keys: KnownKeys) -> None:
        self._registry = context.registry
        self._tell = context.announcements
        self._clusters = context.clusters
        self._ways = context.ways
        self._monitor = context.monitor
        self._agent_ways = context.agent_ways
        self._turns = context.turns
        self._tasks = context.tasks
        self.known_keys = known_keys
        self.key_changes = KeyChanges(context)
        self.logins = KnownLogins(context, self.key_changes)
        self.admission = Admission(context, self.key_changes)
        self.maintenance = Maintenance(context, self.logins)
        self.upkeep = Upkeep(context, self.logins)
        self.rekeying = Rekeying(context)
        self.upgrades = Upgrades(context, self.logins)

    # Start and stop.

    async def start(self) -> None:
        """Take up the hosts where the engine left them, and watch the active ones."""
        restarts = [
            Deferred.fromCoroutine(self._restart(host))
            for host in await self._registry.list()
            if permits(host.status, Trigger.ENGINE_STARTED)
        ]
        for restart in restarts:  # all of them have begun: the store writes many together
            await restart
        self._monitor.start()
        await self._registry.load()
        await self.rekeying.start()

    async def stop(self) -> None:
        """End the installations that run, each as failed, and close every connection."""
        self._turns.stop()
        await self._tasks.stop()
        await self._monitor.stop()
        await self._registry.stop()

    async def _restart(self, host: Host) -> None:
        was_installing = host.status is HostStatus.INSTALLING
        detail = INTERRUPTED if was_installing else host.status_detail

        def tell(host: Host) -> list[Event]:
            if not was_installing:
                return []
            return [self._tell.install_failed(host, INTERRUPTED)]

        await self._registry.change(
            host.id, lambda host: advance(host, Trigger.ENGINE_STARTED, detail=detail), tell
        )

    # Reading.

    async def get(self, host_id: uuid.UUID) -> Host:
        """Give a host.

        Raises:
            NotFound: there is no such host.
        """
        return await self._registry.get(host_id)

    async def find(self, search: Search, limit: int) -> Pages[Host]:
        """Give the hosts that a search finds, by name where it has no order.

        Raises:
            InvalidSearch: a value does not fit its field.
        """
        return await self._registry.find(search, limit)

    async def count(self) -> tuple[int, int]:
        """Tell how many hosts are `up`, and how many there are."""
        return await self._registry.count()

    def statistics(self, host_id: uuid.UUID) -> HostStats | None:
        """Give what a host said last on the connection that there is, or None."""
        return self._monitor.statistics(host_id)

    def authenticated(self, host_id: uuid.UUID) -> Authenticated | None:
        """Tell who answers on the connection to a host and how that was proved, or None."""
        return self._monitor.authenticated(host_id)

    def subscribe(
        self, changed: Callable[[Host], object], removed: Callable[[Host], object]
    ) -> Callable[[], None]:
        """Ask to be called with each host that has changed or gone; gives what ends it."""
        return self._registry.subscribe(changed, removed)

    async def ssh_host_keys(
        self, address: str, port: int, jumps: Sequence[JumpLogin], origin: Origin
    ) -> list[ShownKey]:
        """Fetch the SSH keys that a host shows, before it is added; none is trusted by that.

        Raises:
            BadRequest: something is malformed.
            SshError: a machine on the way refuses, or no SSH server answers there.
        """
        way = request.checked_way(jumps)
        return await self._ways.shown_keys(request.address(address), port, way, origin)

    # Changing.

    async def update(self, host_id: uuid.UUID, change: HostChange, origin: Origin) -> Host:
        """Change what is stored of a host; a password in it is not.

        Another way to connect is begun only, where an agent has to be told: the host has it
        when that has worked; see `Rekeying.change`.

        Raises:
            NotFound: there is no such host, or no such cluster.
            BadRequest: something is malformed.
            Conflict: the status does not allow a change, or the name or address is taken.
        """
        host = await self._registry.get(host_id)
        async with self._tell.refusal(EventCode.HOST_UPDATE_FAILED, "update", host, origin):
            return await self._update(host_id, change, origin)

    async def _update(self, host_id: uuid.UUID, change: HostChange, origin: Origin) -> Host:
        if change.cluster_id is not None:
            await self._clusters.get(change.cluster_id)
        differences: list[str] = []
        settlement = Settlement(self._tell, origin)
        old_ssh = HostSsh()
        is_key_replaced = False

        def apply(host: Host) -> Host:
            nonlocal old_ssh, is_key_replaced
            new = request.changed_host(host, change)
            if not host.keys and is_other_way(host, change.way):  # nobody has to be told
                new = self._agent_ways.applied(new, change.way)
            differences[:] = request.differences(host, new)
            old_ssh, is_key_replaced = host.ssh, is_other_key(host.ssh, new.ssh)
            return new

        def tell(host: Host) -> list[Event]:
            updated = [self._tell.updated(host, differences, origin)] if differences else []
            return [*settlement.events(old_ssh, host), *updated]

        def also(connection: Connection) -> None:
            if is_key_replaced:
                settlement.end(connection, host_id)

        host = await self._registry.get(host_id)
        if host.keys and is_other_way(host, change.way):
            request.changed_host(host, change)  # what is malformed keeps the rest from beginning
            await self.rekeying.change(host_id, change.way, origin)
        return await self._tasks.shield(self._registry.change(host_id, apply, tell, also=also))

    # Last, for in here its name hides the type's.

    async def list(self) -> list[Host]:
        """Give every host, by name."""
        return await self._registry.list()
