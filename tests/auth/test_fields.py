"""Fields, messages and *ready*."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.fields import MAX_MESSAGE, MessageReader, decode_fields, encode_fields, frame
from pkengine.auth.ready import Ready
from pkengine.errors import AuthenticationError
from pkengine.keys import Pin

FIELDS = st.lists(st.binary(max_size=40), max_size=6)
NOW = datetime.datetime(2026, 5, 4, 3, 2, 1, 250000, tzinfo=datetime.timezone.utc)
READY = Ready("pin", "sha256//acceptor", "sha256//initiator", NOW)


class Fields(SynchronousTestCase):
    @given(FIELDS)
    def test_fields_survive_encoding(self, fields: list[bytes]) -> None:
        self.assertEqual(decode_fields(encode_fields(*fields), len(fields)), fields)

    @given(FIELDS, FIELDS)
    def test_different_fields_never_encode_alike(
        self, ones: list[bytes], others: list[bytes]
    ) -> None:
        self.assertEqual(encode_fields(*ones) == encode_fields(*others), ones == others)

    @given(FIELDS, st.integers(0, 8))
    def test_another_number_of_fields_is_refused(self, fields: list[bytes], count: int) -> None:
        if count != len(fields):
            with self.assertRaises(AuthenticationError):
                decode_fields(encode_fields(*fields), count)

    @given(st.lists(st.binary(max_size=9), min_size=1, max_size=4))
    def test_every_truncation_is_refused(self, fields: list[bytes]) -> None:
        message = encode_fields(*fields)
        for length in range(len(message)):
            with self.assertRaises(AuthenticationError):
                decode_fields(message[:length], len(fields))

    @given(st.binary(max_size=200), st.integers(0, 6))
    def test_any_octets_are_fields_or_refused(self, message: bytes, count: int) -> None:
        try:
            fields = decode_fields(message, count)
        except AuthenticationError:
            return
        self.assertEqual(encode_fields(*fields), message)


class Messages(SynchronousTestCase):
    @given(st.binary(max_size=300), st.binary(max_size=30), st.integers(1, 400))
    def test_a_message_is_found_however_it_is_split(
        self, message: bytes, behind: bytes, size: int
    ) -> None:
        reader, found, stream = MessageReader(), None, frame(message) + behind
        for at in range(0, len(stream), size):
            found = reader.feed(stream[at : at + size])
            if found is not None:
                rest = reader.rest() + stream[at + size :]
                break
        self.assertEqual((found, rest), (message, behind))
        self.assertEqual(reader.rest(), b"")

    def test_a_message_over_the_limit_is_refused_by_its_length_alone(self) -> None:
        longest = frame(b"x" * MAX_MESSAGE)
        self.assertEqual(MessageReader().feed(longest), b"x" * MAX_MESSAGE)
        reader = MessageReader()
        self.assertIsNone(reader.feed(b"\x10"))
        with self.assertRaisesRegex(AuthenticationError, "4097 octets: at most 4096"):
            reader.feed(b"\x01")


class ReadyMessage(SynchronousTestCase):
    def encoded(self) -> bytes:
        message = MessageReader().feed(READY.encode())
        assert message is not None
        return message

    def test_it_survives_encoding(self) -> None:
        self.assertEqual(Ready.decode(self.encoded()), READY)

    def test_its_octets_are_those_of_the_protocol(self) -> None:
        expected = encode_fields(
            b"pkengine ready",
            b"\x01",
            b"pin",
            b"sha256//acceptor",
            b"sha256//initiator",
            int(NOW.timestamp() * 1000).to_bytes(8, "big"),
        )
        self.assertEqual(READY.encode(), frame(expected))

    def test_the_documented_example_is_what_is_sent(self) -> None:
        pages = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
        lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} )+)", pages, re.MULTILINE)
        documented = bytes.fromhex("".join(lines))
        acceptor, initiator = Pin(bytes(range(32))), Pin(bytes(range(32, 64)))
        self.assertEqual(Ready("pin", str(acceptor), str(initiator), NOW).encode(), documented)

    def test_every_truncation_is_refused(self) -> None:
        message = self.encoded()
        for length in range(len(message)):
            with self.assertRaises(AuthenticationError):
                Ready.decode(message[:length])

    def test_another_version_is_refused_as_such(self) -> None:
        fields = decode_fields(self.encoded(), 6)
        fields[1] = b"\x02"
        with self.assertRaisesRegex(AuthenticationError, "version 1"):
            Ready.decode(encode_fields(*fields))

    def test_malformed_fields_are_refused(self) -> None:
        for at, field in ((2, b"\xff"), (3, b"\xff"), (4, b"\xff"), (5, b"\xff" * 8), (5, b"")):
            fields = decode_fields(self.encoded(), 6)
            fields[at] = field
            with self.assertRaisesRegex(AuthenticationError, "malformed"):
                Ready.decode(encode_fields(*fields))

    def test_every_difference_of_opinion_is_noticed(self) -> None:
        same = {
            "mechanism": "pin",
            "acceptor": "sha256//acceptor",
            "initiator": "sha256//initiator",
        }
        READY.check(**same)
        for name in same:
            with self.assertRaises(AuthenticationError):
                READY.check(**{**same, name: "other"})
