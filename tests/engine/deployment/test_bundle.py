"""The archive that carries the agent."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from twisted.trial import unittest

import pkengine
from pkengine.engine.deployment import bundle_contents
from pkengine.engine.deployment.bundle import AgentBundle, build_bundle
from pkengine.errors import BundleError
from tests.engine.deployment.ssh_host import shared_bundle


def members(bundle: AgentBundle) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(bundle.path) as archive:
        return {member.name: member for member in archive}


def unpacked(bundle: AgentBundle, folder: Path) -> Path:
    """Unpack it as a host would have it."""
    version = folder / bundle.hash
    with tarfile.open(bundle.path) as archive:
        archive.extractall(version)
    (version / "bin/python3").symlink_to(os.path.realpath(sys.executable))
    return version


class ContentsTests(unittest.TestCase):
    def test_it_holds_the_agent_and_what_the_agent_requires(self) -> None:
        names = members(shared_bundle()).keys()
        self.assertLessEqual(
            {
                "bin/pkagent",
                "bin/twistd",
                "lib/__main__.py",
                "lib/OpenSSL/SSL.py",
                "lib/pkengine/agent/service.py",
                "lib/pkengine/auth/pin.py",
                "lib/psutil/__init__.py",
                "lib/twisted/plugins/pkengine_agent.py",
                "lib/zope/interface/__init__.py",
            },
            names,
        )

    def test_it_leaves_out_the_engine_tests_and_compiled_modules(self) -> None:
        for name in members(shared_bundle()):
            folders = name.split("/")[:-1]
            self.assertNotIn("test", folders, name)
            self.assertNotIn("tests", folders, name)
            self.assertNotRegex(name, r"\.pyc$|^lib/pkengine/(engine|ssh)/|^lib/twisted/conch/")
            self.assertNotRegex(name, r"^lib/(sqlalchemy|klein|alembic|treq|bcrypt|rich)(/|$)")
            self.assertNotRegex(name, r"^lib/twisted/plugins/pkengine_(?!agent)")
            self.assertNotIn("direct_url.json", name)  # it has a path of the engine's machine

    def test_licences_travel_with_the_packages(self) -> None:
        names = "\n".join(members(shared_bundle()))
        self.assertRegex(names, r"lib/twisted-[^/]*\.dist-info/.*LICENSE")

    def test_members_belong_to_root_and_have_no_time(self) -> None:
        for member in members(shared_bundle()).values():
            self.assertTrue(member.isfile(), member.name)
            self.assertEqual((0, 0, 0), (member.uid, member.gid, member.mtime))
            self.assertEqual(0o755 if member.name.startswith("bin/") else 0o644, member.mode)

    def test_the_manifest_tells_what_it_is_and_where_it_fits(self) -> None:
        bundle = shared_bundle()
        with tarfile.open(bundle.path) as archive:
            manifest = json.loads(archive.extractfile("bundle.json").read())  # type: ignore[union-attr]
        self.assertEqual(bundle.hash, manifest["hash"])
        self.assertEqual(bundle.platform.abi, manifest["platform"]["abi"])
        self.assertEqual(sys.implementation.cache_tag, bundle.python_tag)
        self.assertEqual(os.uname().machine, bundle.machine)
        self.assertEqual(pkengine.__version__, bundle.version)
        self.assertEqual(importlib.metadata.version("Twisted"), bundle.versions["twisted"])


class BuildingTests(unittest.TestCase):
    def setUp(self) -> None:
        """Let bundles be made of a copy of the package."""
        self.tree = Path(self.mktemp()).resolve()
        package = Path(pkengine.__file__).parent
        shutil.copytree(package, self.tree / "src/pkengine")
        shutil.copy(Path(__file__).parents[3] / "setup.cfg", self.tree)
        plugin = self.tree / "twisted/plugins/pkengine_agent.py"
        plugin.parent.mkdir(parents=True)
        shutil.copy(bundle_contents._plugin(), plugin)
        self.patch(bundle_contents, "_package", lambda: self.tree / "src/pkengine")

    def test_what_is_the_same_gives_the_same_octets(self) -> None:
        one, other = build_bundle(Path(self.mktemp())), build_bundle(Path(self.mktemp()))
        self.assertEqual((one.hash, one.sha256, one.size), (other.hash, other.sha256, other.size))
        self.assertEqual(one.path.read_bytes(), other.path.read_bytes())

    def test_it_is_built_once(self) -> None:
        directory = Path(self.mktemp())
        first = build_bundle(directory)
        before = first.path.stat()
        self.assertEqual(first, build_bundle(directory))
        self.assertEqual(before, first.path.stat())

    def test_an_archive_that_was_cut_off_is_built_again(self) -> None:
        directory = Path(self.mktemp())
        bundle = build_bundle(directory)
        with bundle.path.open("r+b") as stream:
            stream.truncate(1000)
        self.assertEqual(bundle.size, build_bundle(directory).path.stat().st_size)

    def test_a_note_of_it_that_is_damaged_is_made_anew(self) -> None:
        directory = Path(self.mktemp())
        bundle = build_bundle(directory)
        [note] = directory.glob("*.json")
        for damaged in (b"", b"{}", note.read_bytes().replace(b'":"', b'":"\xff', 1)):
            note.write_bytes(damaged)
            self.assertEqual(bundle.hash, build_bundle(directory).hash)

    def test_a_changed_agent_is_another_bundle_and_replaces_the_old_one(self) -> None:
        directory = Path(self.mktemp())
        before = build_bundle(directory)
        with (self.tree / "src/pkengine/agent/service.py").open("a") as stream:
            stream.write("# a change\n")
        after = build_bundle(directory)
        self.assertNotEqual(before.hash, after.hash)
        self.assertFalse(before.path.exists())
        self.assertEqual(after, build_bundle(directory))

    def test_a_changed_engine_is_no_reason_to_send_the_agent_again(self) -> None:
        before = build_bundle(Path(self.mktemp()))
        with (self.tree / "src/pkengine/engine/model.py").open("a") as stream:
            stream.write("# a change\n")
        self.assertEqual(before.hash, build_bundle(Path(self.mktemp())).hash)

    def test_a_package_that_is_missing_is_named(self) -> None:
        find = importlib.metadata.distribution

        def without_psutil(name: str) -> Any:
            if name == "psutil":
                raise importlib.metadata.PackageNotFoundError(name)
            return find(name)

        self.patch(importlib.metadata, "distribution", without_psutil)
        with self.assertRaisesRegex(BundleError, r"needs psutil, .* 'pip install pkengine\[agent"):
            build_bundle(Path(self.mktemp()))

    def test_a_package_that_pip_did_not_install_is_refused(self) -> None:
        find = importlib.metadata.distribution

        class FromTheSystem(importlib.metadata.Distribution):
            def read_text(self, filename: str) -> str | None:
                return None if filename == "RECORD" else find("psutil").read_text(filename)

            def locate_file(self, path: Any) -> Any:
                return find("psutil").locate_file(path)

        self.patch(
            importlib.metadata,
            "distribution",
            lambda name: FromTheSystem() if name == "psutil" else find(name),
        )
        with self.assertRaisesRegex(BundleError, "psutil .* was not installed by pip"):
            build_bundle(Path(self.mktemp()))

    def test_a_folder_that_cannot_be_made_is_named(self) -> None:
        file = Path(self.mktemp())
        file.touch()
        with self.assertRaisesRegex(BundleError, "archive in .*bundles"):
            build_bundle(file / "bundles")


class StartingTests(unittest.TestCase):
    def run_command(self, version: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [version / "bin" / arguments[0], *arguments[1:]],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_its_commands_run_with_nothing_but_what_is_in_it(self) -> None:
        version = unpacked(shared_bundle(), Path(self.mktemp()))
        done = self.run_command(version, "pkagent", "--version")
        self.assertIn(pkengine.__version__, done.stdout, done.stderr)
        done = self.run_command(version, "twistd", "pkagent", "--help")
        self.assertIn("--listen", done.stdout, done.stderr)

    def test_a_link_to_a_command_leads_to_its_version(self) -> None:
        version = unpacked(shared_bundle(), Path(self.mktemp()))
        (version / "bin/other").symlink_to("pkagent")
        link = version.parent / "pkagent"
        link.symlink_to(version.resolve() / "bin/pkagent")
        done = subprocess.run([link, "--version"], capture_output=True, text=True, check=False)
        self.assertIn(pkengine.__version__, done.stdout, done.stderr)

    def test_an_interpreter_that_went_away_is_named(self) -> None:
        version = unpacked(shared_bundle(), Path(self.mktemp()))
        (version / "bin/python3").unlink()
        (version / "bin/python3").symlink_to("/usr/bin/python3.99")
        done = self.run_command(version, "pkagent", "--version")
        self.assertEqual(1, done.returncode)
        self.assertIn("/usr/bin/python3.99, which this agent was installed for", done.stderr)
