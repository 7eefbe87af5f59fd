from __future__ import annotations

import io

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from pkengine.cli.jobs import StepView, progress_display


class StepViewTests(SynchronousTestCase):
    def test_reads_a_step_whose_numbers_are_text(self) -> None:
        step = {
            "id": "1",
            "description": "Send the agent",
            "status": "finished",
            "progress": "100",
            "start_time": 1_700_000_000_000,
            "end_time": 1_700_000_001_500,
        }
        self.assertEqual(StepView.of(step), StepView("1", "Send the agent", "finished", 100, 1.5))


class ProgressTests(SynchronousTestCase):
    def shown(self, console: Console, *steps: StepView) -> str:
        with progress_display(console) as progress:
            for step in steps:
                progress.show(step)
        output = console.file
        assert isinstance(output, io.StringIO)
        return output.getvalue()

    def test_a_log_gets_one_line_for_each_step_that_ended(self) -> None:
        finished = StepView("1", "Look", "finished", seconds=0.25)
        failed = StepView("2", "Send \x1b it", "failed", 40)
        text = self.shown(
            Console(file=io.StringIO()),
            StepView("1", "Look", "started"),
            finished,
            finished,
            StepView("2", "Send \x1b it", "started", 40),
            failed,
            StepView("3", "Start", "unknown"),
        )
        self.assertEqual(text, "  ✓ Look  0.2 s\n  ✗ Send \ufffd it\n")

    def test_a_terminal_gets_a_line_a_step_drawn_in_place(self) -> None:
        console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
        text = self.shown(
            console,
            StepView("1", "Look [at] it", "started"),
            StepView("1", "Look [at] it", "finished", seconds=2.0),
            StepView("2", "Send", "started", 50),
            StepView("3", "Start", "unknown"),
        )
        last = text[text.rindex("✓ Look [at] it  2.0 s") :].splitlines()
        self.assertIn("… Send", last[1])
        self.assertIn("━", last[1])
        self.assertNotIn("Start", text)
