"""Where this agent is installed, and what keeps it running: what its replacement depends on."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pkengine
from pkengine.errors import AgentError

#: The unit that starts the agent, whoever wrote it.
UNIT_NAME = "pkagent.service"
_UNIT_PATH = f"/etc/systemd/system/{UNIT_NAME}"
_SYSTEM_PREFIX = "/opt/pkagent"
_SYSTEM_STATE = Path("/var/lib")
_COMMAND = "/usr/local/bin/pkagent"
_SYSTEMCTL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The places of an agent that can be replaced.

    Attributes:
        prefix: the folder of the versions; nothing is there yet where pip installed the agent.
        service: what starts it.
        command: where people find ``pkagent``, or None.
        unit_path: where its unit is kept, or None under twistd.
    """

    prefix: str
    service: Literal["systemd", "twistd"]
    command: str | None = None
    unit_path: str | None = None


def find_installation(state: Path, bundle: str) -> Installation:
    """See how the agent that runs here was installed and started; this asks systemd.

    Args:
        state: its state folder.
        bundle: the hash of the installed version, or empty where pip installed it.

    Raises:
        AgentError: nobody but its administrator knows how to start it.
    """
    prefix = _prefix_of(bundle)
    if os.geteuid() == 0 and state.parent == _SYSTEM_STATE and _is_main_process_of_unit():
        return Installation(
            prefix=prefix or _SYSTEM_PREFIX,
            service="systemd",
            command=_COMMAND,
            unit_path=_UNIT_PATH,
        )
    if prefix is not None and _pid_in(state / "pkagent.pid") == os.getpid():
        return Installation(prefix=prefix, service="twistd")
    raise AgentError(
        f"This agent runs neither as the unit {UNIT_NAME} of systemd, with its state folder "
        f"below {_SYSTEM_STATE}, nor as an engine has installed it, so it cannot replace itself: "
        "upgrade its package on the host, and restart it."
    )


def _prefix_of(bundle: str) -> str | None:
    library = Path(pkengine.__file__).absolute().parents[1]
    version = library.parent
    if bundle and version.name == bundle and version.parent.name == "versions":
        return str(version.parents[1])
    return None


def _is_main_process_of_unit() -> bool:
    try:
        done = subprocess.run(
            ["systemctl", "show", "--property=MainPID", UNIT_NAME],
            capture_output=True,
            check=False,
            timeout=_SYSTEMCTL_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == b"MainPID=%d" % os.getpid()


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
