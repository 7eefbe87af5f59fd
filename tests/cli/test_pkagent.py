"""``pkagent`` sets up a host, prints for people and for scripts, and fails in a sentence.

What it says to a running agent is tested with real agents in ``tests/agent``.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import TestCase

import pkengine
from pkengine.agent.control_client import ControlClient
from pkengine.agent.control_socket import short_name
from pkengine.agent.state import StateFolder
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.trust import FileTrustStore, format_trust_line
from pkengine.channel.jsonrpc import encode_error, encode_result
from pkengine.channel.records import JSONRPC, encode_record
from pkengine.channel.verbs import AcceptedKey
from pkengine.cli.pkagent import main
from pkengine.errors import CallRefused, CallTimeout, ChannelClosed, ChannelError
from pkengine.keys import Pin

ENGINE_1 = TrustedPeer(name="engine-1", key=Pin(b"1" * 32), comment="first")
ENGINE_2 = TrustedPeer(name="engine-2", key=Pin(b"2" * 32))


class PkagentTestCase(TestCase):
    def setUp(self) -> None:
        self.state = StateFolder(Path(self.mktemp()))

    def pkagent(self, *arguments: str) -> tuple[str, str, int]:
        """Run a command on the state folder; give both outputs and the exit status."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "argv", ["pkagent", *arguments, "--state", str(self.state.directory)])
        status = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as ended:
                status = int(ended.code or 0)
        return out.getvalue(), err.getvalue(), status


class HelpTests(PkagentTestCase):
    def test_the_help_of_join_shows_each_form_on_a_line_of_its_own(self) -> None:
        out, _, status = self.pkagent("join", "--help")
        self.assertEqual(status, 0)
        self.assertIn("  pkagent join https://engine.example:8443\n", out)
        self.assertNotIn("\\b", out)


class InitTests(PkagentTestCase):
    def test_scripts_get_one_line_of_json(self) -> None:
        out, err, status = self.pkagent("init", "--json", "--engine", format_trust_line(ENGINE_1))
        self.assertEqual((err, status), ("", 0))
        self.assertEqual(out.count("\n"), 1)
        self.assertEqual(
            json.loads(out),
            {
                "pin": str(self.state.key_pair().pin),
                "uuid": self.state.host_uuid(),
                "version": pkengine.__version__,
                "state": str(self.state.directory),
                "engines": [str(ENGINE_1.key)],
                "removed": [],
                "share": None,
            },
        )

    def test_people_get_the_same_in_words(self) -> None:
        out, _, status = self.pkagent("init")
        self.assertEqual(status, 0)
        self.assertIn(f"Agent key  {self.state.key_pair().pin}\n", out)
        self.assertIn("Accepts    no engine yet\n", out)

    def test_several_engines_are_accepted_with_all_that_their_lines_say(self) -> None:
        lines = (format_trust_line(ENGINE_1), format_trust_line(ENGINE_2))
        _, err, status = self.pkagent("init", "--engine", lines[0], "--engine", lines[1])
        self.assertEqual((err, status), ("", 0))
        accepted = FileTrustStore(self.state.authorized_engines).peers()
        self.assertEqual(set(accepted), {ENGINE_1, ENGINE_2})

    def test_malformed_line_is_wrong_usage_and_touches_nothing(self) -> None:
        for line, words in (
            ("SHA256:abc name=engine-1", "is not a pin"),
            (str(ENGINE_1.key), "has no name"),
            ("# only a comment", "is empty"),
            (f"{ENGINE_1.key} name=a secret=b", "'secret=b'"),
        ):
            out, err, status = self.pkagent("init", "--engine", line)
            self.assertEqual((out, status), ("", 2))
            self.assertIn(words, " ".join(err.split()))
            self.assertFalse(self.state.directory.exists())

    def test_folder_that_cannot_be_made_is_named(self) -> None:
        blocked = Path(self.mktemp()).absolute()
        blocked.write_text("")
        self.state = StateFolder(blocked / "state")
        out, err, status = self.pkagent("init", "--json")
        self.assertEqual((out, status), ("", 1))
        self.assertEqual(
            err, f"pkagent: Cannot make or enter the folder {blocked}/state: Not a directory.\n"
        )


class PinTests(PkagentTestCase):
    def test_pin_is_printed_alone(self) -> None:
        self.pkagent("init")
        pin = str(self.state.key_pair().pin)
        self.assertEqual(self.pkagent("pin"), (pin + "\n", "", 0))
        self.assertEqual(json.loads(self.pkagent("pin", "--json")[0]), {"pin": pin})

    def test_host_without_a_key_is_not_given_one(self) -> None:
        out, err, status = self.pkagent("pin")
        self.assertEqual((out, status), ("", 1))
        self.assertIn("agent.key: No such file or directory", err)
        self.assertFalse(self.state.directory.exists())


class NotRunningTests(PkagentTestCase):
    def test_commands_for_a_running_agent_say_that_there_is_none(self) -> None:
        self.pkagent("init")
        for command in (
            ("status",),
            ("keys", "list"),
            ("keys", "add", format_trust_line(ENGINE_1)),
            ("keys", "remove", str(ENGINE_1.key)),
        ):
            out, err, status = self.pkagent(*command)
            self.assertEqual((out, status), ("", 3))
            self.assertEqual(err.count("\n"), 1)
            self.assertIn(str(self.state.control_socket), err)

    def test_malformed_key_is_wrong_usage_even_so(self) -> None:
        out, err, status = self.pkagent("keys", "add", "engine-1")
        self.assertEqual((out, status), ("", 2))
        self.assertIn("is not a pin", err)

    def test_unknown_command_is_wrong_usage(self) -> None:
        self.assertEqual(self.pkagent("frobnicate")[2], 2)


class ControlClientTests(TestCase):
    """A peer that is not the agent of today."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())  # so deep that its name is too long for a socket
        folder = folder.joinpath(*["deep" * 10] * 4)
        folder.mkdir(parents=True)
        self.path = folder / "control.sock"

    def serve(self, answer: Callable[[socket.socket], None]) -> None:
        """Take one connection in a thread."""
        listener = socket.socket(socket.AF_UNIX)
        with short_name(self.path) as name:
            listener.bind(name)
        listener.listen()

        def run() -> None:
            with listener, listener.accept()[0] as connection:
                connection.recv(65536)
                answer(connection)

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)

    def call(self, timeout_s: float = 30.0) -> object:
        with ControlClient(self.path, timeout_s=timeout_s) as agent:
            return agent.call("Keys.list", result_type=list[AcceptedKey])

    def test_answer_in_pieces_is_put_together(self) -> None:
        record = encode_record(JSONRPC, encode_result(1, [{"pin": "p", "name": "n"}]))

        def answer(connection: socket.socket) -> None:
            for octet in record:
                connection.sendall(bytes([octet]))

        self.serve(answer)
        self.assertEqual(self.call(), [AcceptedKey(pin="p", name="n")])

    def test_refusal_carries_its_sentence(self) -> None:
        record = encode_record(JSONRPC, encode_error(1, 1, "Not today."))
        self.serve(lambda connection: connection.sendall(record))
        self.assertEqual(str(self.assertRaises(CallRefused, self.call)), "Not today.")

    def test_answer_of_another_version_is_said_to_be_one(self) -> None:
        record = encode_record(JSONRPC, encode_result(1, [{"other": "form"}]))
        self.serve(lambda connection: connection.sendall(record))
        self.assertIn("another version", str(self.assertRaises(ChannelError, self.call)))

    def test_agent_that_ends_before_it_answers_is_noticed(self) -> None:
        self.serve(lambda connection: None)
        self.assertRaises(ChannelClosed, self.call)

    def test_agent_that_does_not_answer_is_not_awaited_for_ever(self) -> None:
        self.serve(lambda connection: connection.recv(1) and None)
        self.assertRaises(CallTimeout, self.call, timeout_s=0.05)
