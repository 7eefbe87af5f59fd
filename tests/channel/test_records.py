"""Records on a byte stream."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.channel.jsonrpc import encode_request
from pkengine.channel.records import JSONRPC, MAX_PAYLOAD, PING, RecordReader, encode_record
from pkengine.errors import ProtocolViolation

RECORDS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=200)), max_size=8)


class Records(SynchronousTestCase):
    @given(RECORDS, st.integers(1, 500))
    def test_records_are_found_however_the_stream_is_split(
        self, records: list[tuple[int, bytes]], size: int
    ) -> None:
        stream = b"".join(encode_record(*record) for record in records)
        reader, found = RecordReader(), []
        for at in range(0, len(stream), size):
            found += reader.feed(stream[at : at + size])
        self.assertEqual(found, records)

    @given(RECORDS.filter(bool))
    def test_a_truncated_record_is_never_given(self, records: list[tuple[int, bytes]]) -> None:
        stream = b"".join(encode_record(*record) for record in records)
        self.assertEqual(list(RecordReader().feed(stream[:-1])), records[:-1])

    @given(st.binary(max_size=300))
    def test_any_octets_are_records_or_a_violation_or_waited_on(self, data: bytes) -> None:
        try:
            records = list(RecordReader().feed(data))
        except ProtocolViolation:
            return
        encoded = b"".join(encode_record(*record) for record in records)
        self.assertTrue(data.startswith(encoded))

    def test_the_header_is_that_of_the_protocol(self) -> None:
        self.assertEqual(encode_record(JSONRPC, b"{}"), b"\x00\x00\x00\x02\x01{}")
        self.assertEqual(encode_record(PING, b""), b"\x00\x00\x00\x00\x02")

    def test_the_documented_example_is_what_is_sent(self) -> None:
        pages = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
        example = re.search(r"^((?:[0-9a-f]{2} ){5})(\{.*\})$", pages, re.MULTILINE)
        assert example is not None
        record = encode_record(JSONRPC, encode_request(1, "Host.ping2", {}))
        self.assertEqual(record, bytes.fromhex(example[1]) + example[2].encode())

    def test_a_record_over_the_limit_is_refused_by_its_header_alone(self) -> None:
        reader = RecordReader()
        self.assertEqual(list(reader.feed(b"\x00\x10\x00")), [])
        with self.assertRaisesRegex(ProtocolViolation, "1048577 octets came: at most 1048576"):
            list(reader.feed(b"\x01\x01"))

    def test_what_came_before_a_violation_is_given_first(self) -> None:
        found = []
        with self.assertRaises(ProtocolViolation):
            for record in RecordReader(10).feed(
                encode_record(1, b"good") + encode_record(1, b"x" * 11)
            ):
                found.append(record)
        self.assertEqual(found, [(1, b"good")])

    def test_the_longest_record_in_the_smallest_pieces_costs_no_more_than_its_length(self) -> None:
        # A reader that copies what it has for each piece would handle 34 GB here.
        payload = b"x" * MAX_PAYLOAD
        stream = encode_record(JSONRPC, payload)
        reader, found = RecordReader(), []
        for at in range(0, len(stream), 16):
            found += reader.feed(stream[at : at + 16])
        self.assertEqual(found, [(JSONRPC, payload)])

    def test_nothing_is_kept_between_whole_records(self) -> None:
        reader = RecordReader()
        list(reader.feed(encode_record(1, b"abc")))
        self.assertIsNone(reader._kept)
