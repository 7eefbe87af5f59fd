"""A command whose extra is not installed says so in a sentence."""

from __future__ import annotations

import sys
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from pkengine.cli import launch
from pkengine.extras import needs_extra


class MissingExtras(SynchronousTestCase):
    def ended(self, run: object, missing: str) -> str:
        """Run without a package, and without what has imported it already; give the sentence."""
        ours = {name: None for name in sys.modules if name.startswith("pkengine.")}
        kept = {name: module for name, module in sys.modules.items() if name not in ours}
        with mock.patch.dict(sys.modules, {**kept, missing: None}, clear=True):
            return str(self.assertRaises(SystemExit, run).code)

    def test_each_command_names_the_package_and_the_extra(self) -> None:
        self.assertEqual(
            self.ended(launch.pkengine, "click"),
            "pkengine: the package 'click' is not installed. "
            "Run: pip install 'pkengine[engine,agent]'",
        )
        self.assertIn("pkengine[agent]", self.ended(launch.pkagent, "click"))

    def test_a_package_of_our_own_that_is_missing_is_a_bug_and_shows_as_one(self) -> None:
        def run() -> None:
            with needs_extra("pkengine", "engine"):
                raise ModuleNotFoundError("gone", name="pkengine.cli.gone")

        self.assertRaises(ModuleNotFoundError, run)
