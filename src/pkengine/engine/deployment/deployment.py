"""Bring the agent to a host, on an SSH connection whose host key was judged.

A deployment is a list of small named steps, in this order::

    probe       see what the host has: Python, room, systemd, versions of the agent
    upload      send the archive and unpack it as a new version, unless it is there
    check       load the version's service, before anything is made to depend on it
    install     put the version in use; the one before it is kept
    init        make the host's key on the host, write the engine's, bring the pin home
    authorize   let the engine's SSH key in, for later installs
    login       log in by it, on a connection of its own
    start       start the agent under systemd, or under twistd where there is none
    verify      connect to it by the new keys; only then is the pin worth trusting

Each step may be repeated and changes only what is not as wanted, so a deployment that was
interrupted is completed by running it again.  `probe` is a shell script; `verify` is the
caller's; the others are performed by the program in `pkengine.on_host`, several of them in one
command, because a round trip to a distant host costs more than a step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.trust import format_trust_line
from pkengine.engine.deployment.bundle import AgentBundle
from pkengine.engine.deployment.engine_key import Authorized, ProveKey, forgetting, try_key
from pkengine.engine.deployment.layout import SYSTEM_LAYOUT, Layout
from pkengine.engine.deployment.probe import HostFacts, Interpreter, choose_interpreter
from pkengine.engine.deployment.steps import Progress, Report, StepReport
from pkengine.engine.deployment.target import DeploymentHost, Place, Steps
from pkengine.errors import PkengineError, SshError
from pkengine.keys import Pin

if TYPE_CHECKING:
    from pkengine.ssh import SshConnection

__all__ = [
    "DeployedAgent",
    "DeploymentPlan",
    "Expect",
    "Initialized",
    "StepReport",
    "deploy",
    "undeploy",
]

#: What a version takes on disk beyond the octets of its files.
_ROOM_FOR_BLOCKS = 24 * 1024 * 1024
#: The path of a UNIX socket ends at 107 octets (unix(7)).
_LONGEST_STATE = 107 - len("/control.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """What a host is to have in the end.

    Attributes:
        bundle: the agent.
        authorized_key: the line that lets an engine in by SSH later, or None for none.
        keeps_key_options: options that the line has on the host already stay on it.
        agent_port: where the agent is to listen while an engine has to reach it.
        is_reached: this engine has to.
        system: where it goes on a host that is managed by root.
    """

    bundle: AgentBundle
    authorized_key: str | None
    agent_port: int
    is_reached: bool = True
    keeps_key_options: bool = True
    system: Layout = SYSTEM_LAYOUT


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the agent is told of engines.

    None of it is secret, for steps stand in the command line of what performs them.

    Attributes:
        engine_keys: the keys that the agent is to accept, of one or several engines.
        dial: the engine that the agent is to dial, as ``pkagent init --dial`` reads it, or
            empty where engines dial.
    """

    engine_keys: tuple[TrustedPeer, ...]
    dial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedAgent:
    """What came of a deployment.

    Attributes:
        pin: the agent's key; it answered by it.
        uuid: the host's own identity.
        version: of the agent.
        bundle: the hash of the installed version.
        prefix, state: where it is on the host.
        service: ``systemd`` or ``twistd``.
        is_for_system: it runs as root, else for the user who was logged in.
        python: what it runs with, for a person to read.
        key_refusal: why the engine's SSH key does not let it in, or empty.
    """

    pin: Pin
    uuid: str
    version: str
    bundle: str
    prefix: str
    state: str
    service: str
    is_for_system: bool
    python: str
    key_refusal: str = ""


class Initialized(msgspec.Struct, frozen=True):
    """What `pkagent init` says.

    Attributes:
        pin: the agent's key.
        uuid: the host's own identity.
        version: of the agent.
        share: the agent's share of the key that it and the engine agree on, or None.
    """

    pin: str
    uuid: str
    version: str
    share: str | None = None


#: Gets ready for an agent before it starts, and gives what connects to it and proves its key.
Expect = Callable[[Initialized], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]]


async def deploy(
    connection: SshConnection,
    plan: DeploymentPlan,
    exchange: Exchange,
    *,
    report: Report,
    expect: Expect,
    prove_key: ProveKey | None = None,
) -> DeployedAgent:
    """Bring the agent to a host, or bring what is there up to date.

    Args:
        connection: it is not closed.
        plan: what the host is to have.
        exchange: what the agent is told of engines.
        report: is called with each change of a step.
        expect: gives the step `verify`, which has a deadline of its own.
        prove_key: logs in by the key of `DeploymentPlan.authorized_key` and nothing else.  Where
            that fails the deployment goes on, for the agent does not depend on it.

    Returns:
        The agent, which answered.

    Raises:
        DeploymentError: a step failed; running it again goes on where this one stopped.
    """
    progress = Progress(report)
    try:
        return await _deploy(connection, plan, exchange, progress, expect, prove_key)
    except PkengineError as error:
        raise progress.failed(error) from error
    except BaseException:
        progress.aborted()
        raise


async def undeploy(
    connection: SshConnection,
    *,
    report: Report,
    authorized_keys: Sequence[str] = (),
    system: Layout = SYSTEM_LAYOUT,
) -> None:
    """Stop the agent and remove everything that was installed, its keys too.

    Args:
        connection: it is not closed.
        report: is called with each change of a step.
        authorized_keys: the lines that let the engine in, for all of its keys; they go as well.
        system: where the agent is on a host that is managed by root.

    Raises:
        DeploymentError: a step failed; running it again completes it.
    """
    progress = Progress(report)
    try:
        await _undeploy(DeploymentHost(connection, system, progress), progress, authorized_keys)
    except PkengineError as error:
        raise progress.failed(error) from error
    except BaseException:
        progress.aborted()
        raise


async def _deploy(
    connection: SshConnection,
    plan: DeploymentPlan,
    exchange: Exchange,
    progress: Progress,
    expect: Expect,
    prove_key: ProveKey | None,
) -> DeployedAgent:
    host = DeploymentHost(connection, plan.system, progress)
    progress.begin("probe")
    facts, place = await host.probe()
    python = interpreter_for(plan, facts, place)
    progress.finish()

    steps = steps_before_start(plan, exchange, place)
    results = await host.perform(python, place, steps, plan.bundle)
    initialized = msgspec.convert(results["init"], Initialized)
    key_refusal = ""
    if prove_key is not None and plan.authorized_key is not None:
        progress.begin("login")
        authorized = Authorized.of(results["authorize"])
        key_refusal = await try_key(prove_key, authorized, host, python)
        if key_refusal:
            progress.missed(key_refusal)
        else:
            progress.finish()
    # An agent that dials does so as soon as it runs.
    async with expect(initialized) as verify:
        await host.perform(python, place, {"start": start_step(plan, place, plan.bundle.hash)})
        progress.begin("verify")
        await verify()
        progress.finish()
    layout = place.layout
    return DeployedAgent(
        pin=Pin.parse(initialized.pin),
        uuid=initialized.uuid,
        version=initialized.version,
        bundle=plan.bundle.hash,
        prefix=layout.prefix,
        state=layout.state,
        service="systemd" if place.has_systemd and layout.unit_path else "twistd",
        is_for_system=place.is_for_system,
        python=str(python),
        key_refusal=key_refusal,
    )


def steps_before_start(plan: DeploymentPlan, exchange: Exchange, place: Place) -> Steps:
    """Give the steps that bring the agent there, and keys to it, up to where it could start."""
    steps = version_steps(plan, place)
    steps["init"] = {
        "prefix": place.layout.prefix,
        "state": place.layout.state,
        "engines": [format_trust_line(peer) for peer in exchange.engine_keys],
        "dial": exchange.dial,
    }
    if plan.authorized_key is not None:
        steps["authorize"] = {
            "line": plan.authorized_key,
            "keeps_options": plan.keeps_key_options,
        }
    return steps


def version_steps(plan: DeploymentPlan, place: Place) -> Steps:
    """Give the steps that bring the version there and put it in use; keys stay as they are."""
    layout, bundle = place.layout, plan.bundle
    version = {"prefix": layout.prefix, "bundle": bundle.hash}
    steps: Steps = {}
    if bundle.hash not in place.installed.versions:
        steps["upload"] = version | {"size": bundle.size, "sha256": bundle.sha256}
    steps["check"] = dict(version)
    steps["install"] = version | {"command": layout.command}
    return steps


def start_step(plan: DeploymentPlan, place: Place, bundle: str) -> dict[str, Any]:
    """Give the parameters of the step that starts the version with that hash."""
    return {
        "prefix": place.layout.prefix,
        "state": place.layout.state,
        "bundle": bundle,
        "port": plan.agent_port,
        "is_reached": plan.is_reached,
        "unit": place.unit(plan.agent_port),
    }


async def _undeploy(
    host: DeploymentHost, progress: Progress, authorized_keys: Sequence[str]
) -> None:
    progress.begin("probe")
    facts, place = await host.probe()
    if not facts.interpreters:
        raise SshError("there is no Python on the host that could remove the agent.")
    progress.finish()
    layout = place.layout
    steps: Steps = {
        "undeploy": {
            "prefix": layout.prefix,
            "state": layout.state,
            "command": layout.command,
            "unit": place.unit(0),
        }
    }
    if authorized_keys:
        steps["deauthorize"] = forgetting(authorized_keys)
    await host.perform(facts.interpreters[0], place, steps)


def interpreter_for(plan: DeploymentPlan, facts: HostFacts, place: Place) -> Interpreter:
    """Choose the interpreter, and check that the place will do.

    Raises:
        SshError: the agent cannot run on this host, or has no room there.
    """
    bundle, layout = plan.bundle, place.layout
    python = choose_interpreter(facts, bundle.platform, for_system=place.is_for_system)
    if isinstance(python, str):
        raise SshError(python)
    missing = room_is_missing(bundle, layout.prefix, place.installed.free)
    if bundle.hash not in place.installed.versions and missing:
        raise SshError(missing)
    if len(layout.state.encode()) > _LONGEST_STATE:
        raise SshError(
            f"the path {layout.state} is too long for the agent's control socket: expected "
            f"{_LONGEST_STATE} octets at most. Log in as a user with a shorter home."
        )
    return python


def room_is_missing(bundle: AgentBundle, prefix: str, free: int) -> str:
    """Say in a sentence that a version does not fit into the octets that are free, or nothing."""
    needed = bundle.installed_size + _ROOM_FOR_BLOCKS
    if free >= needed:
        return ""
    return (
        f"there is no room for the agent at {prefix}: it takes {needed >> 20} MiB, and "
        f"{free >> 20} MiB are free. Free some on the host."
    )
