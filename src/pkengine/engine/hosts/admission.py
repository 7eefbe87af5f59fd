"""How hosts come in: they register, are added or approved, and get the agent by SSH.

Where the agent is installed, the host is logged in to before anything is stored of that, so a
refusal leaves everything as it was; the installation itself goes on behind the request.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from pkengine.engine.events import EventCode
from pkengine.engine.hosts import request
from pkengine.engine.hosts.access import LoggedIn
from pkengine.engine.hosts.installation import Installer
from pkengine.engine.hosts.key_changes import KeyChanges, Settlement
from pkengine.engine.hosts.lifecycle import Trigger, advance, require
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import (
    Event,
    Host,
    HostStatus,
    Job,
    NewHost,
    Origin,
    SshLogin,
    WayChoice,
)
from pkengine.errors import BadRequest, Conflict

#: Anybody can register a host, so there is an end to it.
MOST_PENDING = 100


class Admission:
    """Lets hosts in, one thing at a time for each host, name and address.

    Args:
        context: what operations on hosts share.
        key_changes: keep another key that a host shows.
    """

    def __init__(self, context: OperationContext, key_changes: KeyChanges) -> None:
        self._registry = context.registry
        self._tell = context.announcements
        self._clusters = context.clusters
        self._events = context.events
        self._jobs = context.jobs
        self._ways = context.ways
        self._agent_ways = context.agent_ways
        self._turns = context.turns
        self._tasks = context.tasks
        self._key_changes = key_changes
        self._installer = Installer(context.registry, context.access, context.clock)

    async def register(self, new: NewHost, origin: Origin) -> Host:
        """Note that a host wants to be managed; anybody can say so, and it proves nothing.

        Raises:
            BadRequest: something is malformed.
            Conflict: name or address is another host's, or too many wait for approval.
        """
        cluster = await self._clusters.default()
        host = replace(self.new_host(new, cluster.id), status=HostStatus.PENDING_APPROVAL)
        with self._turns.taking(
            "register", host.name, "register", ("name", host.name), ("address", host.address)
        ):
            waiting = await self._registry.count_pending()
            if waiting >= MOST_PENDING:
                raise Conflict(f"{waiting} hosts wait for approval already.")
            return await self._tasks.shield(
                self._registry.insert(host, lambda host: [self._tell.registered(host, origin)])
            )

    async def add(self, new: NewHost, origin: Origin) -> tuple[Host, Job]:
        """Log in to a new host, and begin to install it.

        When this returns, the host is known and `installing`; the job tells the rest.

        Raises:
            BadRequest: the request is malformed.
            NotFound: there is no such cluster.
            Conflict: its name or address is another host's, or is being added just now.
            SshError: the host cannot be reached, shows the wrong key or refuses the login.
        """
        what = f"Failed to add Host {request.shown_name(new.name)}."
        async with self._events.telling_refusal(EventCode.HOST_ADD_FAILED, what, origin):
            return await self._add(new, origin)

    async def _add(self, new: NewHost, origin: Origin) -> tuple[Host, Job]:
        if new.cluster_id is None:
            cluster = await self._clusters.default()
        else:
            cluster = await self._clusters.get(new.cluster_id)
        host = self.new_host(new, cluster.id)
        _refuse_reboot(new.reboot)
        with self._turns.taking("add", host.name, ("name", host.name), ("address", host.address)):
            await self._registry.check_is_free(host.name, host.address)
            connection = await self._ways.log_in(host, new.ssh, origin)
            host = replace(host, ssh=request.judged(host.ssh, connection.judgement))
            job = self._jobs.prepare(
                f"Adding new Host {host.name}", host_id=host.id, origin=origin
            )

            def added(host: Host) -> list[Event]:
                return [self._tell.added(host, origin), self._tell.installing(host, origin)]

            stored = await self._tasks.shield(
                self._begin(
                    self._registry.insert(host, added, also=job.begin),
                    connection,
                    job,
                    origin,
                    activate=new.activate,
                )
            )
        return stored, job.job

    def new_host(self, new: NewHost, cluster_id: uuid.UUID) -> Host:
        """Give the host that a request describes, as far as that is known without asking it.

        Raises:
            BadRequest: something is missing or malformed, or this engine cannot connect to
                it in the way that is asked for.
        """
        return self._agent_ways.applied(request.new_host(new, cluster_id), new.way, is_new=True)

    async def install(
        self,
        host_id: uuid.UUID,
        login: SshLogin,
        origin: Origin,
        *,
        way: WayChoice | None = None,
        activate: bool = False,
        reboot: bool = False,
    ) -> Job:
        """Log in to a known host, and begin to install it again.

        What `way` leaves open stays; the agent gets new keys in any case where it shares
        them.  Without a password the engine logs in by its own key.  When this returns, the host
        is `installing` and none of its keys is trusted; the job tells the rest.

        Raises:
            NotFound: there is no such host.
            Conflict: its status does not allow that.
            BadRequest, SshError: as for `add`; the host stays as it is.
        """
        host = await self._registry.get(host_id)

        def tell(host: Host) -> list[Event]:
            return [self._tell.installing(host, origin)]

        async with self._tell.refusal(EventCode.DECISION_REFUSED, "install", host, origin):
            _refuse_reboot(reboot)
            host = self._agent_ways.applied(host, way or WayChoice())
            return await self._install(
                Trigger.INSTALL, host, login, origin, tell, activate=activate
            )

    async def approve(
        self,
        host_id: uuid.UUID,
        login: SshLogin,
        origin: Origin,
        *,
        way: WayChoice | None = None,
        activate: bool = True,
        reboot: bool = False,
        cluster_id: uuid.UUID | None = None,
    ) -> Job:
        """Accept a host that waits for approval.

        One that joined by a code has proved a key, which is trusted from now on; unless
        `login` says something, nothing is installed on it.  One that registered itself is
        installed by SSH: nothing of what it said was believed until now, and the fingerprint
        that it gave holds, unless `login` has another one.

        Raises:
            NotFound: there is no such host, or no such cluster.
            Conflict: it does not wait for approval.
            BadRequest, SshError: as for `add`; the host stays as it is.
        """
        host = await self._registry.get(host_id)

        def tell(host: Host) -> list[Event]:
            return [self._tell.approved(host, origin), self._tell.installing(host, origin)]

        async with self._tell.refusal(EventCode.HOST_APPROVE_FAILED, "approve", host, origin):
            _refuse_reboot(reboot)
            host = self._agent_ways.applied(host, way or WayChoice())
            if cluster_id is not None:
                host = replace(host, cluster_id=(await self._clusters.get(cluster_id)).id)
            if host.keys and login == SshLogin():
                return await self._accept(host, origin, activate=activate)
            return await self._install(
                Trigger.APPROVE, host, login, origin, tell, activate=activate
            )

    async def _accept(self, host: Host, origin: Origin, *, activate: bool) -> Job:
        """Take a host as it is, by the key that it has proved."""
        trigger = Trigger.ACCEPTED if activate else Trigger.ACCEPTED_INACTIVE
        with self._turns.taking("approve", host.name, host.id):
            job = self._jobs.prepare(f"Approving Host {host.name}", host_id=host.id, origin=origin)

            async def accept() -> None:
                await self._registry.change(
                    host.id,
                    lambda now: advance(replace(now, cluster_id=host.cluster_id), trigger),
                    lambda now: [self._tell.approved(now, origin)],
                    also=job.begin,
                )
                await job.finish()

            await self._tasks.shield(accept())
        return job.job

    async def _install(
        self,
        trigger: Trigger,
        host: Host,
        login: SshLogin,
        origin: Origin,
        tell: Callable[[Host], list[Event]],
        *,
        activate: bool,
    ) -> Job:
        with self._turns.taking(trigger.value, host.name, host.id):
            require(host, trigger)
            wanted = request.checked(replace(host, ssh=request.with_login(host.ssh, login)))
            request.require_ssh(wanted)
            # The key is looked for where this request says that the host's SSH server is.
            there = replace(host.ssh, port=wanted.ssh.port, jumps=wanted.ssh.jumps)
            reached = replace(host, ssh=there)
            async with self._key_changes.noting(reached, login, trigger.value, origin):
                connection = await self._ways.log_in(wanted, login, origin)
            ssh = request.judged(wanted.ssh, connection.judgement)
            job = self._jobs.prepare(
                f"Installing Host {host.name}", host_id=host.id, origin=origin
            )

            def begin(stored: Host) -> Host:
                wanted = replace(
                    stored,
                    ssh=ssh,
                    cluster_id=host.cluster_id,
                    connection=host.connection,
                    mechanism=host.mechanism,
                )
                return advance(wanted, trigger)

            settlement = Settlement(self._tell, origin)

            def tell_all(stored: Host) -> list[Event]:
                return [*settlement.events(host.ssh, stored), *tell(stored)]

            def also(connection: Connection) -> None:
                job.begin(connection)
                settlement.end(connection, host.id)

            await self._tasks.shield(
                self._begin(
                    self._registry.change(host.id, begin, tell_all, also=also),
                    connection,
                    job,
                    origin,
                    activate=activate,
                )
            )
        return job.job

    async def _begin(
        self,
        store: Coroutine[Deferred[Any], Any, Host],
        connection: LoggedIn,
        job: RunningJob,
        origin: Origin,
        *,
        activate: bool,
    ) -> Host:
        """Store the host as `installing`, and install it in the background."""
        try:
            host = await store
        except BaseException:
            await connection.close()
            raise
        self._tasks.spawn(
            job.job.description,
            self._installer.run(host, connection, job, origin, activate=activate),
        )
        return host


def _refuse_reboot(reboot: bool) -> None:
    if reboot:
        raise BadRequest(
            "Hosts are not rebooted, for no change of the agent needs it: ask for reboot=false."
        )
