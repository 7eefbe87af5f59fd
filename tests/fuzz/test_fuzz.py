"""A bounded run of the coverage-guided fuzzer on each parser."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.fuzz.targets import TARGETS, seeds

RUNS = 3000


class Seeds(SynchronousTestCase):
    def test_every_target_takes_its_seeds_and_nothing(self) -> None:
        for name, target in TARGETS.items():
            target(b"")
            self.assertTrue(seeds(name))
            for seed in seeds(name):
                target(seed)


class BoundedRuns(TestCase):
    timeout = 600
    if find_spec("atheris") is None:
        skip = "atheris is not there for this Python or processor"

    async def fuzz(self, name: str) -> None:
        folder = os.path.abspath(self.mktemp())
        os.makedirs(folder)
        output, errors, status = await getProcessOutputAndValue(
            sys.executable,
            [
                *("-m", "tests.fuzz.run", name, os.path.join(folder, "corpus")),
                *(f"-runs={RUNS}", "-max_len=600", f"-artifact_prefix={folder}/"),
            ],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            path=os.fspath(_ROOT),
        )
        self.assertEqual(status, 0, (output + errors).decode(errors="replace")[-4000:])


_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _add_tests() -> None:
    """Make one test a target, so that each is named where it fails."""
    for name in TARGETS:

        async def test(self: BoundedRuns, name: str = name) -> None:
            await self.fuzz(name)

        setattr(BoundedRuns, f"test_nothing_is_found_in_{name}", test)


_add_tests()
