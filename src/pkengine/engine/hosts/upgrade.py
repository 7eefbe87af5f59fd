"""Bring the agents of hosts to the version that the engine has, and back where that fails."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from pkengine.channel.verbs import GET_VERSION, AgentVersion, Nothing
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import request
from pkengine.engine.hosts.access import LoggedIn
from pkengine.engine.hosts.agent_report import CALL_TIMEOUT_S, AgentChannel, AgentReport, examine
from pkengine.engine.hosts.known_logins import KnownLogins
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.upkeep import (
    as_conflict,
    learnt,
    report_of,
    require_trust,
)
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import Host, Job, Origin, SshLogin, StepStatus
from pkengine.errors import Conflict, PkengineError

if TYPE_CHECKING:
    from pkengine.engine.deployment.deployment import StepReport


class Upgrades:
    """Compares and replaces agents, one thing at a time for each host.

    Args:
        context: what operations on hosts share.
        logins: log in to hosts that are known.
    """

    _log = Logger()

    def __init__(self, context: OperationContext, logins: KnownLogins) -> None:
        self._registry = context.registry
        self._tell = context.announcements
        self._access = context.access
        self._monitor = context.monitor
        self._jobs = context.jobs
        self._tasks = context.tasks
        self._turns = context.turns
        self._logins = logins

    async def check_for_update(self, host_id: uuid.UUID, origin: Origin) -> Job:
        """Compare a host's agent with the one that the engine would install.

        Raises:
            NotFound: there is no such host.
            Conflict: no key of it is trusted.
        """
        host = await self._registry.get(host_id)
        with self._turns.taking("check for updates of", host.name, host_id):
            require_trust(host, "check for updates of")
            job = self._jobs.prepare(
                f"Checking for updates of Host {host.name}", host_id=host_id, origin=origin
            )
            started = self._tell.kept(
                EventCode.HOST_UPDATE_CHECK_STARTED,
                host,
                f"Started to check for available updates on Host {host.name}.",
                origin,
            )
            await self._registry.change(
                host_id, lambda host: host, lambda _: [started], also=job.begin
            )
        self._tasks.spawn(job.job.description, self._check_for_update(host, job, origin))
        return job.job

    async def _check_for_update(self, host: Host, job: RunningJob, origin: Origin) -> None:
        try:
            wanted = await self._access.bundle_hash()
            with as_conflict(host):
                channel = await self._access.connect(host)
                try:
                    version: AgentVersion = await channel.call(
                        GET_VERSION, Nothing(), result_type=AgentVersion, timeout_s=CALL_TIMEOUT_S
                    )
                finally:
                    channel.close()
        except PkengineError as error:
            text = f"Failed to check for available updates on Host {host.name}. {error}"
            event = self._tell.kept(
                EventCode.HOST_UPDATE_CHECK_FAILED, host, text, origin, failed=True
            )
            await self._registry.change(host.id, lambda host: host, lambda _: [event])
            await job.finish(StepStatus.FAILED)
            return
        is_available = version.bundle != wanted
        found = "an update is available" if is_available else "there is none"
        event = self._tell.kept(
            EventCode.HOST_UPDATE_CHECKED,
            host,
            f"Check for available updates on Host {host.name} was completed: {found}.",
            origin,
        )
        await self._registry.change(
            host.id,
            lambda host: replace(host, update_available=is_available),
            lambda _: [event],
        )
        await job.finish()

    async def upgrade(self, host_id: uuid.UUID, login: SshLogin, origin: Origin) -> Job:
        """Begin to bring a host's agent to the engine's version.

        That is done by SSH, and where nothing is known of the host's SSH server, because it
        joined by a code, the agent replaces itself.

        The agent keeps its key, and the host its status.  Where the new version does not
        come back in time and prove that key, the one before is put back in use.

        Raises:
            NotFound: there is no such host.
            Conflict: no key of it is trusted.
            BadRequest, SshError: as for installing; nothing was changed.
        """
        host = await self._registry.get(host_id)
        # Its own code, for clients that wait for an upgrade take 841 for the end of it.
        refused = EventCode.DECISION_REFUSED
        async with self._tell.refusal(refused, "upgrade", host, origin):
            with self._turns.taking("upgrade", host.name, host_id):
                require_trust(host, "upgrade")
                connection = None
                if request.knows_ssh(host):
                    connection = await self._logins.log_in(host, login, "upgrade", origin)
                job = self._jobs.prepare(
                    f"Upgrading Host {host.name}", host_id=host_id, origin=origin
                )
                started = self._tell.kept(
                    EventCode.HOST_UPGRADE_STARTED,
                    host,
                    f"Host {host.name} upgrade was started.",
                    origin,
                )
                try:
                    await self._registry.change(
                        host_id, lambda host: host, lambda _: [started], also=job.begin
                    )
                except BaseException:
                    if connection is not None:
                        await connection.close()
                    raise
        self._tasks.spawn(job.job.description, self._upgrade(host, connection, job, origin))
        return job.job

    async def _upgrade(
        self, host: Host, connection: LoggedIn | None, job: RunningJob, origin: Origin
    ) -> None:
        def show(step: StepReport) -> None:
            job.step(step.name, step.description, step.status, step.progress)

        reports: list[AgentReport] = []

        async def examine_new(channel: AgentChannel) -> None:
            with as_conflict(host):
                reports.append(await examine(channel))

        async def verify(bundle: str) -> None:
            report = await report_of(self._access, host)
            if report.version.bundle != bundle:
                raise Conflict(
                    f"the agent that answers is version {report.version.bundle or 'unknown'}, "
                    f"not {bundle}."
                )
            reports.append(report)

        status = StepStatus.FAILED
        try:
            try:
                with self._turns.taking("upgrade", host.name, host.id):
                    if connection is None:
                        await self._access.upgrade_itself(host, report=show, verify=examine_new)
                    else:
                        await self._access.upgrade(connection, host, report=show, verify=verify)
            finally:
                if connection is not None:
                    await connection.close()
            reason, status = "", StepStatus.FINISHED
        except CancelledError:
            reason, status = "It was interrupted because the engine stopped.", StepStatus.ABORTED
        except PkengineError as error:
            reason = str(error).replace(str(host.id), host.name)
        except Exception as error:
            self._log.failure("Upgrading {host} failed", host=host.name)
            reason = f"The engine failed: {type(error).__name__}; see its log."
        if status is StepStatus.FINISHED:
            event = self._tell.kept(
                EventCode.HOST_UPGRADE_FINISHED,
                host,
                f"Host {host.name} upgrade was completed successfully. Its agent has version "
                f"{reports[-1].version.version}.",
                origin,
            )
        else:
            text = f"Failed to upgrade Host {host.name}. {reason}"
            event = self._tell.kept(EventCode.HOST_UPGRADE_FAILED, host, text, origin, failed=True)

        def learn(host: Host) -> Host:
            if status is not StepStatus.FINISHED:
                return host
            return replace(learnt(host, reports[-1]), update_available=False)

        await self._registry.change(host.id, learn, lambda _: [event])
        self._monitor.retry(host.id)
        await job.finish(status)
