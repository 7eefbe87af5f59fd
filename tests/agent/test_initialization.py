"""Initialization makes a host ready, however often it is run and wherever it is cut off."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import TestCase

from pkengine.agent.initialization import initialize
from pkengine.agent.state import StateFolder, default_directory
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.trust import FileTrustStore
from pkengine.errors import AgentError, KeyFileError, TrustFileError
from pkengine.keys import KeyPair, Pin

ENGINE_1 = TrustedPeer(name="engine-1", key=Pin(b"1" * 32))
ENGINE_1_NEW = TrustedPeer(name="engine-1", key=Pin(b"2" * 32), comment="after the move")
ENGINE_2 = TrustedPeer(name="engine-2", key=Pin(b"3" * 32))


class InitializationTests(TestCase):
    def setUp(self) -> None:
        self.state = StateFolder(Path(self.mktemp()) / "deep" / "state")

    def accepted(self) -> set[TrustedPeer]:
        return set(FileTrustStore(self.state.authorized_engines).peers())

    def test_first_run_makes_a_private_folder_with_key_and_engines(self) -> None:
        done = initialize(self.state, [ENGINE_1, ENGINE_2])
        self.assertEqual(stat.S_IMODE(self.state.directory.stat().st_mode), 0o700)
        key = self.state.directory / "agent.key"
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        self.assertEqual(done.pin, str(KeyPair.load(self.state.directory, "agent").pin))
        self.assertEqual(done.state, str(self.state.directory))
        self.assertEqual(done.uuid, self.state.host_uuid())
        self.assertEqual(self.accepted(), {ENGINE_1, ENGINE_2})

    def test_second_run_changes_nothing(self) -> None:
        first = initialize(self.state, [ENGINE_1])
        before = self.state.authorized_engines.stat()
        self.assertEqual(initialize(self.state, [ENGINE_1]), first)
        self.assertEqual(self.state.authorized_engines.stat().st_ino, before.st_ino)

    def test_keys_given_for_an_engine_are_all_that_it_has(self) -> None:
        initialize(self.state, [ENGINE_1, ENGINE_2])
        done = initialize(self.state, [ENGINE_1_NEW])
        self.assertEqual(self.accepted(), {ENGINE_1_NEW, ENGINE_2})
        self.assertEqual(done.removed, [str(ENGINE_1.key)])

    def test_engine_may_have_an_old_and_a_new_key(self) -> None:
        initialize(self.state, [ENGINE_1])
        done = initialize(self.state, [ENGINE_1, ENGINE_1_NEW])
        self.assertEqual(self.accepted(), {ENGINE_1, ENGINE_1_NEW})
        self.assertEqual(done.removed, [])

    def test_without_engines_it_makes_the_key_and_keeps_who_is_accepted(self) -> None:
        first = initialize(self.state, [ENGINE_1])
        self.assertEqual(initialize(self.state, []), first)
        self.assertEqual(self.accepted(), {ENGINE_1})

    def test_what_a_person_wrote_into_the_file_stays(self) -> None:
        initialize(self.state, [ENGINE_2])
        with self.state.authorized_engines.open("a") as stream:
            stream.write("# ask Alice before you touch this\n")
        initialize(self.state, [ENGINE_1])
        self.assertIn("# ask Alice", self.state.authorized_engines.read_text())

    def test_interruption_at_any_write_leaves_what_a_second_run_completes(self) -> None:
        """Each rename or link is failed in turn, which is where a kill shows on disk."""
        wanted = {ENGINE_1_NEW, ENGINE_2}
        for number in range(20):
            self.state = StateFolder(Path(self.mktemp()))
            initialize(self.state, [ENGINE_1])
            (self.state.directory / "agent.crt").unlink()
            key = (self.state.directory / "agent.key").read_bytes()
            interrupted = self.interrupt(number, [ENGINE_1_NEW, ENGINE_2])
            self.assertTrue(self.accepted() <= wanted | {ENGINE_1})
            self.assertTrue(self.accepted())
            initialize(self.state, [ENGINE_1_NEW, ENGINE_2])
            self.assertEqual(self.accepted(), wanted)
            self.assertEqual((self.state.directory / "agent.key").read_bytes(), key)
            names = sorted(path.name for path in self.state.directory.iterdir())
            self.assertEqual(names[:3], ["agent.crt", "agent.key", "authorized_engines"])
            if not interrupted:
                self.assertEqual(number, 4)  # the certificate, two keys in, one key out
                return
        self.fail("initialization never came to its end")

    def interrupt(self, number: int, engines: list[TrustedPeer]) -> bool:
        """Run, and fail the write with this number; tell whether it came to that."""
        count = iter(range(1000))

        def fail_once(*_: object) -> None:
            if next(count) == number:
                raise OSError(28, "No space left on device")

        replace = os.replace

        def replace_or_fail(source: str, target: str) -> None:
            fail_once()
            replace(source, target)

        with mock.patch("os.replace", replace_or_fail):
            try:
                initialize(self.state, engines)
            except KeyFileError as error:
                self.assertIn("No space left on device", str(error))
                return True
        return False

    def test_key_of_the_agent_itself_is_refused(self) -> None:
        own = self.state.prepare().pin
        engine = TrustedPeer(name="mirror", key=own)
        self.assertRaises(AgentError, initialize, self.state, [ENGINE_1, engine])
        self.assertEqual(self.accepted(), set())

    def test_folder_that_lets_others_in_is_refused(self) -> None:
        self.state.directory.mkdir(parents=True, mode=0o755)
        self.state.directory.chmod(0o755)
        error = self.assertRaises(KeyFileError, initialize, self.state, [ENGINE_1])
        self.assertIn("chmod 700", str(error))
        self.assertEqual(list(self.state.directory.iterdir()), [])

    def test_malformed_trust_file_is_named_and_kept(self) -> None:
        self.state.prepare()
        self.state.authorized_engines.write_text("let everybody in\n")
        error = self.assertRaises(TrustFileError, initialize, self.state, [ENGINE_1])
        self.assertIn("line 1", str(error))
        self.assertEqual(self.state.authorized_engines.read_text(), "let everybody in\n")


class StateFolderTests(TestCase):
    def test_environment_names_the_folder_where_nothing_else_does(self) -> None:
        self.assertEqual(default_directory({}), Path("/var/lib/pkagent"))
        self.assertEqual(default_directory({"PKAGENT_STATE": ""}), Path("/var/lib/pkagent"))
        self.assertEqual(default_directory({"PKAGENT_STATE": "/x"}), Path("/x"))

    def test_second_agent_on_one_folder_is_refused(self) -> None:
        state = StateFolder(Path(self.mktemp()))
        state.prepare()
        program = (
            "import sys; from pathlib import Path; from pkengine.agent.state import StateFolder\n"
            "StateFolder(Path(sys.argv[1])).lock(); print('locked', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(state.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": ":".join(sys.path)},
        ) as other:
            assert other.stdout is not None
            self.assertEqual(other.stdout.readline(), b"locked\n")
            error = self.assertRaises(AgentError, state.lock)
            self.assertIn(str(state.directory), str(error))
            other.kill()
        os.close(state.lock())  # a lock ends with its process, however that ended
