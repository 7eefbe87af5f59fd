"""What keeps the agent running on a host: systemd, or twistd alone where there is none."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from pkengine.on_host.files import write
from pkengine.on_host.processes import Agent, agents, listening, sockets
from pkengine.on_host.step import StepFailed, last_words, run
from pkengine.on_host.versions import command_of

_POLL_S = 0.02
_STOP_S = 10.0
#: Where a unit stands in the way of the one on the disk, until the machine restarts.
_PASSING_UNITS = "/run/systemd/system.control"


class Twistd:
    """The agent as a daemon of its own, where no service manager is."""

    def __init__(self, prefix: str, state: str, port: int, version: str = "current") -> None:
        self._prefix, self._state, self._port = prefix, state, port
        self._pid_file = os.path.join(state, "pkagent.pid")
        self._log = os.path.join(state, "pkagent.log")
        self._command = [
            *(command_of(prefix, "twistd", version), "--umask", "0077"),
            *("--pidfile", self._pid_file, "--logfile", self._log),
            *("pkagent", "--state", state, "--listen", str(port), "--listen-on-demand"),
        ]
        self._said = ""

    def as_it_was(self, running: Agent | None) -> Twistd:
        """Give what would start the agent as it runs now, where it runs."""
        port = self._port if running is None else running.port(self._port)
        return Twistd(self._prefix, self._state, port)

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


class Systemd:
    """The agent as a unit of systemd."""

    def __init__(self, unit: dict[str, str]) -> None:
        self._name = unit["name"]
        self._path = unit["path"]
        self._text = unit["text"]
        self._began = 0

    def as_it_was(self, running: Agent | None) -> Systemd:
        """Give the unit that stands on the disk, or this one where none does."""
        text = self._text
        with contextlib.suppress(FileNotFoundError), open(self._path, encoding="utf-8") as unit:
            text = unit.read()
        return Systemd({"name": self._name, "path": self._path, "text": text})

    def write(self) -> bool:
        """Write the unit, and let no other one stand in its way; say whether that changes it."""
        is_bared = self._unveil()
        return write(self._path, self._text, 0o644) or is_bared

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
        self.enable()
        run(["systemctl", "reset-failed", self._name])
        return run(["systemctl", "start", self._name]).returncode == 0

    def enable(self) -> None:
        """Let it start at each boot."""
        _systemctl("enable", self._name)

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

    def _unveil(self) -> bool:
        """Remove what stands in the way of the unit on the disk; say whether it was there."""
        try:
            os.unlink(os.path.join(_PASSING_UNITS, self._name))
        except FileNotFoundError:
            return False
        return True

    def forget(self) -> None:
        """Remove the unit."""
        self._unveil()
        if os.path.exists(self._path):
            run(["systemctl", "disable", self._name])
            os.unlink(self._path)
            _systemctl("daemon-reload")
            run(["systemctl", "reset-failed", self._name])


class TwistdTrial(Twistd):
    """A version that is started by its own name, while another one is in use."""

    def __init__(self, prefix: str, state: str, port: int, bundle: str) -> None:
        super().__init__(prefix, state, port, os.path.join("versions", bundle))

    def start_former(self) -> bool:
        """Start the version that is in use."""
        return Twistd(self._prefix, self._state, self._port).start()

    def keep(self) -> None:
        """There is nothing else that says which version starts."""


class SystemdTrial(Systemd):
    """A unit that stands in the way of the one on the disk, until it is kept or given up.

    A machine that restarts has forgotten it, for it is below /run, and starts what was there.
    """

    def __init__(self, unit: dict[str, str], prefix: str, bundle: str) -> None:
        super().__init__(unit)
        in_use, version = (
            os.path.join(prefix, name, "") for name in ("current", f"versions/{bundle}")
        )
        self._trial_text = self._text.replace(in_use, version)

    def start(self) -> bool:
        """Start it now; what is started at each boot stays what it was."""
        os.makedirs(_PASSING_UNITS, exist_ok=True)
        write(os.path.join(_PASSING_UNITS, self._name), self._trial_text, 0o644)
        return super().start()

    def enable(self) -> None:
        """Leave it to what is on the disk."""

    def start_former(self) -> bool:
        """Start the unit that is on the disk."""
        self._unveil()
        return super().start()

    def keep(self) -> None:
        """Put it on the disk, without a restart."""
        self.write()
        _systemctl("daemon-reload")
        super().enable()


def is_served(port: int, running: list[Agent]) -> bool:
    """Tell whether one of these agents listens on a port."""
    return any(not listening(port).isdisjoint(sockets(agent.pid)) for agent in running)


def restart_agent(
    service: Systemd | Twistd, prefix: str, state: str, bundle: str, served: int | None
) -> None:
    """Start a version, and wait until it serves the port that it has to serve, if any."""
    stop_agent(service, prefix, state)
    if not service.start():
        raise StepFailed(f"the agent did not start: {last_words(service.words())}")
    while True:
        running = [agent for agent in agents(prefix, state) if agent.bundle == bundle]
        if not running:
            raise StepFailed(f"the agent ended again: {last_words(service.words())}")
        if served is None or is_served(served, running):
            return
        time.sleep(_POLL_S)


def stop_agent(service: Systemd | Twistd, prefix: str, state: str) -> None:
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
