"""The program that performs steps on a host, as text, and how it is started there."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import BinaryIO

_PACKAGE = "pkengine.on_host"
#: In the order in which they import each other; what is not of that package runs here, too.
_MODULES = (
    "pkengine.ssh.authorized_keys",
    *(
        f"{_PACKAGE}.{name}"
        for name in (
            "step",
            "files",
            "archive",
            "versions",
            "authorized_keys",
            "processes",
            "services",
            "agent_service",
            "perform",
            "main",
        )
    ),
)

_LOADER = """\
import json, sys, types
for name, source in {sources!r}:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
sys.exit(module.main(json.loads(sys.argv[1])))
"""


def sources() -> list[tuple[str, str]]:
    """Give the name and the text of each module that is carried to a host."""
    found = []
    for name in _MODULES:
        package, _, module = name.rpartition(".")
        found.append((name, (resources.files(package) / f"{module}.py").read_text("utf-8")))
    return found


@functools.cache
def program() -> bytes:
    """Give the program: Python that needs nothing but the standard library."""
    return _LOADER.format(sources=sources()).encode("utf-8")


def program_command(python: str, steps: Iterable[tuple[str, float, Mapping[str, object]]]) -> str:
    """Give the command that performs steps with the program on its standard input.

    What follows the program there is the input of the steps.
    """
    load = f"import sys; exec(sys.stdin.buffer.read({len(program())}))"
    return "exec " + shlex.join((python, "-I", "-S", "-c", load, json.dumps(list(steps))))


@functools.cache
def probe_script() -> str:
    """Give the text of the POSIX shell script that says what a host has."""
    return (resources.files(__package__) / "probe.sh").read_text("utf-8")


class Chained:
    """Reads octets and behind them a file, as one standard input."""

    def __init__(self, lead: bytes, rest: BinaryIO) -> None:
        self._lead = memoryview(lead)
        self._rest = rest

    def read(self, limit: int) -> bytes:
        """Give up to that many octets; none at the end."""
        if not self._lead:
            return self._rest.read(limit)
        octets, self._lead = bytes(self._lead[:limit]), self._lead[limit:]
        return octets
