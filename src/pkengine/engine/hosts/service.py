"""The hosts, and what may be asked of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from pkengine.auth.peer import Authenticated
from pkengine.channel.verbs import HostStats
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import request
from pkengine.engine.hosts.access import LoggedIn
from pkengine.engine.hosts.agent_ways import is_other_way
from pkengine.engine.hosts.farewell import say_goodbye
from pkengine.engine.hosts.installation import INTERRUPTED, Installer
from pkengine.engine.hosts.key_changes import KeyChanges, Settlement, is_other_key
from pkengine.engine.hosts.known_keys import KnownKeys
from pkengine.engine.hosts.known_logins import KnownLogins
from pkengine.engine.hosts.lifecycle import Trigger, advance, permits, require
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.rekeying import Rekeying
from pkengine.engine.hosts.upgrade import Upgrades
from pkengine.engine.hosts.upkeep import Upkeep
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import (
    Event,
    Host,
    HostChange,
    HostSsh,
    HostStatus,
    Job,
    JumpLogin,
    NewHost,
    Origin,
    ShownKey,
    SshLogin,
    WayChoice,
)
from pkengine.engine.paging import Pages
from pkengine.engine.search import Search
from pkengine.errors import BadRequest, Conflict

#: Anybody can register a host, so there is an end to it.
MOST_PENDING = 100


class Hosts:
    """Adds, installs, watches and removes hosts.

    Args:
        context: what operations on hosts share.
        known_keys: SSH keys that are known beside those of the hosts.

    Attributes:
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
        self._events = context.events
        self._jobs = context.jobs
        self._access = context.access
        self._ways = context.ways
        self._monitor = context.monitor
        self._agent_ways = context.agent_ways
        self._own_pin = context.own_pin
        self._clock = context.clock
        self._turns = context.turns
        self._tasks = context.tasks
        self._installer = Installer(context.registry, context.access, context.clock)
        self.known_keys = known_keys
        self.key_changes = KeyChanges(context)
        self.logins = KnownLogins(context, self.key_changes)
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
            async with self.key_changes.noting(reached, login, trigger.value, origin):
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
        connection = await self.logins.log_in(host, SshLogin(), "remove", origin)
        try:
            await self._access.undeploy(connection)
        finally:
            await connection.close()

    # Last, for in here its name hides the type's.

    async def list(self) -> list[Host]:
        """Give every host, by name."""
        return await self._registry.list()


def _refuse_reboot(reboot: bool) -> None:
    if reboot:
        raise BadRequest(
            "Hosts are not rebooted, for no change of the agent needs it: ask for reboot=false."
        )
