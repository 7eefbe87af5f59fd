"""The UNIX socket of a running agent: its name, and who may use it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pkengine.errors import AgentAccessDenied, AgentNotRunning

_LONGEST_PATH = 107  # octets (unix(7))
_CREDENTIALS = struct.Struct("3i")


class Credentials(NamedTuple):
    """The process at the other end of a UNIX socket, as the kernel knows it (unix(7))."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, connected: socket.socket) -> Credentials:
        """Ask the kernel for the peer of a connected socket."""
        packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return cls(*_CREDENTIALS.unpack(packed))

    def may_control(self) -> bool:
        """Tell whether this is root, or the user that this process runs as."""
        return self.uid in (0, os.geteuid())


def connect_control_socket(path: Path, *, timeout_s: float) -> socket.socket:
    """Connect to the agent whose socket this is.

    Returns:
        A socket that blocks for up to `timeout_s`.

    Raises:
        AgentNotRunning: nobody answers there.
        AgentAccessDenied: this user may not.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(timeout_s)
    try:
        with short_name(path) as name:
            connected.connect(name)
    except PermissionError as error:
        connected.close()
        raise AgentAccessDenied(
            f"You may not use {path}: only root and the agent's own user may."
        ) from error
    except OSError as error:
        connected.close()
        raise AgentNotRunning(
            f"No agent answers on {path} ({error.strerror}): start it, for example by "
            f"'systemctl start pkagent' or 'twistd pkagent --state {path.parent}'."
        ) from error
    return connected


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Give a name for a socket that is short enough, however deep its folder lies.

    The name is good until the context ends.
    """
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
