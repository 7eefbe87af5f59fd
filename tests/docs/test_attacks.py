"""Each test that the page on attacks names is there."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]


class AttackTable(SynchronousTestCase):
    def test_every_test_that_is_named_exists(self) -> None:
        page = (ROOT / "docs" / "attacks.md").read_text()
        table = page.partition("## Attacks that are tested")[2]
        modules = {path.stem for path in (ROOT / "tests" / "auth").glob("test_*.py")}
        sources = "\n".join(path.read_text() for path in (ROOT / "tests" / "auth").glob("*.py"))
        defined = set(re.findall(r"def (test_\w+)|class (\w+)", sources))
        names = {name for pair in defined for name in pair if name}
        named = set(re.findall(r"`(test_\w+|[A-Z]\w+)`", table))
        self.assertGreater(len(named), 40)
        self.assertEqual(named - names - modules, set())
