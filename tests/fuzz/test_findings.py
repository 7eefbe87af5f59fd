"""What fuzzing has found, kept as it was found."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pkengine.channel.jsonrpc import MalformedMessage, decode_message
from tests.fuzz.targets import TARGETS

FINDINGS = {
    "jsonrpc": [
        b'{"jsonrpc":"f\xff\xff2.0","id":1,"result":true}',
        b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"b":"\xff"}}',
    ],
}


class Findings(SynchronousTestCase):
    def test_no_finding_comes_back(self) -> None:
        for name, inputs in FINDINGS.items():
            for data in inputs:
                TARGETS[name](data)

    def test_json_that_is_not_utf_8_is_a_parse_error(self) -> None:
        for data in FINDINGS["jsonrpc"]:
            error = self.assertRaises(MalformedMessage, decode_message, data)
            self.assertIn(b"-32700", error.answer)
