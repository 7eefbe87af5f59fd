"""Let an agent replace itself by another version, over its own channel.

The steps are those of an upgrade by SSH, in another order: the version is tried before it is
put in use, so that a host which restarts in the middle comes up with the one before::

    probe  upload  check  start  verify  install

A version that does not start, or that the engine does not confirm in time, is taken back by the
host itself; see `pkengine.on_host.trial`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pkengine.channel.jsonrpc import METHOD_NOT_FOUND
from pkengine.channel.verbs import (
    GET_VERSION,
    MAX_PIECE,
    UPGRADE_BEGIN,
    UPGRADE_CHECK,
    UPGRADE_CONFIRM,
    UPGRADE_SEND,
    UPGRADE_START,
    UPGRADE_STATUS,
    AgentVersion,
    BeginUpgrade,
    ConfirmUpgrade,
    Nothing,
    SendPiece,
    StartUpgrade,
    UpgradePlace,
    UpgradeStatus,
)
from pkengine.engine.deployment.bundle import AgentBundle
from pkengine.engine.deployment.deployment import room_is_missing
from pkengine.engine.deployment.steps import Progress, Report
from pkengine.engine.deployment.systemd_unit import systemd_unit
from pkengine.errors import (
    AgentError,
    AuthenticationError,
    CallRefused,
    ChannelError,
    Conflict,
    DeploymentError,
    PkengineError,
)
from pkengine.on_host.trial_record import GIVEN_UP

#: How long the host waits until its new agent is confirmed.
TRIAL_S = 90.0
#: How much longer the engine waits, for agents that stop and start.
_RETURN_S = 90.0
_CALL_S = 30.0
_CHECK_S = 240.0
_CONFIRM_S = 40.0
_LOOK_EACH_S = 1.0


class Channel(Protocol):
    """A channel to the agent."""

    @property
    def closed(self) -> Deferred[Any]:
        """Fires when it has closed."""

    def call(
        self, method: str, params: Any = None, *, result_type: Any = ..., timeout_s: float = ...
    ) -> Deferred[Any]:
        """Call a verb."""

    def close(self) -> object:
        """End it in order."""


#: Gives a channel to the agent that runs now; fails with a PkengineError where none comes.
Connect = Callable[[], Awaitable[Channel]]


#: What connecting to an agent gives that stops or starts at this moment; one that stops may
#: close a connection whose handshake has begun.
_ON_ITS_WAY = (ChannelError, AuthenticationError, Conflict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnUpgradePlan:
    """What an agent is to become.

    Attributes:
        bundle: the version.
        agent_port: where it listens while an engine has to reach it, unless it knows that.
        trial_s: how long the host waits for the confirmation, in seconds.
    """

    bundle: AgentBundle
    agent_port: int
    trial_s: float = field(default_factory=lambda: TRIAL_S)


async def upgrade_itself(
    connect: Connect,
    plan: OwnUpgradePlan,
    *,
    clock: IReactorTime,
    report: Report,
    verify: Callable[[Channel], Awaitable[None]],
) -> None:
    """Have the agent replace itself by the plan's version.

    Args:
        connect: gives a channel to whichever agent runs; has a deadline of its own.
        plan: what the agent is to become.
        clock: gives the time.
        report: is called with each change of a step.
        verify: examines the new agent, on a channel to it.

    Raises:
        DeploymentError: a step failed.  The version before runs again, or the error says
            that it does not.
    """
    progress = Progress(report)
    has_begun = False
    try:
        channel = await connect()
        try:
            await _bring(channel, plan, progress)
        finally:
            channel.close()
        has_begun = True
        await _try(connect, plan, clock, progress, verify)
    except PkengineError as error:
        failure = progress.failed(error)
        if has_begun and not isinstance(error, _GivenUp):
            await _await_former(connect, plan, clock, progress, failure)
        raise failure from error
    except BaseException:
        progress.aborted()
        raise


class _GivenUp(AgentError):
    """The host has ended the trial, and the version before has said so."""


async def _bring(channel: Channel, plan: OwnUpgradePlan, progress: Progress) -> None:
    """Send the version, and let the host begin to try it."""
    progress.begin("probe")
    place = await _begin(channel, plan)
    progress.finish()
    if not place.is_installed:
        progress.begin("upload")
        await _send(channel, plan.bundle, place.received, progress)
        progress.finish()
    progress.begin("check")
    await channel.call(UPGRADE_CHECK, Nothing(), timeout_s=_CHECK_S)
    progress.finish()
    progress.begin("start")
    await channel.call(UPGRADE_START, _start(plan, place), timeout_s=_CALL_S)


async def _try(
    connect: Connect,
    plan: OwnUpgradePlan,
    clock: IReactorTime,
    progress: Progress,
    verify: Callable[[Channel], Awaitable[None]],
) -> None:
    """Meet the version on trial, and have it put in use."""
    channel = await _returned(connect, plan, clock)
    try:
        progress.finish()
        progress.begin("verify")
        await verify(channel)
        progress.finish()
        progress.begin("install")
        confirmed = ConfirmUpgrade(plan.bundle.hash)
        await channel.call(UPGRADE_CONFIRM, confirmed, timeout_s=_CONFIRM_S)
        progress.finish()
    finally:
        channel.close()


async def _await_former(
    connect: Connect,
    plan: OwnUpgradePlan,
    clock: IReactorTime,
    progress: Progress,
    failure: DeploymentError,
) -> None:
    """Wait until the host has put back the version that ran before.

    Raises:
        DeploymentError: says what became of that.
    """
    progress.begin("restore")
    end = clock.seconds() + plan.trial_s + _RETURN_S
    while clock.seconds() < end:
        try:
            channel = await connect()
            if await _has_come(channel, plan.bundle.hash):
                channel.close()
        except _GivenUp as restored:
            progress.finish()
            raise DeploymentError(failure.step, f"{failure.reason} {restored}") from restored
        except _ON_ITS_WAY:
            pass  # it is on its way
        await deferLater(clock, _LOOK_EACH_S)
    sentence = "The version that ran before did not come back in time."
    progress.failed(AgentError(sentence))
    raise DeploymentError(failure.step, f"{failure.reason} {sentence}")


async def _begin(channel: Channel, plan: OwnUpgradePlan) -> UpgradePlace:
    bundle = plan.bundle
    try:
        place: UpgradePlace = await channel.call(
            UPGRADE_BEGIN,
            BeginUpgrade(bundle.hash, bundle.size, bundle.sha256),
            result_type=UpgradePlace,
            timeout_s=_CALL_S,
        )
    except CallRefused as error:
        if error.code != METHOD_NOT_FOUND:
            raise
        raise AgentError(
            "Its agent is too old to replace itself: upgrade the package on the host once, or "
            "install the host with the fingerprint of its SSH key."
        ) from error
    if not bundle.platform.runs_on(place.platform):
        raise AgentError(
            f"The agent's archive needs {bundle.platform}, but the agent runs with "
            f"{place.platform}. Run it with that Python on the host, or the engine with this one."
        )
    missing = room_is_missing(bundle, place.prefix, place.free)
    if missing and not place.is_installed:
        raise AgentError(missing)
    return place


async def _send(channel: Channel, bundle: AgentBundle, received: int, progress: Progress) -> None:
    """Send what is not there yet; each piece is acknowledged before the next one is read."""
    progress.percent(100 * received // bundle.size)
    while received < bundle.size:
        piece = _piece(bundle.path, received)
        if not piece:
            raise AgentError("The agent's archive has changed: upgrade the host again.")
        received = await channel.call(
            UPGRADE_SEND, SendPiece(received, piece), result_type=int, timeout_s=_CALL_S
        )
        progress.percent(100 * received // bundle.size)


def _piece(path: Path, offset: int) -> bytes:
    with path.open("rb") as archive:
        archive.seek(offset)
        return archive.read(MAX_PIECE)


def _start(plan: OwnUpgradePlan, place: UpgradePlace) -> StartUpgrade:
    port = place.port or plan.agent_port
    unit = None
    if place.service == "systemd":
        command = f"{place.prefix}/current/bin/twistd"
        unit = systemd_unit(command=command, state=place.state, port=port)
    return StartUpgrade(unit, port, plan.trial_s)


async def _returned(connect: Connect, plan: OwnUpgradePlan, clock: IReactorTime) -> Channel:
    """Give a channel to the version on trial, as soon as it has come.

    Raises:
        _GivenUp: the host has given it up.
        PkengineError: nothing came back in time.
    """
    end = clock.seconds() + plan.trial_s + _RETURN_S
    while True:
        try:
            channel = await connect()
            if await _has_come(channel, plan.bundle.hash):
                return channel
        except _ON_ITS_WAY:
            if clock.seconds() >= end:
                raise
        if clock.seconds() >= end:
            raise AgentError("The agent before did not end, and no other one came.")
        await deferLater(clock, _LOOK_EACH_S)


async def _has_come(channel: Channel, bundle: str) -> bool:
    """Tell whether it is the version on trial; the channel is closed where it is not.

    Raises:
        _GivenUp: the host has given it up.
        ChannelError: the agent does not answer.
    """
    has_come = False
    try:
        version: AgentVersion = await channel.call(
            GET_VERSION, Nothing(), result_type=AgentVersion, timeout_s=_CALL_S
        )
        has_come = version.bundle == bundle
        if not has_come:
            await _refuse_if_given_up(channel, bundle)
    finally:
        if not has_come:
            channel.close()
    return has_come


async def _refuse_if_given_up(channel: Channel, bundle: str) -> None:
    status: UpgradeStatus = await channel.call(
        UPGRADE_STATUS, Nothing(), result_type=UpgradeStatus, timeout_s=_CALL_S
    )
    if (status.bundle, status.outcome) == (bundle, GIVEN_UP):
        reason = status.reason[:1].upper() + status.reason[1:]
        raise _GivenUp(f"{reason} The version that ran before runs again.")
