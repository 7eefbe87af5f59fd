"""What hangs below a host: statistics, interfaces, permissions, jobs, and what is empty."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pkengine.channel.verbs import HostStats
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import Jobs
from pkengine.engine.model import Host
from pkengine.engine.rest.call import MOST_JOBS, Answer, Call, Route
from pkengine.engine.rest.elements import JOB
from pkengine.engine.rest.follow import Link
from pkengine.engine.rest.host_elements import (
    EMPTY_COLLECTIONS,
    FIELD_OF_COLLECTION,
    NIC,
    PERMISSION,
    STATISTIC,
    Nic,
    Permission,
    Statistic,
)
from pkengine.engine.rest.schema import Element
from pkengine.engine.rest.users import UserResource
from pkengine.errors import NotFound

_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class _Collection:
    """One of them.

    Attributes:
        rel: the last part of the path.
        element: of one.
        find: gives those of some hosts.
    """

    rel: str
    element: Element
    find: Callable[[Call, Sequence[Host]], Any]


class HostCollections:
    """``/hosts/ID/…``.

    Args:
        hosts: whose collections these are.
        jobs: that hosts have.
        users: have permissions on them.
    """

    def __init__(self, hosts: Hosts, jobs: Jobs, users: UserResource) -> None:
        self._hosts = hosts
        self._jobs = jobs
        self._users = users
        self._collections = (
            _Collection("statistics", STATISTIC, self._statistics),
            _Collection("nics", NIC, self._nics),
            _Collection("permissions", PERMISSION, self._permissions),
            *(_Collection(rel, one, _nothing) for rel, one in EMPTY_COLLECTIONS.items()),
        )

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        host = "/hosts/<uuid:host_id>"
        yield Route(
            method="GET", path=f"{host}/jobs", handler=self.jobs, element=JOB, is_many=True
        )
        for collection in self._collections:
            yield Route(
                method="GET",
                path=f"{host}/{collection.rel}",
                handler=partial(self._list, collection),
                element=collection.element,
                is_many=True,
                summary=f"Give the {collection.rel} of a host.",
            )
            if collection.element.fields:
                yield Route(
                    method="GET",
                    path=f"{host}/{collection.rel}/<uuid:item_id>",
                    handler=partial(self._get, collection),
                    element=collection.element,
                    summary=f"Give one of the {collection.rel} of a host.",
                )

    def links(self) -> Iterator[Link]:
        """Give what can be followed from a host."""
        for collection in self._collections:
            yield Link(
                FIELD_OF_COLLECTION.get(collection.rel, collection.rel),
                collection.element,
                collection.find,
                is_many=True,
                rel=collection.rel,
            )

    async def jobs(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Give the jobs of a host, the newest first."""
        await self._hosts.get(host_id)
        jobs = await self._jobs.list(limit=call.limit(100, most=MOST_JOBS), host_id=host_id)
        return Answer(element=JOB, many=jobs)

    async def _list(self, collection: _Collection, call: Call, host_id: uuid.UUID) -> Answer:
        [items] = await collection.find(call, [await self._hosts.get(host_id)])
        return Answer(element=collection.element, many=items[: call.limit(None)])

    async def _get(
        self, collection: _Collection, call: Call, host_id: uuid.UUID, item_id: uuid.UUID
    ) -> Answer:
        [items] = await collection.find(call, [await self._hosts.get(host_id)])
        for item in items:
            if item.id == item_id:
                return Answer(element=collection.element, one=item)
        raise NotFound(f"There is no {collection.element.name} {item_id}.")

    async def _statistics(self, call: Call, hosts: Sequence[Host]) -> list[list[Statistic]]:
        return [
            list(_statistics(host, found)) if (found := self._hosts.statistics(host.id)) else []
            for host in hosts
        ]

    async def _nics(self, call: Call, hosts: Sequence[Host]) -> list[list[Nic]]:
        return [
            [Nic(host, name, nic) for name, nic in sorted(found.network.items())]
            if (found := self._hosts.statistics(host.id))
            else []
            for host in hosts
        ]

    async def _permissions(self, call: Call, hosts: Sequence[Host]) -> list[list[Permission]]:
        users = [record.user for record in await self._users.visible(call)]
        return [[Permission(host, user) for user in users] for host in hosts]


async def _nothing(call: Call, hosts: Sequence[Host]) -> list[list[Any]]:
    return [[] for _ in hosts]


def _statistics(host: Host, found: HostStats) -> Iterable[Statistic]:
    """Give oVirt's names, units and descriptions."""
    memory = found.mem_total * _MEBIBYTE
    memory_free = found.mem_available * _MEBIBYTE
    swap, swap_free = found.swap_total * _MEBIBYTE, found.swap_free * _MEBIBYTE
    for name, description, unit, value in (
        ("memory.total", "Total memory", "bytes", memory),
        ("memory.used", "Used memory", "bytes", memory - memory_free),
        ("memory.free", "Free memory", "bytes", memory_free),
        ("swap.total", "Total swap", "bytes", swap),
        ("swap.free", "Free swap", "bytes", swap_free),
        ("swap.used", "Used swap", "bytes", swap - swap_free),
        ("cpu.current.user", "User CPU usage", "percent", found.cpu_user),
        ("cpu.current.system", "System CPU usage", "percent", found.cpu_sys),
        ("cpu.current.idle", "Idle CPU usage", "percent", found.cpu_idle),
        ("cpu.load.avg.1m", "CPU load average of the last minute", "none", found.cpu_load),
        ("boot.time", "Boot time of the machine", "none", int(found.boot_time)),
        ("disk.free", "Free space where the agent keeps its state", "bytes", found.disk_free),
    ):
        yield Statistic(host, name, description, unit, value)
