"""Which processes are agents of ours, and who listens on which port: what /proc says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

_LISTEN = "0A"


class Agent:
    """A process that runs an installed version.

    Attributes:
        pid: its process ID.
        bundle: the hash of the version.
        listen: what it was told to listen on.
        is_on_demand: it was told to listen there only while that is needed.
    """

    def __init__(self, pid: int, bundle: str, listen: str | None, is_on_demand: bool) -> None:
        self.pid = pid
        self.bundle = bundle
        self.listen = listen
        self.is_on_demand = is_on_demand

    def port(self, otherwise: int) -> int:
        """Give the port that it was told to listen on, where it was told one."""
        return int(self.listen) if self.listen and self.listen.isdecimal() else otherwise


def agents(prefix: str, state: str) -> list[Agent]:
    """Find the running agents of a folder and a state, outside of containers.

    A process ID in a file may meanwhile be that of another program; a command line is not.
    """
    folder = os.path.join(os.path.realpath(prefix), "versions") + "/"
    found = []
    for pid in _processes():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                words = os.fsdecode(stream.read()).split("\0")
            if words[3:4] and words[3].startswith(folder) and words[4:5] == ["twistd"]:
                bundle = words[3][len(folder) :].split("/")[0]
                if _after("--state", words) == state and _is_in_this_namespace(pid):
                    is_on_demand = "--listen-on-demand" in words
                    found.append(Agent(pid, bundle, _after("--listen", words), is_on_demand))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


def listening(port: int) -> set[str]:
    """Give the inodes of the sockets that listen on a TCP port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table, encoding="ascii") as lines:
            for words in map(str.split, lines):
                if words[3] == _LISTEN and int(words[1].split(":")[-1], 16) == port:
                    found.add(words[9])
    return found


def sockets(pid: int) -> set[str]:
    """Give the inodes of the sockets of a process, as far as they may be seen."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    found.add(target[len("socket:[") : -1])
    return found


def owner_of(inodes: set[str]) -> str:
    """Name the program that has one of these sockets, where it may be seen."""
    for pid in _processes():
        if inodes & sockets(pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8") as name:
                return f"'{name.read().strip()}' (process {pid})"
    return "another program"


def _processes() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def _after(option: str, words: Sequence[str]) -> str | None:
    return words[words.index(option) + 1] if option in words[:-1] else None


def _is_in_this_namespace(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
