"""What follows the login: deploy the agent, prove it, and only then trust its key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.engine.clock import utc_now
from pkengine.engine.hosts.access import HostAccess, LoggedIn
from pkengine.engine.hosts.agent_report import AgentChannel, AgentReport, examine
from pkengine.engine.hosts.lifecycle import Trigger, advance
from pkengine.engine.hosts.proved_keys import learn_keys
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.trust import AgentKey
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import (
    Event,
    Host,
    HostStatus,
    KeySource,
    Origin,
    StepStatus,
)
from pkengine.errors import PkengineError

if TYPE_CHECKING:
    from pkengine.engine.deployment.deployment import StepReport

INTERRUPTED = (
    "It was interrupted because the engine stopped. Nothing was trusted; install it again."
)


class Installer:
    """Runs installations, each on the SSH connection that it is given.

    Args:
        registry: learns how they end.
        access: the network.
        clock: what time it is.
    """

    _log = Logger()

    def __init__(self, registry: HostRegistry, access: HostAccess, clock: IReactorTime) -> None:
        self._registry = registry
        self._access = access
        self._clock = clock

    async def run(
        self,
        host: Host,
        connection: LoggedIn,
        job: RunningJob,
        origin: Origin,
        *,
        activate: bool,
    ) -> None:
        """Install on a host whose status is `installing`; leave it in the next one.

        Args:
            host: as the registry has it.
            connection: is closed in any case.
            job: shows the steps, and is ended.
            origin: who asked.
            activate: go on to `initializing`, else to `maintenance`.
        """
        try:
            try:
                await learn_keys(self._registry, host, connection, origin)
                await self._deploy(host, connection, job, origin, activate)
            finally:
                await connection.close()
            status = StepStatus.FINISHED
        except CancelledError:
            await self._failed(host, INTERRUPTED, origin)
            status = StepStatus.ABORTED
        except PkengineError as error:
            # The channel knows a host by its id, a person by its name.
            reason = str(error).replace(str(host.id), host.name)
            await self._failed(host, reason, origin)
            status = StepStatus.FAILED
        except Exception as error:
            self._log.failure("Installing {host} failed", host=host.name)
            reason = f"The engine failed: {type(error).__name__}; see its log."
            await self._failed(host, reason, origin)
            status = StepStatus.FAILED
        await job.finish(status)

    async def _deploy(
        self, host: Host, connection: LoggedIn, job: RunningJob, origin: Origin, activate: bool
    ) -> None:
        async def verify(key: AgentKey, channel: AgentChannel) -> None:
            report = await examine(channel)
            await self._trust(host, key, report, origin, activate=activate)

        def show(step: StepReport) -> None:
            job.step(step.name, step.description, step.status, step.progress)

        deployed = await self._access.deploy(connection, host, report=show, verify=verify)
        if deployed.key_refusal:
            tell = self._registry.announcements.key_refused
            await self._registry.change(
                host.id,
                lambda host: host,
                lambda host: [tell(host, deployed.key_refusal, origin)],
            )

    async def _trust(
        self, host: Host, key: AgentKey, report: AgentReport, origin: Origin, *, activate: bool
    ) -> None:
        """Store a key that was proved."""
        trusted = self._registry.trust.host_key(
            key, host.mechanism, KeySource.DEPLOYED, utc_now(self._clock)
        )

        def trust(host: Host) -> Host:
            trigger = Trigger.INSTALLED if activate else Trigger.INSTALLED_INACTIVE
            return replace(
                advance(host, trigger),
                keys=(trusted,),
                capabilities=report.capabilities,
                hardware=report.hardware,
                agent_version=report.version.version,
                reinstallation_required=False,
            )

        await self._registry.change(
            host.id,
            trust,
            lambda host: [self._registry.announcements.installed(host, trusted.key, origin)],
        )

    async def _failed(self, host: Host, reason: str, origin: Origin) -> None:
        """Note the failure, unless the success was on its way to the disk already."""

        def fail(host: Host) -> Host:
            if host.status is not HostStatus.INSTALLING:
                return host
            return advance(host, Trigger.INSTALL_FAILED, detail=reason)

        def tell(host: Host) -> list[Event]:
            if host.status is not HostStatus.INSTALL_FAILED:
                return []
            return [self._registry.announcements.install_failed(host, reason, origin)]

        await self._registry.change(host.id, fail, tell)
