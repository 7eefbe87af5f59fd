"""What is said when a host joins: the form in which every version understands it."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pkengine.channel.join_verbs import HOST_JOIN, Joined, JoinRequest

REQUEST = JoinRequest("web7", "192.0.2.7", "wss://engine.example/pkengine/agent", "1.0")
ASKED = (
    b'{"name":"web7","address":"192.0.2.7","url":"wss://engine.example/pkengine/agent",'
    b'"version":"1.0"}'
)
JOINED = Joined("manager-1", "web7", is_approved=False)
ANSWERED = b'{"engine":"manager-1","hostName":"web7","isApproved":false}'


class Form(SynchronousTestCase):
    def test_it_never_changes(self) -> None:
        self.assertEqual(HOST_JOIN, "Host.join")
        self.assertEqual(msgspec.json.encode(REQUEST), ASKED)
        self.assertEqual(msgspec.json.encode(JOINED), ANSWERED)
        self.assertEqual(msgspec.json.decode(ASKED, type=JoinRequest), REQUEST)
        self.assertEqual(msgspec.json.decode(ANSWERED, type=Joined), JOINED)

    def test_what_a_newer_version_says_besides_is_ignored(self) -> None:
        asked = ASKED[:-1] + b',"color":"blue"}'
        self.assertEqual(msgspec.json.decode(asked, type=JoinRequest), REQUEST)

    def test_what_is_missing_or_of_another_type_is_refused(self) -> None:
        for octets in (b"{}", b"null", ASKED.replace(b'"1.0"', b"1"), ANSWERED):
            with self.assertRaises(msgspec.ValidationError):
                msgspec.json.decode(octets, type=JoinRequest)
