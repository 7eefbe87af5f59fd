"""What a host has, and whether the agent can be put there."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from pkengine.engine.hosts.deployment_layout import OWN_FOLDER, Layout
from pkengine.engine.hosts.deployment_platform import Platform, abi_of_suffix, glibc_of
from pkengine.engine.hosts.deployment_program import probe_script

OLDEST_PYTHON = (3, 10)
#: What a stripped-down Python lacks, such as Debian's python3-minimal.
_NEEDED_MODULES = (
    *("asyncio", "ctypes", "email", "hashlib", "html", "http", "json", "logging", "ssl"),
    *("tarfile", "urllib", "uuid", "xml", "zlib"),
)
#: Systemd hides these from the agent (ProtectHome), and they go when their user goes.
_PRIVATE_FOLDERS = ("/home/", "/root/", "/run/user/", "/tmp/")  # noqa: S108
_MARK = "pkengine "

#: What an interpreter says of itself, when a host's shell runs it; any Python 3 can.
_DESCRIBE = f"""\
import importlib.machinery, importlib.util, json, os, sys
names = getattr(os, "confstr_names", {{}})
libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in names else ""
print(json.dumps({{
    "path": os.path.realpath(sys.executable),
    "version": list(sys.version_info[:3]),
    "suffix": importlib.machinery.EXTENSION_SUFFIXES[0],
    "libc": libc or "",
    "missing": [n for n in {_NEEDED_MODULES!r} if importlib.util.find_spec(n) is None],
}}))
"""


class Interpreter(msgspec.Struct, frozen=True):
    """One Python of a host.

    Attributes:
        path: of the program itself, behind every link.
        version: such as (3, 11, 2).
        suffix: of extension modules.
        libc: name and version of the C library, as glibc tells it.
        missing: modules of the standard library that it needs and lacks.
    """

    path: str
    version: tuple[int, int, int]
    suffix: str
    libc: str
    missing: list[str] = []

    @property
    def platform(self) -> Platform:
        """What compiled code for it is bound to."""
        return Platform(abi_of_suffix(self.suffix), glibc_of(self.libc))

    def __str__(self) -> str:
        return f"{self.platform} ({self.path})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What is in a place already.

    Attributes:
        free: octets that are free there.
        versions: the hashes of the versions that are there whole.
        current: the hash of the one in use, or None.
    """

    free: int
    versions: frozenset[str] = frozenset()
    current: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host has.

    Attributes:
        uid: of the user who is logged in.
        has_systemd: systemd runs the host, and answers.
        interpreters: the system's first.
        system: what is in the place for the whole system.
        own: what is in the place for this user alone.
        has_own_folder: the user has made that place.
    """

    uid: int
    home: str
    machine: str
    has_systemd: bool
    interpreters: tuple[Interpreter, ...]
    system: Installed
    own: Installed
    has_own_folder: bool


def probe_command(system: Layout) -> str:
    """Give the command that prints the facts."""
    arguments = ("/bin/sh", "-c", probe_script(), "probe", _DESCRIBE, system.prefix, OWN_FOLDER)
    return "exec " + shlex.join(arguments)


def parse_facts(output: bytes) -> HostFacts:
    """Read what the command printed; other lines, such as a greeting, are passed over.

    Raises:
        ValueError: it is not what the command prints.
    """
    facts: defaultdict[str, list[str]] = defaultdict(list)
    for line in output.decode("utf-8", "replace").splitlines():
        if line.startswith(_MARK):
            name, _, value = line.removeprefix(_MARK).partition(" ")
            facts[name].append(value)
    try:
        return HostFacts(
            uid=int(facts["uid"][0]),
            home=facts["home"][0],
            machine=facts["machine"][0],
            has_systemd=facts["init"] == ["systemd"],
            interpreters=tuple(
                msgspec.json.decode(text, type=Interpreter) for text in facts["python"]
            ),
            system=_installed("system", facts),
            own=_installed("own", facts),
            has_own_folder=bool(facts["own-folder"]),
        )
    except (IndexError, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from error


def _installed(place: str, facts: Mapping[str, Sequence[str]]) -> Installed:
    current = facts[f"{place}-current"]
    return Installed(
        free=int(facts[f"{place}-free"][0]) * 1024,
        versions=frozenset(facts[f"{place}-version"]),
        current=current[0] if current else None,
    )


def choose_interpreter(
    facts: HostFacts, needed: Platform, *, for_system: bool
) -> Interpreter | str:
    """Choose the Python that is to run the agent.

    Args:
        facts: tell which there are.
        needed: what the bundle is bound to.
        for_system: the agent is to run for the whole system, so its Python must as well.

    Returns:
        The interpreter, or the sentence that says why there is none.
    """
    why = []
    for python in facts.interpreters:
        if python.version < OLDEST_PYTHON:
            why.append(f"{python} is too old")
        elif not needed.runs_on(python.platform):
            why.append(str(python))
        elif for_system and python.path.startswith(_PRIVATE_FOLDERS):
            why.append(f"{python} belongs to one user")
        elif python.missing:
            modules = ", ".join(python.missing)
            why.append(f"{python} lacks {modules} of its standard library")
        else:
            return python
    found = "there is " + "; ".join(why) if why else "there is no Python"
    version = ".".join(map(str, OLDEST_PYTHON))
    return (
        f"the agent's archive needs {needed}, but {found}. Install that Python on the host, or "
        f"run the engine with the Python of its hosts ({version} or newer)."
    )
