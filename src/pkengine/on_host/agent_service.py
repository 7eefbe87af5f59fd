"""The agent on a host: its keys, its start under systemd or twistd, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from typing import Any

from pkengine.on_host.files import locked, write
from pkengine.on_host.processes import (
    Agent,
    agents,
    listening,
    owner_of,
    sockets,
)
from pkengine.on_host.step import StepFailed, last_words, run
from pkengine.on_host.versions import command_of, point, remove_versions

_POLL_S = 0.02
_STOP_S = 10.0


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
    service = _Systemd(unit) if unit is not None else _Twistd(prefix, state, port)
    served = port if is_reached else None
    with locked(prefix):
        running = agents(prefix, state)
        if is_reached:
            _check_is_free(port, running)
        before = running[0] if running else None
        service_before = service.as_it_was(before)
        is_changed = service.write()
        is_right = service.is_running(running) and _is_right(running, bundle, port)
        if not is_changed and is_right and (served is None or _is_served(served, running)):
            return {"changed": False}
        try:
            _restart(service, prefix, state, bundle, served)
        except StepFailed as failure:
            if before is None or not _is_there(prefix, before.bundle):
                _stop(service, prefix, state)
                service.forget()
                raise
            how = _put_back(service_before, prefix, state, before, bundle, served)
            raise StepFailed(f"{failure} {how}") from failure
    return {"changed": True}


def _is_there(prefix: str, bundle: str) -> bool:
    return os.path.isdir(os.path.join(prefix, "versions", bundle))


def _put_back(
    service: _Systemd | _Twistd,
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
        _restart(service, prefix, state, before.bundle, port)
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
    service = _Systemd(unit) if unit is not None else _Twistd(prefix, state, port)
    with locked(prefix):
        service.write()
        _restart(service, prefix, state, bundle, port if is_reached else None)
    return {}


def undeploy(
    *, prefix: str, state: str, command: str | None, unit: dict[str, str] | None
) -> dict[str, Any]:
    """Stop the agent and remove what was installed, and nothing that was not."""
    service = _Systemd(unit) if unit is not None else _Twistd(prefix, state, 0)
    _stop(service, prefix, state)
    service.forget()
    link = command_of(prefix, "pkagent")
    if command is not None and os.path.islink(command) and os.readlink(command) == link:
        os.unlink(command)
    if os.path.exists(os.path.join(state, "agent.key")):
        shutil.rmtree(state)
    remove_versions(prefix)
    return {}


class _Twistd:
    """The agent as a daemon of its own, where no service manager is."""

    def __init__(self, prefix: str, state: str, port: int) -> None:
        self._prefix, self._state, self._port = prefix, state, port
        self._pid_file = os.path.join(state, "pkagent.pid")
        self._log = os.path.join(state, "pkagent.log")
        self._command = [
            *(command_of(prefix, "twistd"), "--umask", "0077"),
            *("--pidfile", self._pid_file, "--logfile", self._log),
            *("pkagent", "--state", state, "--listen", str(port), "--listen-on-demand"),
        ]
        self._said = ""

    def as_it_was(self, running: Agent | None) -> _Twistd:
        """Give what would start the agent as it runs now, where it runs."""
        port = self._port if running is None else running.port(self._port)
        return _Twistd(self._prefix, self._state, port)

    def write(self) -> bool:
        """There is no file to write."""
        return False

    def is_running(self, running: list[Agent]) -> bool:
        """Tell whether just one agent runs."""
        return len(running) == 1

    def start(self) -> bool:
        """Start the daemon; it lives on when this connection ends."""
        with contextlib.suppress(FileNotFoundError):  # of a process that is gone
            os.unlink(self._pid_file)
        begin = os.path.getsize(self._log) if os.path.exists(self._log) else 0
        done = run(self._command)
        self._said = done.stderr
        with contextlib.suppress(FileNotFoundError), open(self._log, "rb") as log:
            log.seek(begin)
            self._said += log.read().decode("utf-8", "replace")
        return done.returncode == 0

    def words(self) -> str:
        """Give what the agent said since its start."""
        return self._said

    def stop(self) -> None:
        """Nobody else keeps the process running: ending it is all."""

    def forget(self) -> None:
        """There is no file to remove."""


class _Systemd:
    """The agent as a unit of systemd."""

    def __init__(self, unit: dict[str, str]) -> None:
        self._name = unit["name"]
        self._path = unit["path"]
        self._text = unit["text"]
        self._began = 0

    def as_it_was(self, running: Agent | None) -> _Systemd:
        """Give the unit that stands on the disk, or this one where none does."""
        text = self._text
        with contextlib.suppress(FileNotFoundError), open(self._path, encoding="utf-8") as unit:
            text = unit.read()
        return _Systemd({"name": self._name, "path": self._path, "text": text})

    def write(self) -> bool:
        """Write the unit; say whether it is another one than before."""
        return write(self._path, self._text, 0o644)

    def is_running(self, running: list[Agent]) -> bool:
        """Tell whether just the unit's process runs, and will at each boot."""
        properties = "--property=MainPID,NeedDaemonReload"
        shown = run(["systemctl", "show", properties, self._name]).stdout.split()
        # A deployment that was interrupted may have written the unit and no more.
        is_unit = len(running) == 1 and {
            f"MainPID={running[0].pid}",
            "NeedDaemonReload=no",
        }.issubset(shown)
        is_enabled = run(["systemctl", "is-enabled", "--quiet", self._name]).returncode == 0
        return is_unit and is_enabled

    def start(self) -> bool:
        """Start the unit now and at each boot; returns when the agent says that it is ready."""
        self._began = int(time.time())
        _systemctl("daemon-reload")
        _systemctl("enable", self._name)
        run(["systemctl", "reset-failed", self._name])
        return run(["systemctl", "start", self._name]).returncode == 0

    def words(self) -> str:
        """Give what the agent, not systemd, said since its start."""
        command = ["journalctl", "--no-pager", "--output=cat", f"--since=@{self._began}"]
        try:
            return run([*command, f"_SYSTEMD_UNIT={self._name}"]).stdout
        except FileNotFoundError:
            return ""

    def stop(self) -> None:
        """Stop the unit, so that it is not started again."""
        run(["systemctl", "stop", self._name])

    def forget(self) -> None:
        """Remove the unit."""
        if os.path.exists(self._path):
            run(["systemctl", "disable", self._name])
            os.unlink(self._path)
            _systemctl("daemon-reload")
            run(["systemctl", "reset-failed", self._name])


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


def _is_served(port: int, running: list[Agent]) -> bool:
    return any(not listening(port).isdisjoint(sockets(agent.pid)) for agent in running)


def _restart(
    service: _Systemd | _Twistd, prefix: str, state: str, bundle: str, served: int | None
) -> None:
    """Start a version, and wait until it serves the port that it has to serve, if any."""
    _stop(service, prefix, state)
    if not service.start():
        raise StepFailed(f"the agent did not start: {last_words(service.words())}")
    while True:
        running = [agent for agent in agents(prefix, state) if agent.bundle == bundle]
        if not running:
            raise StepFailed(f"the agent ended again: {last_words(service.words())}")
        if served is None or _is_served(served, running):
            return
        time.sleep(_POLL_S)


def _stop(service: _Systemd | _Twistd, prefix: str, state: str) -> None:
    """End the agent, however it was started."""
    service.stop()
    for number in (signal.SIGTERM, signal.SIGKILL):
        for agent in agents(prefix, state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent.pid, number)
        end = time.monotonic() + _STOP_S
        while agents(prefix, state):
            if time.monotonic() > end:
                break
            time.sleep(_POLL_S)
        else:
            return
    raise StepFailed(f"the agent below {prefix} cannot be ended.")


def _systemctl(*arguments: str) -> None:
    done = run(["systemctl", *arguments])
    if done.returncode != 0:
        raise StepFailed(f"'systemctl {' '.join(arguments)}' failed: {last_words(done.stderr)}")
