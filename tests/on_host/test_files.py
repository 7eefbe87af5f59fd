"""Edits of a file that is not the agent's: everything but its text stays what it is."""

from __future__ import annotations

import ast
import errno
import os
import stat
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.deployment import program
from pkengine.on_host import files
from pkengine.on_host.step import StepFailed


class EditTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "authorized_keys"
        self.path.write_bytes(b"# one\n\xff\n")
        self.path.chmod(0o640)

    def add(self, path: Path | None = None) -> bool:
        return files.edit(str(path or self.path), lambda text: text + "two\n")

    def assert_added(self) -> None:
        self.assertEqual(b"# one\n\xff\ntwo\n", self.path.read_bytes())
        self.assertEqual([], list(self.folder.rglob(".pkengine-*")))

    def test_mode_and_extended_attributes_stay(self) -> None:
        os.setxattr(self.path, "user.context", b"as it was")
        self.assertTrue(self.add())
        self.assert_added()
        self.assertEqual(0o640, stat.S_IMODE(self.path.stat().st_mode))
        self.assertEqual(b"as it was", os.getxattr(self.path, "user.context"))

    def test_the_owner_stays(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("needs root, to have files of two users")
        os.chown(self.path, 12345, 54321)
        self.assertTrue(self.add())
        self.assert_added()
        found = self.path.stat()
        self.assertEqual((12345, 54321), (found.st_uid, found.st_gid))

    def test_nothing_is_written_where_nothing_changes(self) -> None:
        before = self.path.stat()
        self.assertFalse(files.edit(str(self.path), lambda text: text))
        self.assertEqual(before, self.path.stat())

    def test_a_link_stays_one_and_leads_to_the_new_text(self) -> None:
        link = self.folder / "link"
        link.symlink_to(self.path)
        self.assertTrue(self.add(link))
        self.assert_added()
        self.assertTrue(link.is_symlink())

    def test_a_file_with_another_name_is_written_in_place(self) -> None:
        other = self.folder / "other"
        other.hardlink_to(self.path)
        self.assertTrue(self.add())
        self.assert_added()
        self.assertEqual(self.path.read_bytes(), other.read_bytes())
        self.assertTrue(files.edit(str(self.path), lambda text: text.replace("# one\n", "")))
        self.assertEqual(b"\xff\ntwo\n", other.read_bytes())

    def test_a_file_that_cannot_be_replaced_is_written_in_place(self) -> None:
        for call, number in (("replace", errno.EBUSY), ("fchown", errno.EPERM)):
            with self.subTest(call=call):
                self.path.write_bytes(b"# one\n\xff\n")
                inode = self.path.stat().st_ino
                if call == "fchown":
                    os.chown(self.path, 12345, 54321)

                def refuse(*_: object, number: int = number) -> None:
                    raise OSError(number, os.strerror(number))

                self.patch(files.os, call, refuse)
                self.assertTrue(self.add())
                self.assert_added()
                self.assertEqual(inode, self.path.stat().st_ino)

    def test_a_new_file_is_private(self) -> None:
        self.path.unlink()
        self.assertTrue(self.add())
        self.assertEqual(b"two\n", self.path.read_bytes())
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))

    def test_what_is_no_file_is_left_alone(self) -> None:
        pipe, device = self.folder / "pipe", self.folder / "device"
        os.mkfifo(pipe)
        device.symlink_to("/dev/null")
        for path in (pipe, device):
            with self.assertRaises(StepFailed) as caught:
                self.add(path)
            self.assertIn("no regular file", str(caught.exception))

    def test_what_somebody_else_writes_meanwhile_is_not_lost(self) -> None:
        calls = []

        def change(text: str) -> str:
            calls.append(text)
            if len(calls) == 1:
                with self.path.open("ab") as stream:
                    stream.write(b"theirs\n")
            return text + "two\n"

        self.assertTrue(files.edit(str(self.path), change))
        self.assertEqual(b"# one\n\xff\ntheirs\ntwo\n", self.path.read_bytes())
        self.assertEqual(2, len(calls))

    def test_a_file_that_changes_all_the_time_is_given_up(self) -> None:
        def change(text: str) -> str:
            with self.path.open("ab") as stream:
                stream.write(b"theirs\n")
            return text + "two\n"

        with self.assertRaises(StepFailed) as caught:
            files.edit(str(self.path), change)
        self.assertIn("all the time", str(caught.exception))
        self.assertNotIn(b"two", self.path.read_bytes())


class CarriedTests(SynchronousTestCase):
    def test_what_is_carried_needs_nothing_but_what_is_carried_and_the_standard_library(
        self,
    ) -> None:
        carried = dict(program.sources())
        for name, text in carried.items():
            for node in ast.walk(ast.parse(text)):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for imported in names:
                    is_standard = imported.partition(".")[0] in sys.stdlib_module_names
                    self.assertTrue(is_standard or imported in carried, f"{name}: {imported}")
