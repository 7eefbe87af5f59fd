"""The dialogue with sudo, without a host."""

from __future__ import annotations

import itertools
import shlex

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import SudoRefused
from pkengine.keys import Secret
from pkengine.ssh.sudo import SudoDialogue, SudoState

PASSWORD = "correct horse"
PROMPT, STARTED = b"[pkengine m4rk password]", b"[pkengine m4rk started]"


def dialogue(password: str | None = PASSWORD, command: str = "id -u") -> SudoDialogue:
    secret = None if password is None else Secret(password)
    return SudoDialogue(command, user="admin", where="node1", password=secret, mark="m4rk")


class DialogueTests(SynchronousTestCase):
    def test_the_password_is_in_no_argument(self):
        self.assertNotIn(PASSWORD, dialogue().command_line)

    @given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")))
    def test_any_command_survives_the_quoting(self, command):
        words = shlex.split(dialogue(command=command).command_line)
        self.assertEqual(words[:4], ["env", "LC_ALL=C", "sudo", "-S"])
        self.assertEqual(words[-3:-1], ["/bin/sh", "-c"])
        self.assertEqual(words[-1].split("\n", 1)[1], command)

    def test_the_password_goes_out_after_the_prompt_and_not_before(self):
        sudo = dialogue()
        self.assertEqual(
            sudo.receive(b"We trust you have received the usual lecture."), (b"", b"")
        )
        self.assertEqual(sudo.receive(PROMPT), (PASSWORD.encode() + b"\n", b""))
        self.assertEqual(sudo.receive(STARTED + b"own words"), (b"", b"own words"))
        self.assertEqual(sudo.receive(PROMPT + b"?"), (b"", PROMPT + b"?"))

    def test_without_a_prompt_the_password_stays_here(self):
        sudo = dialogue()
        self.assertEqual(sudo.receive(STARTED), (b"", b""))
        self.assertIs(sudo.state, SudoState.STARTED)

    @given(st.lists(st.integers(0, 60), max_size=5))
    def test_marks_are_seen_however_they_are_split(self, cuts):
        sudo, answers, own = dialogue(), b"", b""
        # What sudo writes after the prompt, it writes after it has had the answer.
        for stream in (b"lecture\n" + PROMPT, b"\n" + STARTED + b"stderr"):
            places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
            for start, end in itertools.pairwise(places):
                answer, rest = sudo.receive(stream[start:end])
                answers, own = answers + answer, own + rest
        self.assertEqual((answers, own), (PASSWORD.encode() + b"\n", b"stderr"))

    def refused(self, *stderr: bytes, password: str | None = PASSWORD) -> str:
        sudo = dialogue(password)
        with self.assertRaises(SudoRefused) as caught:
            for part in stderr:
                sudo.receive(part)
        return str(caught.exception)

    def test_a_second_prompt_means_a_wrong_password(self):
        text = self.refused(PROMPT, b"\nSorry, try again.\n" + PROMPT)
        self.assertIn("does not accept the password", text)
        self.assertIn("Sorry, try again.", text)
        self.assertNotIn(PASSWORD, text)

    def test_a_prompt_without_a_password_to_give_is_named(self):
        self.assertIn("none was given", self.refused(PROMPT, password=None))

    def test_a_password_with_a_line_break_does_not_spill_into_the_input(self):
        self.assertIn("line break", self.refused(PROMPT, password="two\nlines"))

    def test_a_sudo_that_talks_without_end_is_cut_off(self):
        self.assertIn("without end", self.refused(b"blah " * 10_000))

    def test_what_sudo_says_is_understood(self):
        for said, meaning in (
            (b"admin is not in the sudoers file.", "not in the host's sudoers file"),
            (b"admin is not in the sudoers file.  This incident will be reported.", "sudoers"),
            (b"Sorry, user admin is not allowed to execute '/bin/sh' as root on n.", "not allow"),
            (b"Sorry, user admin may not run sudo on node1.", "does not allow admin"),
            (b"sudo: sorry, you must have a tty to run sudo", "requiretty"),
            (b"env: \xe2\x80\x98sudo\xe2\x80\x99: No such file or directory", "not installed"),
            (b"env: sudo: No such file or directory", "not installed"),
            (b"sh: 1: sudo: not found", "not installed"),
            (b"sudo: account validation failure, is your account locked?", "account of admin"),
        ):
            sudo = dialogue()
            sudo.receive(said)
            text = str(sudo.refusal("it ended with exit status 1"))
            self.assertIn(meaning, text)
            self.assertIn("sudo on node1", text)

    def test_a_refusal_that_quotes_the_command_is_not_taken_for_its_start(self):
        sudo = dialogue()
        command = sudo.command_line.partition("-- ")[2]
        said = f"Sorry, user admin is not allowed to execute '{command}' as root on node1."
        self.assertEqual(sudo.receive(said.encode()), (b"", b""))
        self.assertIs(sudo.state, SudoState.ASKED)
        self.assertIn("does not allow admin", str(sudo.refusal("it ended with exit status 1")))

    def test_what_is_not_understood_is_shown(self):
        sudo = dialogue()
        sudo.receive(b"sudo: unexpected\x1b[31m trouble")
        text = str(sudo.refusal("it ended with exit status 9"))
        self.assertIn("it ended with exit status 9", text)
        self.assertIn("unexpected [31m trouble", text)
