"""What follows the login: deploy the agent, prove it, and only then trust its key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.engine.clock import utc_now
from pkengine.engine.hosts.access import HostAccess, LoggedIn
from pkengine.engine.hosts.agent_report import AgentReport, examine
from pkengine.engine.hosts.lifecycle import Trigger, advance
from pkengine.engine.hosts.proved_keys import learn_keys
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import (
    Event,
    Host,
    HostKey,
    HostStatus,
    KeySource,
    Origin,
    StepStatus,
)
from pkengine.errors import PkengineError
from pkengine.keys import Pin

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
        report: AgentReport | None = None

        async def verify(pin: Pin) -> None:
            nonlocal report
            channel = await self._access.connect_to_new(host, pin)
            try:
                report = await examine(channel)
            finally:
                channel.close()

        def show(step: StepReport) -> None:
            job.step(step.name, step.description, step.status, step.progress)

        deployed = await self._access.deploy(connection, host, report=show, verify=verify)
        if report is None:
            raise RuntimeError("The deployment ended without a proof of the agent's key.")
        proved: AgentReport = report

        def trust(host: Host) -> Host:
            installed = replace(
                host,
                capabilities=proved.capabilities,
                hardware=proved.hardware,
                agent_version=proved.version.version,
                reinstallation_required=False,
            )
            trigger = Trigger.INSTALLED if activate else Trigger.INSTALLED_INACTIVE
            key = HostKey(
                key=deployed.pin,
                mechanism=host.mechanism,
                source=KeySource.DEPLOYED,
                added=utc_now(self._clock),
            )
            return replace(advance(installed, trigger), keys=(key,))

        def tell(host: Host) -> list[Event]:
            events = [self._registry.announcements.installed(host, deployed.pin, origin)]
            if deployed.key_refusal:
                events.append(
                    self._registry.announcements.key_refused(host, deployed.key_refusal, origin)
                )
            return events

        await self._registry.change(host.id, trust, tell)

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
