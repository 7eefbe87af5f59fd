"""Each test that the page on attacks names is there, in the module that the page names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"

#: A test, a class of tests or, with a colon behind it, the module in which those that follow are.
NAMED = re.compile(r"`(test_\w+|[A-Z]\w+)`(:?)")
DEFINED = re.compile(r"^(?:    (?:async )?def (test_\w+)|class (\w+))", re.MULTILINE)


def defined_in(paths: Iterator[Path]) -> set[str]:
    """Give the names of the tests in files, and of their classes."""
    found = (DEFINED.findall(path.read_text()) for path in paths)
    return {name for pairs in found for pair in pairs for name in pair if name}


class AttackTable(SynchronousTestCase):
    def test_every_test_that_is_named_exists(self) -> None:
        page = (ROOT / "docs" / "attacks.md").read_text()
        table = page.partition("## Attacks that are tested")[2]
        authentication = defined_in((TESTS / "auth").glob("test_*.py"))
        modules: dict[str, set[str]] = {}
        named = 0
        for row in table.splitlines():
            there = authentication
            for name, colon in NAMED.findall(row):
                if colon:
                    paths = TESTS.rglob(f"{name}.py")
                    there = modules.setdefault(name, defined_in(paths))
                    self.assertTrue(there, f"There is no module {name}.")
                else:
                    named += 1
                    self.assertIn(name, there, row)
        self.assertGreater(named, 100)
