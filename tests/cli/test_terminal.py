from __future__ import annotations

import os
import signal
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.terminal import ask, ask_password, printable


class PrintableTests(SynchronousTestCase):
    def test_letters_of_any_script_stay(self) -> None:
        self.assertEqual(printable("Ünïcode 主机 ✓"), "Ünïcode 主机 ✓")

    def test_control_characters_are_replaced_and_lines_joined(self) -> None:
        self.assertEqual(printable("a\x1b[31mb\x07"), "a\N{REPLACEMENT CHARACTER}[31mb\ufffd")
        self.assertEqual(printable("one\ntwo"), "one two")

    def test_direction_marks_cannot_reorder_what_is_shown(self) -> None:
        self.assertNotIn("\u202e", printable("abc\u202egpj.exe"))


class PromptTests(SynchronousTestCase):
    def test_an_interrupt_ends_a_prompt_though_a_reactor_has_taken_the_signal(self) -> None:
        taken: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, frame: taken.append(number))
        self.addCleanup(signal.signal, signal.SIGINT, before)

        def interrupted(text: str) -> str:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the interrupt had no effect")

        for question, reader in (
            (ask, "visible_prompt_func"),
            (ask_password, "hidden_prompt_func"),
        ):
            with mock.patch(f"click.termui.{reader}", interrupted):
                error = self.assertRaises(CommandFailed, question, "Well")
            self.assertEqual(error.status, ExitStatus.INTERRUPTED)
        os.kill(os.getpid(), signal.SIGINT)
        self.assertEqual(taken, [signal.SIGINT])  # the reactor's handler is back
