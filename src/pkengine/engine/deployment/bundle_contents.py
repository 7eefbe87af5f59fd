"""What goes into the agent's archive: the packages it needs, without what it never uses."""

from __future__ import annotations

import configparser
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pkengine
from pkengine.errors import BundleError
from pkengine.platform import Platform, needed_glibc, version_key

_PROJECT = "pkengine"
_EXTRA = "agent"
_PLUGIN = "twisted/plugins/pkengine_agent.py"
#: How a file in the archive begins: this says anew what is in an archive and where.
_LAYOUT_VERSION = 1

#: Rooms of pkengine that an agent has no use for.
_ENGINE_ONLY = re.compile(
    r"pkengine/(engine|ssh)/|pkengine/on_host/(main|authorized_keys)\.py|pkengine/cli/"
    r"(?!(__init__|pkagent|pkagent_join|join_prompt|running|exit_status|terminal)\.py)"
)
#: Parts of other packages that an agent has no use for, by far the largest of them.
_UNUSED = re.compile(
    r"""
      (^|/)(__pycache__|tests?|SelfTest)/
    | ^twisted/(conch|mail|names|newsfragments|pair|positioning|runner|trial|words)/
    | ^Crypto/(Cipher|Protocol|Signature)/  # of this one the agent uses a curve
    | ^Crypto/PublicKey/_ml(dsa|kem)\.
    | ^twisted/plugins/(?!__init__|twisted_core|twisted_reactors)
    | \.(py[cdi]|pxd|pyx|[ch])$
    | \.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json)$
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class BundleContents:
    """The files of an archive, before they are read.

    Attributes:
        key: changes whenever the contents may have; cheap to find out.
        platform: the hosts that the files fit.
        versions: the version of each distribution, by name.
        sources: where each file comes from, by its name in the archive.
    """

    key: str
    platform: Platform
    versions: dict[str, str]
    sources: dict[str, Path]

    def files(self) -> Iterator[tuple[str, int, bytes]]:
        """Give name, mode and content of each file, in the order of their names."""
        for name in sorted(self.sources):
            mode = 0o755 if name.startswith("bin/") else 0o644
            yield name, mode, self.sources[name].read_bytes()


def collect_contents() -> BundleContents:
    """Find what the agent needs among the distributions that are installed.

    Raises:
        BundleError: one is missing, or was not installed by pip.
    """
    distributions = _closure()
    sources = dict(_own_files())
    versions = {_PROJECT: pkengine.__version__}
    own = [
        f"{name} {stat.st_size} {stat.st_mtime_ns}"
        for name, path in sorted(sources.items())
        for stat in [path.stat()]
    ]
    glibc = ""
    for name, distribution in sorted(distributions.items()):
        versions[name] = distribution.version
        glibc = max(glibc, _glibc_of(distribution), key=version_key)
        for file_name, path in _files_of(name, distribution):
            sources.setdefault(f"lib/{file_name}", path)
    platform = Platform(Platform.of_this_process().abi, glibc)
    description = [str(_LAYOUT_VERSION), repr(platform), repr(sorted(versions.items())), *own]
    key = hashlib.sha256("\n".join(description).encode()).hexdigest()
    return BundleContents(key, platform, versions, sources)


def _closure() -> dict[str, Distribution]:
    """Find every distribution that ``pkengine[agent]`` requires here, itself excepted."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(f"{_PROJECT}[{_EXTRA}]")]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in sorted({"", *requirement.extras}):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            waiting += [
                needed
                for needed in _requirements(name, found)
                if needed.marker is None or needed.marker.evaluate({"extra": extra})
            ]
    return found


def _requirements(name: str, found: dict[str, Distribution]) -> list[Requirement]:
    if name == _PROJECT:
        return _own_requirements()
    try:
        found[name] = importlib.metadata.distribution(name)
    except PackageNotFoundError as error:
        raise BundleError(
            f"The agent needs {name}, which is not installed with the engine: "
            f"run 'pip install {_PROJECT}[{_EXTRA}]' with the engine's Python."
        ) from error
    return [Requirement(text) for text in found[name].requires or ()]


def _own_requirements() -> list[Requirement]:
    """Read our own requirements: from setup.cfg in a source tree, else as installed."""
    settings = configparser.ConfigParser(interpolation=None)
    if settings.read(_package().parents[1] / "setup.cfg") and settings.has_section("options"):
        always = settings.get("options", "install_requires").split("\n")
        extra = settings.get("options.extras_require", _EXTRA).split("\n")
        return [Requirement(line) for line in map(str.strip, [*always, *extra]) if line]
    try:
        requires = importlib.metadata.requires(_PROJECT)
    except PackageNotFoundError as error:
        raise BundleError(
            f"Nothing tells what the agent needs: {_PROJECT} was not installed by pip."
        ) from error
    return [Requirement(text) for text in requires or ()]


def _files_of(name: str, distribution: Distribution) -> Iterator[tuple[str, Path]]:
    """Give the files of a distribution that the agent may use, as its RECORD lists them."""
    if distribution.files is None or distribution.read_text("RECORD") is None:
        raise BundleError(
            f"The agent's archive cannot be made: {name} {distribution.version} has no list "
            "of its files, because it was not installed by pip. Install the engine by pip "
            "into a virtual environment of its own."
        )
    for entry in distribution.files:
        if entry.is_absolute() or ".." in entry.parts or _UNUSED.search(entry.as_posix()):
            continue  # commands and manual pages stand outside of the packages' folder
        yield entry.as_posix(), Path(str(distribution.locate_file(entry)))


def _own_files() -> Iterator[tuple[str, Path]]:
    package = _package()
    for path in package.rglob("*"):
        name = f"{_PROJECT}/{path.relative_to(package).as_posix()}"
        if path.is_file() and not _UNUSED.search(name) and not _ENGINE_ONLY.search(name):
            yield f"lib/{name}", path
    yield f"lib/{_PLUGIN}", _plugin()
    here = Path(__file__)
    yield "lib/__main__.py", here.with_name("bundle_main.py")
    for command in ("pkagent", "twistd"):
        yield f"bin/{command}", here.with_name("bundle_command.sh")


def _package() -> Path:
    return Path(pkengine.__file__).resolve().parent


def _plugin() -> Path:
    """Find the declaration of ``twistd pkagent``, installed or in a source tree."""
    in_source_tree = _package().parents[1] / _PLUGIN
    if in_source_tree.is_file():
        return in_source_tree
    found = importlib.util.find_spec(
        PurePosixPath(_PLUGIN).with_suffix("").as_posix().replace("/", ".")
    )
    if found is None or found.origin is None:
        raise BundleError(
            f"The agent's archive cannot be made: {_PLUGIN} is not installed with the engine."
        )
    return Path(found.origin)


def _glibc_of(distribution: Distribution) -> str:
    wheel = distribution.read_text("WHEEL") or ""
    return needed_glibc(re.findall(r"^Tag: (\S+)", wheel, re.MULTILINE))
