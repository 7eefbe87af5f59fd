"""A host that is being deployed to: what it has, and steps performed on it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pkengine.engine.deployment.bundle import AgentBundle
from pkengine.engine.deployment.layout import OWN_FOLDER, Layout
from pkengine.engine.deployment.probe import (
    HostFacts,
    Installed,
    Interpreter,
    parse_facts,
    probe_command,
)
from pkengine.engine.deployment.program import Chained, program, program_command
from pkengine.engine.deployment.steps import Performance, Progress
from pkengine.engine.deployment.systemd_unit import UNIT_NAME, systemd_unit
from pkengine.errors import SshCommandFailed, SshError, SudoNotAllowed, SudoRefused

if TYPE_CHECKING:
    from pkengine.ssh import SshConnection

#: The parameters of each step, by its name, in the order in which they are performed.
Steps = dict[str, dict[str, Any]]

#: Steps that touch what belongs to the user who is logged in, also where that is not root.
_AS_USER = ("authorize", "deauthorize")
#: How long each step may take, in seconds; `upload` gets more with its size.
_DEADLINES_S = {
    "probe": 30.0,
    "upload": 60.0,
    "check": 60.0,
    "install": 30.0,
    "init": 30.0,
    "authorize": 15.0,
    "deauthorize": 15.0,
    "start": 60.0,
    "restart": 60.0,
    "undeploy": 60.0,
}
#: How much longer the host is given to say that a deadline passed.
_GRACE_S = 10.0
#: The slowest link that an upload is waited for, in octets a second.
_SLOWEST_LINK = 32 * 1024


@dataclass(frozen=True, slots=True)
class Place:
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


class DeploymentHost:
    """The host at the other end of a connection.

    Args:
        connection: the user is logged in on it.
        system: where the agent goes on a host that is managed by root.
        progress: learns of each step.
    """

    def __init__(self, connection: SshConnection, system: Layout, progress: Progress) -> None:
        self._connection = connection
        self._system = system
        self._progress = progress

    async def probe(self) -> tuple[HostFacts, Place]:
        """See what the host has, and choose where the agent goes.

        Raises:
            SshError: the host does not say it, or the user cannot become root.
        """
        facts = await self.look()
        return facts, await self._place(facts)

    async def look(self) -> HostFacts:
        """See what the host has, and no more.

        Raises:
            SshError: the host does not say it.
        """
        command = probe_command(self._system)
        result = await self._connection.run(command, timeout_s=_DEADLINES_S["probe"])
        try:
            return parse_facts(result.stdout)
        except ValueError as error:
            raise SshError(f"the host's shell does not say what the host has: {error}.") from error

    async def _place(self, facts: HostFacts) -> Place:
        """Choose: root's folders, or those of a user who asked for it or has no way to root."""
        user = self._connection.target.user
        is_for_system = not facts.has_own_folder
        if is_for_system and user != "root":
            try:
                await self._connection.run("true", as_root=True, timeout_s=_DEADLINES_S["probe"])
            except SudoNotAllowed:
                is_for_system = False
            except SudoRefused as error:
                raise SudoRefused(
                    f"{error} Give the password that sudo asks {user} for, or log in as root; or, "
                    f"to have the agent run for {user} alone, log in there and run: "
                    f"mkdir -p ~/{OWN_FOLDER}"
                ) from error
        return Place(
            layout=self._system if is_for_system else Layout.of_user(facts.home),
            is_for_system=is_for_system,
            needs_sudo=is_for_system and user != "root",
            installed=facts.system if is_for_system else facts.own,
            has_systemd=facts.has_systemd,
        )

    async def perform(
        self,
        python: Interpreter,
        place: Place | None,
        steps: Steps,
        bundle: AgentBundle | None = None,
        *,
        is_shown: bool = True,
    ) -> dict[str, Any]:
        """Perform steps on the host, in as few commands as their privileges allow.

        Args:
            python: runs them.
            place: tells with which privileges; None for those of the user who is logged in.
            steps: are reported one by one.
            bundle: what the step `upload` sends, where that is one of them.
            is_shown: report the steps.

        Returns:
            What came of each step.

        Raises:
            SshError: a step failed; it is the one that is under way in the progress.
        """
        results: dict[str, Any] = {}
        progress = self._progress if is_shown else Progress(lambda _: None)
        needs_sudo = place is not None and place.needs_sudo
        for as_root, names in groupby(steps, lambda n: needs_sudo and n not in _AS_USER):
            some = {name: steps[name] for name in names}
            deadlines_s = {name: _deadline_s(name, bundle) for name in some}
            command = program_command(
                python.path, [(name, deadlines_s[name], some[name]) for name in some]
            )
            timeout_s = sum(deadlines_s.values()) + _GRACE_S
            performance = Performance(some, progress)
            try:
                if "upload" in some and bundle is not None:
                    await self._upload(command, bundle, as_root, timeout_s, performance)
                else:
                    await self._connection.run(
                        command,
                        stdin=program(),
                        as_root=as_root,
                        timeout_s=timeout_s,
                        heard=performance.heard,
                    )
            except SshCommandFailed as error:
                raise performance.failure(error) from error
            performance.check_whole()
            results |= performance.results
        return results

    async def _upload(
        self,
        command: str,
        bundle: AgentBundle,
        as_root: bool,
        timeout_s: float,
        performance: Performance,
    ) -> None:
        lead = program()

        def sent(octets: int, size: int) -> None:
            self._progress.percent(100 * max(0, octets - len(lead)) // (size - len(lead)))

        with bundle.path.open("rb") as archive:
            await self._connection.send(
                command,
                cast(BinaryIO, Chained(lead, archive)),
                len(lead) + bundle.size,
                as_root=as_root,
                progress=sent,
                heard=performance.heard,
                timeout_s=timeout_s,
            )


def _deadline_s(name: str, bundle: AgentBundle | None) -> float:
    more_s = bundle.size / _SLOWEST_LINK if name == "upload" and bundle is not None else 0.0
    return _DEADLINES_S[name] + more_s
