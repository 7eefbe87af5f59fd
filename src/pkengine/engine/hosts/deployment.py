"""Bring the agent to a host, on an SSH connection whose host key was judged.

A deployment is a list of small named steps, in this order::

    probe       see what the host has: Python, room, systemd, versions of the agent
    upload      send the archive and unpack it as a new version, unless it is there
    check       load the version's service, before anything is made to depend on it
    install     put the version in use; the one before it is kept
    init        make the host's key on the host, write the engine's, bring the pin home
    authorize   let the engine's SSH key in, for later installs
    start       start the agent under systemd, or under twistd where there is none
    verify      connect to it by the new keys; only then is the pin worth trusting

Each step may be repeated and changes only what is not as wanted, so a deployment that was
interrupted is completed by running it again.  `probe` is a shell script; `verify` is the
caller's; the others are performed by the program in `pkengine.engine.hosts.on_host`, several
of them in one command, because a round trip to a distant host costs more than a step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import msgspec

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.trust import format_trust_line
from pkengine.engine.hosts.bundle import AgentBundle
from pkengine.engine.hosts.deployment_layout import OWN_FOLDER, SYSTEM_LAYOUT, Layout
from pkengine.engine.hosts.deployment_probe import (
    HostFacts,
    Installed,
    Interpreter,
    choose_interpreter,
    parse_facts,
    probe_command,
)
from pkengine.engine.hosts.deployment_program import Chained, program, program_command
from pkengine.engine.hosts.deployment_steps import (
    Progress,
    Report,
    StepReport,
    parse_failure,
    parse_results,
)
from pkengine.engine.hosts.systemd_unit import UNIT_NAME, systemd_unit
from pkengine.errors import (
    PkengineError,
    SshCommandFailed,
    SshError,
    SudoNotAllowed,
    SudoRefused,
)
from pkengine.keys import Pin

if TYPE_CHECKING:
    from pkengine.ssh import CommandResult, SshConnection

__all__ = ["DeployedAgent", "DeploymentPlan", "StepReport", "deploy", "undeploy"]

#: Steps that touch what belongs to the user who is logged in, also where that is not root.
_AS_USER = ("authorize", "deauthorize")
#: How long each step may take, in seconds; `upload` gets more with its size.
DEADLINES_S = {
    "probe": 30.0,
    "upload": 60.0,
    "check": 60.0,
    "install": 30.0,
    "init": 30.0,
    "authorize": 15.0,
    "deauthorize": 15.0,
    "start": 60.0,
    "undeploy": 60.0,
}
#: How much longer the host is given to say that a deadline passed.
_GRACE_S = 10.0
#: The slowest link that an upload is waited for, in octets a second.
_SLOWEST_LINK = 32 * 1024
#: What a version takes on disk beyond the octets of its files.
_ROOM_FOR_BLOCKS = 24 * 1024 * 1024
#: The path of a UNIX socket ends at 107 octets (unix(7)).
_LONGEST_STATE = 107 - len("/control.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """What a host is to have in the end.

    Attributes:
        bundle: the agent.
        engine_keys: the keys that the agent is to accept, of one or several engines.
        authorized_key: the line that lets an engine in by SSH later, or None for none.
        agent_port: where the agent is to listen.
        system: where it goes on a host that is managed by root.
    """

    bundle: AgentBundle
    engine_keys: tuple[TrustedPeer, ...]
    authorized_key: str | None
    agent_port: int
    system: Layout = SYSTEM_LAYOUT


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


class _Initialized(msgspec.Struct, frozen=True):
    """What `pkagent init` says."""

    pin: str
    uuid: str
    version: str


async def deploy(
    connection: SshConnection,
    plan: DeploymentPlan,
    *,
    report: Report,
    verify: Callable[[Pin], Awaitable[None]],
) -> DeployedAgent:
    """Bring the agent to a host, or bring what is there up to date.

    Args:
        connection: it is not closed.
        plan: what the host is to have.
        report: is called with each change of a step.
        verify: connects to the agent, which must prove that key; has a deadline of its own.

    Returns:
        The agent, which answered.  Whoever gets this may trust its pin; a deployment that
        fails gives nothing to trust.

    Raises:
        DeploymentError: a step failed; running it again goes on where this one stopped.
    """
    progress = Progress(report)
    try:
        return await _Deployment(connection, plan.system, progress).deploy(plan, verify)
    except PkengineError as error:
        raise progress.failed(error) from error
    except BaseException:
        progress.aborted()
        raise


async def undeploy(
    connection: SshConnection,
    *,
    report: Report,
    authorized_key: str | None = None,
    system: Layout = SYSTEM_LAYOUT,
) -> None:
    """Stop the agent and remove everything that was installed, its keys too.

    Args:
        connection: it is not closed.
        report: is called with each change of a step.
        authorized_key: the line of ``authorized_keys`` to remove as well, or None.
        system: where the agent is on a host that is managed by root.

    Raises:
        DeploymentError: a step failed; running it again completes it.
    """
    progress = Progress(report)
    try:
        await _Deployment(connection, system, progress).undeploy(authorized_key)
    except PkengineError as error:
        raise progress.failed(error) from error
    except BaseException:
        progress.aborted()
        raise


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the agent goes on a host that was probed.

    Attributes:
        needs_sudo: the user who is logged in has to become root first.
        installed: what is there already.
    """

    layout: Layout
    is_for_system: bool
    needs_sudo: bool
    installed: Installed
    has_systemd: bool

    def unit(self, port: int) -> dict[str, str] | None:
        """Give the systemd unit, where systemd is to run the agent."""
        path = self.layout.unit_path
        if path is None or not self.has_systemd:
            return None
        command = f"{self.layout.prefix}/current/bin/twistd"
        text = systemd_unit(command=command, state=self.layout.state, port=port)
        return {"name": UNIT_NAME, "path": path, "text": text}


_Steps = dict[str, dict[str, Any]]


class _Deployment:
    """One deployment on one connection."""

    def __init__(self, connection: SshConnection, system: Layout, progress: Progress) -> None:
        self._connection = connection
        self._system = system
        self._progress = progress

    async def deploy(
        self, plan: DeploymentPlan, verify: Callable[[Pin], Awaitable[None]]
    ) -> DeployedAgent:
        self._progress.begin("probe")
        facts, place = await self._probe()
        python = _interpreter_for(plan, facts, place)
        self._progress.finish()

        layout, bundle = place.layout, plan.bundle
        unit = place.unit(plan.agent_port)
        version = {"prefix": layout.prefix, "bundle": bundle.hash}
        steps: _Steps = {}
        if bundle.hash not in place.installed.versions:
            steps["upload"] = version | {"size": bundle.size, "sha256": bundle.sha256}
        steps["check"] = version
        steps["install"] = version | {"command": layout.command}
        steps["init"] = {
            "prefix": layout.prefix,
            "state": layout.state,
            "engines": [format_trust_line(peer) for peer in plan.engine_keys],
        }
        if plan.authorized_key is not None:
            steps["authorize"] = {"key": plan.authorized_key}
        start = version | {"state": layout.state, "port": plan.agent_port, "unit": unit}
        results = await self._perform(python, place, steps, bundle)
        await self._perform(python, place, {"start": start})

        initialized = msgspec.convert(results["init"], _Initialized)
        pin = Pin.parse(initialized.pin)
        self._progress.begin("verify")
        await verify(pin)
        self._progress.finish()
        return DeployedAgent(
            pin=pin,
            uuid=initialized.uuid,
            version=initialized.version,
            bundle=bundle.hash,
            prefix=layout.prefix,
            state=layout.state,
            service="twistd" if unit is None else "systemd",
            is_for_system=place.is_for_system,
            python=str(python),
        )

    async def undeploy(self, authorized_key: str | None) -> None:
        self._progress.begin("probe")
        facts, place = await self._probe()
        if not facts.interpreters:
            raise SshError("there is no Python on the host that could remove the agent.")
        self._progress.finish()
        layout = place.layout
        steps: _Steps = {
            "undeploy": {
                "prefix": layout.prefix,
                "state": layout.state,
                "command": layout.command,
                "unit": place.unit(0),
            }
        }
        if authorized_key is not None:
            steps["deauthorize"] = {"key": authorized_key}
        await self._perform(facts.interpreters[0], place, steps)

    async def _probe(self) -> tuple[HostFacts, _Place]:
        command = probe_command(self._system)
        result = await self._connection.run(command, timeout_s=DEADLINES_S["probe"])
        try:
            facts = parse_facts(result.stdout)
        except ValueError as error:
            raise SshError(f"the host's shell does not say what the host has: {error}.") from error
        return facts, await self._place(facts)

    async def _place(self, facts: HostFacts) -> _Place:
        """Choose: root's folders, or those of a user who asked for it or has no way to root."""
        user = self._connection.target.user
        is_for_system = not facts.has_own_folder
        if is_for_system and user != "root":
            try:
                await self._connection.run("true", as_root=True, timeout_s=DEADLINES_S["probe"])
            except SudoNotAllowed:
                is_for_system = False
            except SudoRefused as error:
                raise SudoRefused(
                    f"{error} Give the password that sudo asks {user} for, or log in as root; or, "
                    f"to have the agent run for {user} alone, log in there and run: "
                    f"mkdir -p ~/{OWN_FOLDER}"
                ) from error
        return _Place(
            layout=self._system if is_for_system else Layout.of_user(facts.home),
            is_for_system=is_for_system,
            needs_sudo=is_for_system and user != "root",
            installed=facts.system if is_for_system else facts.own,
            has_systemd=facts.has_systemd,
        )

    async def _perform(
        self,
        python: Interpreter,
        place: _Place,
        steps: _Steps,
        bundle: AgentBundle | None = None,
    ) -> dict[str, Any]:
        """Perform steps on the host, in as few commands as their privileges allow.

        The bundle is what the step `upload` sends, where that is one of them.
        """
        results: dict[str, Any] = {}
        for as_root, names in groupby(steps, lambda n: place.needs_sudo and n not in _AS_USER):
            some = {name: steps[name] for name in names}
            deadlines_s = {name: _deadline_s(name, bundle) for name in some}
            command = program_command(
                python.path, [(name, deadlines_s[name], some[name]) for name in some]
            )
            timeout_s = sum(deadlines_s.values()) + _GRACE_S
            self._progress.begin(next(iter(some)))
            try:
                if "upload" in some and bundle is not None:
                    result = await self._upload(command, bundle, as_root, timeout_s)
                else:
                    result = await self._connection.run(
                        command, stdin=program(), as_root=as_root, timeout_s=timeout_s
                    )
            except SshCommandFailed as error:
                raise self._failed_remotely(list(some), error) from error
            for name, outcome in parse_results(result.stdout).items():
                self._progress.begin(name)
                self._progress.finish()
                results[name] = outcome
            if results.keys() < some.keys():
                raise SshError("the host ended before it was done, and does not say why.")
        return results

    def _failed_remotely(self, names: list[str], error: SshCommandFailed) -> SshCommandFailed:
        """Take the steps before the one that failed as done; give the host's own sentence."""
        failure = parse_failure(error, names)
        if failure is None:
            return error
        failed, sentence = failure
        for name in names[: names.index(failed)]:
            self._progress.begin(name)
            self._progress.finish()
        self._progress.begin(failed)
        return SshCommandFailed(sentence, error.exit_status, error.stderr)

    async def _upload(
        self, command: str, bundle: AgentBundle, as_root: bool, timeout_s: float
    ) -> CommandResult:
        lead = program()

        def sent(octets: int, size: int) -> None:
            self._progress.percent(100 * max(0, octets - len(lead)) // (size - len(lead)))

        with bundle.path.open("rb") as archive:
            return await self._connection.send(
                command,
                cast(BinaryIO, Chained(lead, archive)),
                len(lead) + bundle.size,
                as_root=as_root,
                progress=sent,
                timeout_s=timeout_s,
            )


def _deadline_s(name: str, bundle: AgentBundle | None) -> float:
    more_s = bundle.size / _SLOWEST_LINK if name == "upload" and bundle is not None else 0.0
    return DEADLINES_S[name] + more_s


def _interpreter_for(plan: DeploymentPlan, facts: HostFacts, place: _Place) -> Interpreter:
    """Choose the interpreter, and check that the place will do.

    Raises:
        SshError: the agent cannot run on this host, or has no room there.
    """
    bundle, layout = plan.bundle, place.layout
    python = choose_interpreter(facts, bundle.platform, for_system=place.is_for_system)
    if isinstance(python, str):
        raise SshError(python)
    needed = bundle.installed_size + _ROOM_FOR_BLOCKS
    if bundle.hash not in place.installed.versions and place.installed.free < needed:
        raise SshError(
            f"there is no room for the agent at {layout.prefix}: it takes {needed >> 20} MiB, and "
            f"{place.installed.free >> 20} MiB are free. Free some on the host."
        )
    if len(layout.state.encode()) > _LONGEST_STATE:
        raise SshError(
            f"the path {layout.state} is too long for the agent's control socket: expected "
            f"{_LONGEST_STATE} octets at most. Log in as a user with a shorter home."
        )
    return python
