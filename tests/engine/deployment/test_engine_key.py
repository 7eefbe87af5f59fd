"""The engine's SSH key on a host is replaced, and whatever cuts that off leaves a way in."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial import unittest

from pkengine.engine.deployment.engine_key import replace_key
from pkengine.errors import DeploymentError, SshAuthenticationFailed, SshConnectionLost
from tests.engine.deployment.ssh_host import LocalConnection, make_home

OLD = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmvk"
NEW = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGnew"
OTHERS = "# ours\nssh-rsa AAAAB3 pkengine@engine-2\n"


class Proof(LocalConnection):
    """The connection by the new key."""

    is_closed = False

    async def close(self) -> None:
        self.is_closed = True


class ReplaceKeyTests(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pkengine-test-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.home = make_home(self.folder)
        self.path = self.home / ".ssh/authorized_keys"
        self.path.parent.mkdir(mode=0o700)
        self.path.write_text(f"{OLD} pkengine@engine-1\n{OTHERS}")
        self.proof = Proof(self.home)
        self.seen: list[str] = []

    async def log_in(self) -> Proof:
        self.seen.append(self.path.read_text())
        return self.proof

    async def replace(self, connection: LocalConnection | None = None) -> None:
        await replace_key(
            connection or LocalConnection(self.home),  # type: ignore[arg-type]
            f"{NEW} pkengine@engine-1",
            old=OLD,
            keeps_options=True,
            log_in=self.log_in,  # type: ignore[arg-type]
        )

    async def test_the_old_key_is_there_until_the_new_one_was_proved(self) -> None:
        await self.replace()
        (while_proved,) = self.seen
        self.assertIn(OLD, while_proved)
        self.assertIn(NEW, while_proved)
        self.assertEqual(f"{NEW} pkengine@engine-1\n{OTHERS}", self.path.read_text())
        self.assertTrue(self.proof.is_closed)

    async def test_a_key_that_does_not_get_in_leaves_the_old_one(self) -> None:
        async def refused() -> Proof:
            raise SshAuthenticationFailed("It does not accept the key.")

        self.patch(self, "log_in", refused)
        with self.assertRaises(DeploymentError) as caught:
            await self.replace()
        self.assertEqual("login", caught.exception.step)
        self.assertIn("It does not accept the key.", str(caught.exception))
        self.assertIn(f"{OLD} pkengine@engine-1\n", self.path.read_text())

    async def test_wherever_it_is_cut_off_one_key_gets_in_and_the_next_time_completes_it(
        self,
    ) -> None:
        before = self.path.read_text()
        for broken, command in (("first", 0), ("first", 1), ("login", 0), ("proof", 0)):
            self.path.write_text(before)
            connection, self.proof = LocalConnection(self.home), Proof(self.home)
            if broken == "first":
                connection.break_before = command
            elif broken == "proof":
                self.proof.break_before = command
            else:
                self.patch(self, "log_in", self.lost)
            with self.assertRaises(DeploymentError):
                await self.replace(connection)
            self.assertIn(OLD, self.path.read_text(), (broken, command))
            self.patch(self, "log_in", lambda: ReplaceKeyTests.log_in(self))
            self.proof = Proof(self.home)
            await self.replace()
            self.assertEqual(f"{NEW} pkengine@engine-1\n{OTHERS}", self.path.read_text())

    async def lost(self) -> Proof:
        raise SshConnectionLost("The connection was lost.")

    async def test_a_user_who_needs_a_password_for_sudo_is_not_asked_for_it(self) -> None:
        connection = LocalConnection(self.home, user="admin")
        await self.replace(connection)
        self.assertEqual([False] * 2, [as_root for _, as_root in connection.commands])
