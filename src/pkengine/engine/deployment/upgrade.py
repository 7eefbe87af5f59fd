"""Replace the agent on a host by another version, and take that back where it fails.

The steps are those of a deployment without `init` and `authorize`: keys stay as they are.
A version that does not start is taken back by the step `start` itself.  One that starts but
does not come back to the engine in time is taken back here, on the same connection::

    probe  upload  check  install  start  verify  [restore]
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pkengine.engine.deployment.deployment import (
    DeploymentPlan,
    interpreter_for,
    start_step,
    version_steps,
)
from pkengine.engine.deployment.probe import Interpreter
from pkengine.engine.deployment.steps import DESCRIPTIONS, Progress, Report, StepReport
from pkengine.engine.deployment.target import DeploymentHost, Place, Steps
from pkengine.errors import DeploymentError, PkengineError, SshConnectionLost, SshError

if TYPE_CHECKING:
    from pkengine.ssh import SshConnection

_REBOOT_TIMEOUT_S = 15.0


async def upgrade(
    connection: SshConnection,
    plan: DeploymentPlan,
    *,
    report: Report,
    verify: Callable[[str], Awaitable[None]],
) -> None:
    """Put the plan's version in use on a host that has another one.

    Args:
        connection: it is not closed.
        plan: what the host is to have.
        report: is called with each change of a step.
        verify: connects to the agent, which must have the hash that it is called with; has
            a deadline of its own.

    Raises:
        DeploymentError: a step failed.  The version before runs again, or the error says
            that it does not.
    """
    progress = Progress(report)
    host = DeploymentHost(connection, plan.system, progress)
    started: tuple[Place, Interpreter, str] | None = None
    try:
        progress.begin("probe")
        facts, place = await host.probe()
        python = interpreter_for(plan, facts, place)
        before = place.installed.current
        if before is None:
            raise SshError("no agent is installed on the host: install it.")
        progress.finish()
        await host.perform(python, place, version_steps(plan, place), plan.bundle)
        await host.perform(python, place, {"start": start_step(plan, place, plan.bundle.hash)})
        progress.begin("verify")
        started = (place, python, before)
        await verify(plan.bundle.hash)
        progress.finish()
    except PkengineError as error:
        failure = progress.failed(error)
        if started is None or started[2] == plan.bundle.hash:
            raise failure from error
        await _restore(connection, plan, *started, report, failure)
        raise DeploymentError("verify", f"{error} The version that ran before runs again.") from (
            error
        )
    except BaseException:
        progress.aborted()
        raise


async def restart(connection: SshConnection, plan: DeploymentPlan) -> None:
    """Start the version that is in use anew.

    Raises:
        DeploymentError: it did not start.
    """
    progress = Progress(lambda _: None)
    host = DeploymentHost(connection, plan.system, progress)
    try:
        progress.begin("probe")
        facts, place = await host.probe()
        if place.installed.current is None or not facts.interpreters:
            raise SshError("no agent is installed on the host: install it.")
        progress.finish()
        step = start_step(plan, place, place.installed.current)
        await host.perform(facts.interpreters[0], place, {"restart": step})
    except PkengineError as error:
        raise progress.failed(error) from error


async def reboot(connection: SshConnection) -> None:
    """Let the host shut down and start again.

    Raises:
        SshError: the user may not do that, or the host refuses.
    """
    with contextlib.suppress(SshConnectionLost):  # the host is on its way down already
        await connection.run(
            "PATH=$PATH:/usr/sbin:/sbin; systemctl reboot || shutdown -r now",
            as_root=True,
            timeout_s=_REBOOT_TIMEOUT_S,
        )


async def _restore(
    connection: SshConnection,
    plan: DeploymentPlan,
    place: Place,
    python: Interpreter,
    version: str,
    report: Report,
    failure: DeploymentError,
) -> None:
    """Put a version back in use, which is one step to whoever watches."""

    def show(step: StepReport) -> None:
        report(replace(step, name="restore", description=DESCRIPTIONS["restore"]))

    progress = Progress(show)
    host = DeploymentHost(connection, plan.system, progress)
    steps: Steps = {
        "install": {
            "prefix": place.layout.prefix,
            "bundle": version,
            "command": place.layout.command,
        },
        "start": start_step(plan, place, version),
    }
    try:
        await host.perform(python, place, steps)
    except PkengineError as error:
        progress.failed(error)
        raise DeploymentError(
            "verify", f"{failure} The version before could not be put back: {error}"
        ) from error
