"""The agent on a host: its keys, its start under systemd or twistd, and its end."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from pkengine.on_host.files import locked
from pkengine.on_host.processes import Agent, agents, listening, owner_of, sockets
from pkengine.on_host.services import Systemd, Twistd, is_served, restart_agent, stop_agent
from pkengine.on_host.step import StepFailed, last_words, run
from pkengine.on_host.versions import command_of, point, remove_versions


def init(*, prefix: str, state: str, engines: list[str], dial: str = "") -> dict[str, Any]:
    """Make the host's key and write the keys of the engines; the agent itself does it.

    `dial` is what ``pkagent init --dial`` reads, or empty.
    """
    command = [command_of(prefix, "pkagent"), "init", "--json", "--state", state]
    for line in engines:
        command += ["--engine", line]
    if dial:
        command.append("--dial")
    done = run(command, dial)
    if done.returncode != 0:
        raise StepFailed(f"'pkagent init' failed: {last_words(done.stderr)}")
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        raise StepFailed(f"'pkagent init' gave no JSON but {done.stdout[:200]!r}.") from None


def start(
    *,
    prefix: str,
    state: str,
    bundle: str,
    port: int,
    is_reached: bool,
    unit: dict[str, str] | None,
) -> dict[str, Any]:
    """Let the version that is in use, and nothing else, run and serve the port.

    Where it does not start, what ran before is put back: another version, or the same one on
    another port.

    Where nobody has to reach the agent, it may not serve the port, and that is all right.  A
    unit is the systemd unit, ``{"name": …, "path": …, "text": …}``; None means twistd.
    """
    service = Systemd(unit) if unit is not None else Twistd(prefix, state, port)
    served = port if is_reached else None
    with locked(prefix):
        running = agents(prefix, state)
        if is_reached:
            _check_is_free(port, running)
        before = running[0] if running else None
        service_before = service.as_it_was(before)
        is_changed = service.write()
        is_right = service.is_running(running) and _is_right(running, bundle, port)
        if not is_changed and is_right and (served is None or is_served(served, running)):
            return {"changed": False}
        try:
            restart_agent(service, prefix, state, bundle, served)
        except StepFailed as failure:
            if before is None or not _is_there(prefix, before.bundle):
                stop_agent(service, prefix, state)
                service.forget()
                raise
            how = _put_back(service_before, prefix, state, before, bundle, served)
            raise StepFailed(f"{failure} {how}") from failure
    return {"changed": True}


def _is_there(prefix: str, bundle: str) -> bool:
    return os.path.isdir(os.path.join(prefix, "versions", bundle))


def _put_back(
    service: Systemd | Twistd,
    prefix: str,
    state: str,
    before: Agent,
    bundle: str,
    served: int | None,
) -> str:
    """Start again what ran before; say in a sentence what became of that."""
    try:
        if before.bundle != bundle:
            point(prefix, "current", before.bundle)
        service.write()
        port = None if served is None else before.port(served)
        restart_agent(service, prefix, state, before.bundle, port)
    except (StepFailed, OSError) as error:
        return f"What ran before does not start any more either: {error}"
    if before.bundle != bundle:
        return "The version that ran before runs again."
    return "The agent runs again as before."


def restart(
    *,
    prefix: str,
    state: str,
    bundle: str,
    port: int,
    is_reached: bool,
    unit: dict[str, str] | None,
) -> dict[str, Any]:
    """Start the version that is in use anew, whether it runs or not."""
    service = Systemd(unit) if unit is not None else Twistd(prefix, state, port)
    with locked(prefix):
        service.write()
        restart_agent(service, prefix, state, bundle, port if is_reached else None)
    return {}


def undeploy(
    *, prefix: str, state: str, command: str | None, unit: dict[str, str] | None
) -> dict[str, Any]:
    """Stop the agent and remove what was installed, and nothing that was not."""
    service = Systemd(unit) if unit is not None else Twistd(prefix, state, 0)
    stop_agent(service, prefix, state)
    service.forget()
    link = command_of(prefix, "pkagent")
    if command is not None and os.path.islink(command) and os.readlink(command) == link:
        os.unlink(command)
    if os.path.exists(os.path.join(state, "agent.key")):
        shutil.rmtree(state)
    remove_versions(prefix)
    return {}


def _check_is_free(port: int, running: list[Agent]) -> None:
    others = listening(port).difference(*(sockets(agent.pid) for agent in running))
    if others:
        raise StepFailed(
            f"port {port} is taken by {owner_of(others)}: stop it, or give the host's "
            "agent another port."
        )


def _is_right(running: list[Agent], bundle: str, port: int) -> bool:
    expected = (bundle, str(port), True)
    return all((each.bundle, each.listen, each.is_on_demand) == expected for each in running)
