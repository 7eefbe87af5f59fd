"""The command pkengine-auth, as a person runs it."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.folder import TrustFolder
from pkengine.auth.mechanisms import authenticator_from_folder
from pkengine.cli.auth import main
from pkengine.keys import KeyType, Pin


class AuthCommand(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.root.mkdir()
        self.agent, self.engine = str(self.root / "agent"), str(self.root / "engine")

    def run_command(self, *arguments: str, status: int = 0) -> str:
        """Run it; give what it printed, on both streams."""
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            try:
                found = main(arguments)
            except SystemExit as exit:
                found = exit.code
        self.assertEqual(found, status, output.getvalue())
        return output.getvalue()

    def authenticate(self, mechanism: str) -> None:
        """Let the agent dial the engine, in memory."""
        initiator = authenticator_from_folder(mechanism, self.agent).initiator("engine")
        acceptor = authenticator_from_folder(mechanism, self.engine).acceptor()
        to_acceptor, to_initiator = initiator.start(), acceptor.start()
        while initiator.outcome is None or acceptor.outcome is None:
            to_initiator += acceptor.receive(to_acceptor) if to_acceptor else b""
            to_acceptor = initiator.receive(to_initiator)
            to_initiator = b""
        self.assertEqual(acceptor.outcome.peer.name, "agent")

    def test_two_ends_that_exchanged_their_lines_authenticate(self) -> None:
        for folder in (self.agent, self.engine):
            printed = self.run_command("keygen", folder).strip()
            self.assertEqual(str(Pin.parse(printed)), printed)
            self.assertEqual(self.run_command("pin", folder).strip(), printed)
        for folder, other, name in (
            (self.agent, self.engine, "engine"),
            (self.engine, self.agent, "agent"),
        ):
            line = self.run_command("pin", other, "--line", name).strip()
            self.run_command("trust", "add", folder, line)
            self.assertEqual(self.run_command("trust", "list", folder).strip(), line)
        self.authenticate("pin")

    def test_a_key_is_made_once_and_of_the_type_asked_for(self) -> None:
        first = self.run_command("keygen", self.agent, "--type", "ed25519")
        self.assertEqual(self.run_command("keygen", self.agent), first)
        key = TrustFolder(Path(self.agent)).key_pair.private_key
        self.assertIn(KeyType.ED25519.value, type(key).__name__.lower())

    def test_a_shared_secret_moves_to_the_peer_as_a_file(self) -> None:
        for mechanism, dials in (
            ("hmac", "peer"),
            ("spake2plus", "peer"),
            ("spake2plus", "local"),
        ):
            with self.subTest(mechanism=mechanism, dials=dials):
                self.setUp()
                half = str(self.root / "half.json")
                maker, taker = (self.engine, self.agent)
                names = ("--local", "engine", "--peer", "agent")
                if dials == "local":
                    maker, taker = taker, maker
                    names = ("--local", "agent", "--peer", "engine")
                self.run_command(
                    "secret", "new", maker, *names, "--mechanism", mechanism,
                    "--dials", dials, "--out", half,
                )  # fmt: skip
                self.assertEqual(Path(half).stat().st_mode & 0o777, 0o600)
                self.run_command("secret", "import", taker, half)
                self.authenticate(mechanism)

    def test_a_spoken_code_becomes_a_secret_without_being_shown(self) -> None:
        half = str(self.root / "half.json")
        with mock.patch.object(sys, "stdin", io.StringIO("7-guitar-tumor\n")):
            printed = self.run_command(
                "secret", "new", self.engine, "--local", "engine", "--peer", "agent",
                "--mechanism", "spake2plus", "--code", "--out", half,
            )  # fmt: skip
        self.assertNotIn("guitar", printed + Path(half).read_text())
        self.run_command("secret", "import", self.agent, half)
        self.authenticate("spake2plus")

    def test_an_empty_code_is_refused(self) -> None:
        with mock.patch.object(sys, "stdin", io.StringIO("\n")):
            self.run_command(
                "secret", "new", self.engine, "--local", "engine", "--peer", "agent",
                "--mechanism", "spake2plus", "--code", "--out", str(self.root / "half"),
                status=1,
            )  # fmt: skip
        self.assertFalse((self.root / "half").exists())

    def test_a_file_that_exists_is_not_overwritten_and_nothing_is_made(self) -> None:
        half = self.root / "half.json"
        half.write_text("precious")
        printed = self.run_command(
            "secret", "new", self.engine, "--local", "engine", "--peer", "agent",
            "--out", str(half), status=1,
        )  # fmt: skip
        self.assertIn(str(half), printed)
        self.assertEqual(half.read_text(), "precious")
        self.assertEqual(TrustFolder(Path(self.engine)).secrets.keys(), [])
        self.assertEqual(self.run_command("trust", "list", self.engine), "")

    def test_a_removed_key_is_trusted_no_longer(self) -> None:
        self.run_command("keygen", self.agent)
        line = self.run_command("pin", self.agent, "--line", "agent").strip()
        self.run_command("trust", "add", self.engine, *line.split())
        self.run_command("trust", "remove", self.engine, line.split()[0])
        self.assertEqual(self.run_command("trust", "list", self.engine), "")

    def test_wrong_input_is_answered_with_one_sentence(self) -> None:
        pin = str(Pin(bytes(32)))
        for arguments, words in (
            (("pin", self.agent), "identity.key"),
            (("trust", "add", self.agent, "sha256//nonsense name=x"), "not a pin"),
            (("trust", "add", self.agent, pin), "no name"),
            (("trust", "add", self.agent, "# only a comment"), "empty"),
            (("trust", "add", self.agent, f"{pin} name=x expires=2020-01-01T00:00:00Z"), "passed"),
            (("trust", "remove", self.agent, pin), "nothing was removed"),
            (("trust", "remove", self.agent, "all"), "not a pin"),
            (("secret", "import", self.agent, str(self.root / "none")), "Cannot read"),
        ):
            printed = self.run_command(*arguments, status=1)
            self.assertIn(words, printed)
            self.assertEqual(printed.count("\n"), 1, printed)
            self.assertNotIn("Traceback", printed)

    def test_a_file_that_is_no_half_of_a_secret_is_named(self) -> None:
        path = self.root / "half.json"
        path.write_text("{}")
        path.chmod(0o600)
        self.assertIn(
            str(path), self.run_command("secret", "import", self.agent, str(path), status=1)
        )

    def test_wrong_usage_is_told(self) -> None:
        self.run_command(status=2)
        self.run_command("keygen", status=2)
        self.assertIn("pkengine", self.run_command("--version"))
