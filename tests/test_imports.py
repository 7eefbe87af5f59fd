"""The layers of the package, and that imports run downwards only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial import unittest

import pkengine

PACKAGE = Path(pkengine.__file__).parent

#: What each layer may import, of the project's own layers.
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "extras": set(),
    "listening": {"errors"},
    "platform": set(),
    "interfaces": {"errors"},
    "keys": {"errors", "interfaces"},
    "auth": {"errors", "interfaces", "keys"},
    "channel": {"errors", "interfaces", "keys", "auth", "platform"},
    "ssh": {"errors", "interfaces", "keys"},
    "on_host": {"ssh"},
    "agent": {
        *("errors", "extras", "listening", "platform", "interfaces", "keys", "auth", "channel"),
        "on_host",
    },
    "engine": {
        *("errors", "extras", "listening", "platform", "interfaces", "keys", "auth", "channel"),
        *("ssh", "on_host"),
    },
    "cli": {
        *(
            "errors",
            "extras",
            "listening",
            "platform",
            "interfaces",
            "keys",
            "auth",
            "channel",
            "ssh",
            "on_host",
            "agent",
            "engine",
        ),
    },
}

#: Programs that the engine carries to hosts, where they are the top; here nothing imports them.
CARRIED = ("engine/deployment/bundle_main.py",)

#: What `pip install pkengine` brings, without an extra.
PLAIN_LAYERS = ("errors", "interfaces", "keys", "auth")
BEYOND_PLAIN = (
    "alembic",
    "argon2",
    "click",
    "klein",
    "msgspec",
    "psutil",
    "rich",
    "sqlalchemy",
    "treq",
    "twisted.conch",
)


def modules() -> Iterator[tuple[str, Path]]:
    """Give each module of the package that runs here: its layer, and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        is_carried = path.relative_to(PACKAGE).as_posix().startswith(CARRIED)
        if layer != "__init__" and not is_carried:
            yield layer, path


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Give each absolute import in a file, also those within functions: line and module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            if node.module == "pkengine":
                for name in node.names:
                    yield node.lineno, f"pkengine.{name.name}"
            else:
                yield node.lineno, node.module


def is_for_types_only(path: Path) -> set[int]:
    """Give the lines that only a type checker reads."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


class DirectionTests(unittest.TestCase):
    def test_every_module_is_in_a_known_layer(self) -> None:
        self.assertEqual(set(BELOW), {layer for layer, _ in modules()})

    def test_imports_run_downwards_only(self) -> None:
        upwards = []
        for layer, path in modules():
            only_types = is_for_types_only(path)
            for line, name in imported(path):
                package, _, rest = name.partition(".")
                target = rest.partition(".")[0]
                if package != "pkengine" or line in only_types or target in ("", "__version__"):
                    continue
                if target != layer and target not in BELOW[layer]:
                    where = path.relative_to(PACKAGE)
                    upwards.append(f"{where}:{line}: {layer} must not import {name}")
        self.assertEqual([], upwards)

    def test_nothing_imports_the_reactor_with_a_module(self) -> None:
        early = []
        for _, path in modules():
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if (
                    isinstance(node, ast.ImportFrom)
                    and node.module == "twisted.internet"
                    and any(name.name == "reactor" for name in node.names)
                ):
                    early.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
        self.assertEqual([], early)


class PlainInstallationTests(unittest.TestCase):
    def test_the_authenticators_need_none_of_the_extras(self) -> None:
        plain = [
            ".".join(("pkengine", *path.relative_to(PACKAGE).with_suffix("").parts))
            for layer, path in modules()
            if layer in PLAIN_LAYERS
        ]
        script = (
            "import importlib, sys\n"
            f"for name in {BEYOND_PLAIN!r}: sys.modules[name] = None\n"
            f"for name in {plain!r}: importlib.import_module(name)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr))
