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
    "dial": [b'{"name":"engine","engine":{"url":"wss://\xe9"}}'],
    "join_code": [b"000000007999999-guitar-volcano"],
    "proxy_header": [b"PROXY TCP6 fe80::1%eth0 2001:db8::1 4711 443\r\n"],
    "forwarded_for": [b"2001:db8::9%eth0", b"198.51.100.1:" + b"1" * 5000],
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
