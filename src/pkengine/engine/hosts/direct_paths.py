"""Hosts whose agents must come by a path on which TLS goes from end to end.

Both ends prove by what the TLS connection below the WebSocket exports (RFC 9266) whether it is
one and the same.  An agent that comes by another path than it must is cut off before anything
is asked of it; so is one that is connected by such a path when that is required from then on.
"""

from __future__ import annotations

import contextlib
import uuid

from twisted.logger import Logger

from pkengine.auth.channel_binding import DIRECT, UNKNOWN
from pkengine.auth.peer import Authenticated
from pkengine.channel import Channel
from pkengine.engine.hosts.arrivals import Arrivals
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.model import Host
from pkengine.engine.tasks import Tasks
from pkengine.errors import NotFound


class DirectPaths:
    """Decides which agents may come by the path that they came by.

    Args:
        registry: tells which hosts require a direct path, and takes the events.
        arrivals: the agents that are connected.
        is_required: every host requires one.
    """

    _log = Logger()

    def __init__(self, registry: HostRegistry, arrivals: Arrivals, *, is_required: bool) -> None:
        self._registry = registry
        self._arrivals = arrivals
        self._is_required = is_required
        self._requiring: set[uuid.UUID] = set()
        #: Those of whose refusal an event has told; an agent tries again and again.
        self._told: set[uuid.UUID] = set()
        self._tasks = Tasks()
        self._unsubscribe = registry.subscribe(self._changed, self._removed)

    async def stop(self) -> None:
        """Follow the hosts no more."""
        self._unsubscribe()
        await self._tasks.stop()

    def takes(self, host_id: uuid.UUID, channel: Channel) -> bool:
        """Tell whether an agent may stay; cut it off, and say so, where it may not."""
        path = _path(channel.authenticated)
        if path == DIRECT or not (self._is_required or host_id in self._requiring):
            self._told.discard(host_id)
            return True
        address = str(getattr(channel.peer_address, "host", channel.peer_address))
        self._log.warn(
            "The agent of host {host} at {address} is refused: the TLS path is {path}, and a "
            "direct one is required",
            host=host_id,
            address=address,
            path=path,
        )
        channel.close()  # in order: the agent has proved who it is, and shall know that
        if host_id not in self._told:
            self._told.add(host_id)
            self._tasks.spawn("telling of a proxy", self._tell(host_id, path, address))
        return False

    async def _tell(self, host_id: uuid.UUID, path: str, address: str) -> None:
        with contextlib.suppress(NotFound):  # it was removed meanwhile
            await self._registry.change(
                host_id,
                lambda host: host,
                lambda host: [self._registry.announcements.path_refused(host, path, address)],
            )

    def _changed(self, host: Host) -> None:
        if not host.require_direct:
            self._requiring.discard(host.id)
            return
        self._requiring.add(host.id)
        lease = self._arrivals.lease(host.id)
        if lease is not None:
            if _path(lease.authenticated) != DIRECT:
                lease.abort()
            lease.close()

    def _removed(self, host: Host) -> None:
        self._requiring.discard(host.id)
        self._told.discard(host.id)


def _path(authenticated: Authenticated) -> str:
    return authenticated.facts.get("tls_path", UNKNOWN)
