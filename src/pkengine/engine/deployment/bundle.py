"""The archive that carries the agent to hosts.

It is made of what is installed with the engine, so a host of the same platform needs
neither a package index nor pip, and runs exactly what the engine was tested with::

    bundle.json     what is in here, and which hosts it fits
    bin/pkagent     both are one small shell script, which starts
    bin/twistd      Python on the folder below, apart from what else is installed
    lib/            the agent and every package that it needs

A bundle is known by its *hash*, that of its contents: the same packages give the same hash
and the same octets on every engine.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pkengine.engine.deployment.bundle_contents import BundleContents, collect_contents
from pkengine.errors import BundleError, KeyFileError
from pkengine.keys.files import write_atomically
from pkengine.platform import Platform

MANIFEST = "bundle.json"
_FORMAT = 1
#: Level 9 takes three times as long and saves one per cent.
_COMPRESSION = 6


@dataclass(frozen=True, slots=True)
class AgentBundle:
    """An archive that is ready to be sent.

    Attributes:
        path: the archive, a ``tar.gz``.
        hash: SHA-256 of the contents in hexadecimal; names the version on a host.
        sha256: SHA-256 of the archive in hexadecimal.
        size: octets of the archive.
        installed_size: octets of the files in it.
        platform: the hosts that it fits.
        versions: the version of each distribution in it, by name.
    """

    path: Path
    hash: str
    sha256: str
    size: int
    installed_size: int
    platform: Platform
    versions: dict[str, str]

    @property
    def python_tag(self) -> str:
        """The interpreter that it fits, such as ``cpython-311``."""
        return self.platform.python_tag

    @property
    def machine(self) -> str:
        """The processor that it fits, such as ``x86_64``."""
        return self.platform.machine

    @property
    def version(self) -> str:
        """The version of the agent."""
        return self.versions["pkengine"]


class _Manifest(msgspec.Struct, frozen=True):
    """``bundle.json`` of a bundle."""

    format: int
    hash: str
    platform: Platform
    installed_size: int
    versions: dict[str, str]


class _Record(msgspec.Struct, frozen=True):
    """What the engine notes beside an archive, in order not to build it again."""

    archive: str
    sha256: str
    size: int
    manifest: _Manifest


def build_bundle(directory: Path) -> AgentBundle:
    """Give the bundle of what is installed now; build it where it is not in `directory` yet.

    Building takes seconds, finding an earlier one some tens of milliseconds, and both
    block: call it in a thread.

    Args:
        directory: the engine's ``bundles`` folder; older bundles are removed from it.

    Raises:
        BundleError: a package that the agent needs is missing or was not installed by pip,
            or the folder cannot be written.
    """
    contents = collect_contents()
    record_path = directory / f"{contents.key}.json"
    record = _read_record(record_path)
    if record is None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            record = _build(directory, contents)
            write_atomically(record_path, msgspec.json.encode(record), mode=0o644)
        except OSError as error:
            raise BundleError(
                f"Cannot make the agent's archive in {directory}: {error.strerror}."
            ) from error
        except KeyFileError as error:
            raise BundleError(f"Cannot make the agent's archive: {error}") from error
        _remove_others(directory, keep={record_path.name, record.archive})
    return AgentBundle(
        path=directory / record.archive,
        hash=record.manifest.hash,
        sha256=record.sha256,
        size=record.size,
        installed_size=record.manifest.installed_size,
        platform=record.manifest.platform,
        versions=record.manifest.versions,
    )


def _read_record(path: Path) -> _Record | None:
    """Read what was noted; None where there is nothing, or not the archive noted."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
        size = (path.parent / record.archive).stat().st_size
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return record if size == record.size else None


def _build(directory: Path, contents: BundleContents) -> _Record:
    buffer = io.BytesIO()
    content_hash = hashlib.sha256()
    installed_size = 0
    with (
        gzip.GzipFile("", "wb", _COMPRESSION, buffer, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, mode, octets in contents.files():
            content_hash.update(f"{name}\0{mode:o}\0{len(octets)}\0".encode())
            content_hash.update(octets)
            installed_size += len(octets)
            _add(archive, name, mode, octets)
        manifest = _Manifest(
            format=_FORMAT,
            hash=content_hash.hexdigest(),
            platform=contents.platform,
            installed_size=installed_size,
            versions=contents.versions,
        )
        _add(archive, MANIFEST, 0o644, msgspec.json.encode(manifest))
    octets = buffer.getvalue()
    name = f"{manifest.hash}.tar.gz"
    write_atomically(directory / name, octets, mode=0o644)
    return _Record(name, hashlib.sha256(octets).hexdigest(), len(octets), manifest)


def _add(archive: tarfile.TarFile, name: str, mode: int, octets: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are 0
    member.mode = mode
    member.size = len(octets)
    archive.addfile(member, io.BytesIO(octets))


def _remove_others(directory: Path, *, keep: set[str]) -> None:
    """Remove older bundles; a deployment that reads one has it open and goes on."""
    for path in directory.iterdir():
        if path.name not in keep and path.name.endswith((".json", ".tar.gz")):
            with contextlib.suppress(OSError):
                path.unlink()
