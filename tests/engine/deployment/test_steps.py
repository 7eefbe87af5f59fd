"""Following the steps that a host performs, by what it prints."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.deployment.steps import Performance, Progress, StepReport
from pkengine.engine.model import StepStatus
from pkengine.errors import SshCommandFailed, SshError

STARTED, FINISHED = StepStatus.STARTED, StepStatus.FINISHED


class PerformanceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reports: list[StepReport] = []
        self.performance = Performance(["check", "install"], Progress(self.reports.append))

    def reported(self) -> list[tuple[str, StepStatus]]:
        seen, self.reports[:] = [(r.name, r.status) for r in self.reports], []
        return seen

    def test_a_step_ends_and_the_next_begins_when_the_host_says_so(self) -> None:
        self.assertEqual([("check", STARTED)], self.reported())
        self.performance.heard(b'Welcome\npkengine {"step": "check", ')
        self.assertEqual([], self.reported())
        self.performance.heard(b'"result": {"a": 1}}\npkeng')
        self.assertEqual([("check", FINISHED), ("install", STARTED)], self.reported())
        self.assertRaises(SshError, self.performance.check_whole)
        self.performance.heard(b'ine {"step": "install", "result": {}}\n')
        self.assertEqual([("install", FINISHED)], self.reported())
        self.performance.check_whole()
        self.assertEqual({"check": {"a": 1}, "install": {}}, self.performance.results)

    def test_the_sentence_of_the_step_that_failed_is_given(self) -> None:
        self.performance.heard(b'pkengine {"step": "check", "result": {}}\n')
        words = 'noise\npkengine {"step": "install", "error": "There is no room."}\n'
        error = SshCommandFailed("It failed.", 1, words)
        self.assertEqual("There is no room.", str(self.performance.failure(error)))

    def test_a_failure_of_another_step_or_of_none_is_left_as_it_is(self) -> None:
        for words in (
            "",
            "Killed",
            'pkengine {"step": "install", "error": "Too early."}',
            'pkengine {"step": "check"}',
            "pkengine {",
        ):
            error = SshCommandFailed("It failed.", 1, words)
            self.assertIs(error, self.performance.failure(error))

    def test_lines_that_are_not_the_programs_are_passed_over(self) -> None:
        self.performance.heard(b"pkengine\nLast login: today\n\xff\n")
        self.assertEqual([("check", STARTED)], self.reported())

    def test_what_makes_no_sense_is_a_sentence(self) -> None:
        for line in (
            b"pkengine {",
            b"pkengine []",
            b'pkengine {"step": "check"}',
            b'pkengine {"step": "install", "result": {}}',
        ):
            performance = Performance(["check", "install"], Progress(lambda _: None))
            self.assertRaises(SshError, performance.heard, line + b"\n")
