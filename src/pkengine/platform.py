"""Which machines a bundle fits: the interpreter, the processor and the C library."""

from __future__ import annotations

import os
import re
from importlib.machinery import EXTENSION_SUFFIXES

import msgspec

_GLIBC_NAME = "glibc"


class Platform(msgspec.Struct, frozen=True):
    """What compiled code is bound to.

    Attributes:
        abi: the interpreter's own name for it, the middle of the file name of an extension
            module: ``cpython-311-x86_64-linux-gnu``.
        glibc: the version of glibc that is there, or is needed at least; empty where the C
            library is another one.
    """

    abi: str
    glibc: str = ""

    @classmethod
    def of_this_process(cls) -> Platform:
        """Describe the interpreter that runs this."""
        return cls(abi_of_suffix(EXTENSION_SUFFIXES[0]), _this_glibc())

    @property
    def python_tag(self) -> str:
        """The interpreter, such as ``cpython-311``."""
        return "-".join(self.abi.split("-")[:2])

    @property
    def machine(self) -> str:
        """The processor, such as ``x86_64``."""
        return self.abi.split("-")[2] if self.abi.count("-") >= 2 else ""

    def runs_on(self, host: Platform) -> bool:
        """Tell whether what is bound to this platform runs on that one."""
        return self.abi == host.abi and version_key(self.glibc) <= version_key(host.glibc)

    def __str__(self) -> str:
        """Say it for a person, such as ``CPython 3.11 on x86_64 with glibc 2.34``."""
        match = re.match(r"cpython-(\d)(\d+)(t?)-([^-]+)-(?:linux-)?(.*)", self.abi)
        if match is None:
            return self.abi
        major, minor, free_threaded, machine, library = match.groups()
        kind = "free-threaded CPython" if free_threaded else "CPython"
        library = f"{_GLIBC_NAME} {self.glibc}" if self.glibc else library
        return f"{kind} {major}.{minor} on {machine} with {library}"


def version_key(text: str) -> tuple[int, ...]:
    """Give what orders versions such as ``2.34``; nothing comes before everything."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def needed_glibc(wheel_tags: list[str]) -> str:
    """Give the oldest glibc that a wheel runs on (PEP 600), from the tags in its metadata.

    Returns:
        A version; that of this machine for a wheel that was built here; empty where the
        wheel needs none, because it holds no compiled code or is made for musl.
    """
    platforms = {platform for tag in wheel_tags for platform in tag.rsplit("-", 1)[-1].split(".")}
    named = [_manylinux_glibc(platform) for platform in platforms]
    found = [version for version in named if version]
    if found:
        return min(found, key=version_key)
    if any(platform.startswith("linux_") for platform in platforms):
        return _this_glibc()
    return ""


def _manylinux_glibc(platform: str) -> str:
    if match := re.match(r"manylinux_(\d+)_(\d+)_", platform):
        return f"{match[1]}.{match[2]}"
    for name, version in {"manylinux1_": "2.5", "manylinux2010_": "2.12"}.items():
        if platform.startswith(name):
            return version
    return "2.17" if platform.startswith("manylinux2014_") else ""


def abi_of_suffix(suffix: str) -> str:
    """Take the name of the binary interface out of the suffix of extension modules."""
    return suffix.removeprefix(".").removesuffix(".so")


def glibc_of(libc: str) -> str:
    """Take the version out of what glibc tells of itself, such as ``glibc 2.36``."""
    name, _, version = libc.partition(" ")
    return version if name == _GLIBC_NAME else ""


def _this_glibc() -> str:
    try:
        return glibc_of(os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):  # another C library does not know the question
        return ""
