"""The worked example of the documentation is what goes over the wire."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.auth.worked_example import worked_example

PAGE = Path(__file__).parents[2] / "docs" / "handshake.md"


class WorkedExample(SynchronousTestCase):
    def test_the_octets_of_the_page_are_the_octets_on_the_wire(self) -> None:
        example = PAGE.read_text().partition("## A worked example")[2]
        blocks = re.findall(r", (\d+) octets:\n\n```text\n([0-9a-f \n]+)```", example)
        written = [bytes.fromhex(octets) for _, octets in blocks]
        self.assertEqual(written, list(worked_example().values()))
        self.assertEqual([int(length) for length, _ in blocks], [len(o) for o in written])
