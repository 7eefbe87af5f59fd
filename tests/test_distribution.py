"""What is installed: built as a wheel and looked into."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from twisted.trial import unittest

ROOT = Path(__file__).parent.parent
SOURCES = ("src", "twisted", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@functools.cache
def names_in_wheel() -> set[str]:
    """Build a wheel of these very sources and give the paths in it."""
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name)
        for source in SOURCES:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
            copy(ROOT / source, sources / source)
        # In a process of its own: a build changes the current folder and sys.path.
        build = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
        subprocess.run(
            [sys.executable, "-c", build, name], cwd=name, check=True, capture_output=True
        )
        (wheel,) = sources.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return set(archive.namelist())


class WheelTests(unittest.TestCase):
    def setUp(self) -> None:
        self.names = names_in_wheel()

    def test_wheel_has_every_module_of_the_sources(self) -> None:
        modules = {
            path.relative_to(ROOT / "src").as_posix() for path in ROOT.glob("src/pkengine/**/*.py")
        }
        self.assertEqual(set(), modules - self.names)

    def test_wheel_has_all_that_is_not_a_module(self) -> None:
        data = {
            path.relative_to(ROOT / "src").as_posix()
            for path in ROOT.glob("src/pkengine/**/*")
            if path.is_file() and path.suffix not in {".py", ".pyc"}
        }
        self.assertIn("pkengine/py.typed", data)
        self.assertEqual(set(), data - self.names)

    def test_wheel_adds_plugins_to_twisted_and_replaces_nothing_of_it(self) -> None:
        plugins = {
            f"twisted/plugins/{path.name}" for path in ROOT.glob("twisted/plugins/pkengine_*.py")
        }
        self.assertNotEqual(set(), plugins)
        self.assertEqual(plugins, {name for name in self.names if name.startswith("twisted/")})

    def test_wheel_has_no_tests(self) -> None:
        self.assertEqual([], [name for name in self.names if name.startswith("tests/")])
