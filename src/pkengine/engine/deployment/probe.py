"""What a host has, and whether the agent can be put there."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

import msgspec

from pkengine.engine.deployment.layout import OWN_FOLDER, Layout
from pkengine.engine.deployment.program import probe_script
from pkengine.platform import Platform, abi_of_suffix, glibc_of

OLDEST_PYTHON = (3, 10)
#: What a stripped-down Python lacks, such as Debian's python3-minimal.
_NEEDED_MODULES = (
    *("asyncio", "ctypes", "email", "hashlib", "html", "http", "json", "logging", "ssl"),
    *("tarfile", "urllib", "uuid", "xml", "zlib"),
)
#: Systemd hides these from the agent (ProtectHome), and they go when their user goes.
_PRIVATE_FOLDERS = ("/home/", "/root/", "/run/user/", "/tmp/")  # noqa: S108
_MARK = b"pkengine "

#: What an interpreter says of itself and of the host; any Python 3 can run it.
_DESCRIBE = f"""\
import importlib.machinery, importlib.util, json, os, sys
def place(prefix):
    versions = prefix + "/versions"
    found = {{}}
    try:
        found["current"] = os.path.basename(os.readlink(prefix + "/current"))
    except OSError:
        found["current"] = None
    try:
        found["versions"] = [name for name in os.listdir(versions) if not name.startswith(".")]
    except OSError:
        found["versions"] = []
    folder = prefix
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    room = os.statvfs(folder)
    found["free"] = room.f_frsize * room.f_bavail
    return found
libc = "CS_GNU_LIBC_VERSION"
own = os.path.join(os.path.expanduser("~"), sys.argv[2])
print("pkengine " + json.dumps({{
    "path": os.path.realpath(sys.executable),
    "version": list(sys.version_info[:3]),
    "suffix": importlib.machinery.EXTENSION_SUFFIXES[0],
    "libc": os.confstr(libc) if libc in os.confstr_names else "",
    "missing": [n for n in {_NEEDED_MODULES!r} if importlib.util.find_spec(n) is None],
    "home": os.path.expanduser("~"),
    "system": place(sys.argv[1]),
    "own": place(own),
    "has_own_folder": os.path.isdir(own),
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


class Installed(msgspec.Struct, frozen=True):
    """What is in a place already.

    Attributes:
        free: octets that are free there.
        versions: the hashes of the versions that are there whole.
        current: the hash of the one in use, or None.
    """

    free: int
    versions: frozenset[str] = frozenset()
    current: str | None = None


_NOTHING = Installed(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host has.

    Attributes:
        has_systemd: systemd runs the host, and answers.
        interpreters: the system's first.
        home: of the user who is logged in.
        system: what is in the place for the whole system.
        own: what is in the place for this user alone.
        has_own_folder: the user has made that place.
    """

    has_systemd: bool
    interpreters: tuple[Interpreter, ...]
    home: str = ""
    system: Installed = _NOTHING
    own: Installed = _NOTHING
    has_own_folder: bool = False


class _Seen(msgspec.Struct, frozen=True):
    """What an interpreter says of the host."""

    home: str
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
    marked = [line for line in output.split(b"\n") if line.startswith(_MARK)]
    said = [line.removeprefix(_MARK).strip() for line in marked]
    if said[-1:] != [b"end"]:
        raise ValueError(f"it ends with {output[-80:]!r}")
    descriptions = [text for text in said if text.startswith(b"{")]
    try:
        interpreters = [msgspec.json.decode(text, type=Interpreter) for text in descriptions]
        seen = [msgspec.json.decode(text, type=_Seen) for text in descriptions[:1]]
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    facts = HostFacts(
        has_systemd=b"systemd" in said,
        interpreters=tuple({python.path: python for python in interpreters}.values()),
    )
    return replace(facts, **msgspec.structs.asdict(seen[0])) if seen else facts


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
