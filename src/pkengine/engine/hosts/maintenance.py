"""Hosts go out of service and come back, and are removed when they are out of it."""

from __future__ import annotations

import uuid

from pkengine.engine.events import EventCode
from pkengine.engine.hosts import request
from pkengine.engine.hosts.farewell import say_goodbye
from pkengine.engine.hosts.known_logins import KnownLogins
from pkengine.engine.hosts.lifecycle import Trigger, advance, require
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import Host, Job, Origin, SshLogin
from pkengine.errors import BadRequest


class Maintenance:
    """Does it, one thing at a time for each host.

    Args:
        context: what operations on hosts share.
        logins: log in to hosts that are known.
    """

    def __init__(self, context: OperationContext, logins: KnownLogins) -> None:
        self._registry = context.registry
        self._tell = context.announcements
        self._jobs = context.jobs
        self._access = context.access
        self._monitor = context.monitor
        self._own_pin = context.own_pin
        self._clock = context.clock
        self._turns = context.turns
        self._tasks = context.tasks
        self._logins = logins

    async def activate(self, host_id: uuid.UUID, origin: Origin) -> Job:
        """Watch a host again; it is `up` as soon as its agent answers.

        Raises:
            NotFound: there is no such host.
            Conflict: its status does not allow that, or no key of it is trusted.
        """
        host = await self._registry.get(host_id)
        with self._turns.taking("activate", host.name, host_id):
            job = self._jobs.prepare(
                f"Activating Host {host.name}", host_id=host_id, origin=origin
            )
            await self._tasks.shield(self._activate(job, host_id, origin))
        return job.job

    async def _activate(self, job: RunningJob, host_id: uuid.UUID, origin: Origin) -> None:
        await self._registry.change(
            host_id,
            lambda host: advance(host, Trigger.ACTIVATE),
            lambda host: [self._tell.activating(host, origin)],
            also=job.begin,
        )
        self._monitor.retry(host_id)
        await job.finish()

    async def deactivate(self, host_id: uuid.UUID, origin: Origin, reason: str = "") -> Job:
        """Put a host into maintenance: it is watched no more, and may be removed.

        When this returns, the host is `preparing_for_maintenance`; it is in `maintenance`
        when the connection to it has ended.

        Args:
            host_id: which one.
            origin: who asks.
            reason: shown while the host is in maintenance.

        Raises:
            NotFound: there is no such host.
            Conflict: its status does not allow that.
        """
        if len(reason) > request.MAX_TEXT:
            raise BadRequest(f"The reason is longer than {request.MAX_TEXT} characters.")
        host = await self._registry.get(host_id)
        with self._turns.taking("deactivate", host.name, host_id):
            job = self._jobs.prepare(
                f"Deactivating Host {host.name}", host_id=host_id, origin=origin
            )
            await self._tasks.shield(self._deactivate(job, host_id, origin, reason))
        return job.job

    async def _deactivate(
        self, job: RunningJob, host_id: uuid.UUID, origin: Origin, reason: str
    ) -> None:
        host = await self._registry.change(
            host_id,
            lambda host: advance(host, Trigger.DEACTIVATE, detail=reason),
            also=job.begin,
        )
        self._tasks.spawn(job.job.description, self._quieten(job, host, origin))

    async def _quieten(self, job: RunningJob, host: Host, origin: Origin) -> None:
        await self._monitor.quiet(host.id)
        await self._registry.change(
            host.id,
            lambda host: advance(host, Trigger.QUIET, detail=host.status_detail),
            lambda host: [self._tell.in_maintenance(host, origin)],
        )
        await job.finish()

    async def remove(
        self,
        host_id: uuid.UUID,
        origin: Origin,
        *,
        force: bool = False,
        uninstall: bool = False,
    ) -> None:
        """Forget a host and trust its key no longer; what runs there is left running.

        Its agent is asked to drop the key of this engine, if it can be reached.

        Args:
            host_id: which one.
            origin: who asks.
            force: do not ask the agent.
            uninstall: log in by the engine's SSH key, and remove the agent and that SSH key
                from the host first.

        Raises:
            NotFound: there is no such host.
            Conflict: its status does not allow that.
            BadRequest: `force` and `uninstall` contradict each other.
            SshError, DeploymentError: with `uninstall`; the host is still known then.
        """
        host = await self._registry.get(host_id)
        async with self._tell.refusal(EventCode.HOST_REMOVE_FAILED, "remove", host, origin):
            if force and uninstall:
                raise BadRequest(
                    "A host that is not to be asked cannot be uninstalled: choose one."
                )
            await self._tasks.shield(self._remove(host_id, origin, force, uninstall))

    async def _remove(
        self, host_id: uuid.UUID, origin: Origin, force: bool, uninstall: bool
    ) -> None:
        host = await self._registry.get(host_id)
        with self._turns.taking("remove", host.name, host_id):
            require(host, Trigger.REMOVE)
            farewell = ""
            if uninstall:
                await self._uninstall(host, origin)
                farewell = "Its agent and the SSH key of this engine were removed from it."
            elif host.keys and not force:
                farewell = await say_goodbye(self._access, host, self._own_pin, self._clock)

            await self._registry.delete(
                host_id, lambda host: [self._tell.removed(host, farewell, origin)]
            )

    async def _uninstall(self, host: Host, origin: Origin) -> None:
        connection = await self._logins.log_in(host, SshLogin(), "remove", origin)
        try:
            await self._access.undeploy(connection)
        finally:
            await connection.close()
