"""Records with a MAC: what a proxy in between can do to them is noticed."""

from __future__ import annotations

import hmac
import struct
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pkengine.auth import mac_records
from pkengine.auth.mac_records import MAX_KEY_AGE_S, MAX_PAYLOAD, MacRecords
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IProtection

A, B = b"a" * 32, b"b" * 32


def pair(clock: Clock | None = None) -> tuple[MacRecords, MacRecords]:
    now = (clock or Clock()).seconds
    return MacRecords(A, B, clock=now), MacRecords(B, A, clock=now)


class RoundTrip(SynchronousTestCase):
    def test_provides_the_interface(self) -> None:
        verifyObject(IProtection, pair()[0])

    @given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 40))
    def test_data_arrives_whole_however_the_stream_is_split(
        self, chunks: list[bytes], step: int
    ) -> None:
        us, them = pair()
        wire = b"".join(map(us.seal, chunks))
        received = b"".join(them.open(wire[i : i + step]) for i in range(0, len(wire), step))
        self.assertEqual(received, b"".join(chunks))

    def test_data_larger_than_a_record_becomes_several(self) -> None:
        us, them = pair()
        data = b"x" * (2 * MAX_PAYLOAD + 1)
        wire = us.seal(data)
        self.assertEqual(len(wire), len(data) + 3 * 37)
        self.assertEqual(them.open(wire), data)

    def test_nothing_becomes_no_record(self) -> None:
        self.assertEqual(pair()[0].seal(b""), b"")

    def test_the_directions_are_independent(self) -> None:
        us, them = pair()
        self.assertEqual(them.open(us.seal(b"one") + us.seal(b"two")), b"onetwo")
        self.assertEqual(us.open(them.seal(b"three")), b"three")

    def test_octets_that_are_put_back_are_given_first(self) -> None:
        us, them = pair()
        them.unread(b"two")
        them.unread(b"one")
        self.assertEqual(them.open(us.seal(b"three")), b"onetwothree")
        self.assertEqual(them.open(us.seal(b"four")), b"four")

    def test_there_is_never_an_alert(self) -> None:
        self.assertEqual(pair()[0].pending(), b"")

    def test_a_record_is_what_the_documentation_says(self) -> None:
        us, _ = pair()
        us.seal(b"first")
        mac = hmac.digest(A, struct.pack(">QBI", 1, 1, 2) + b"hi", "sha256")
        self.assertEqual(us.seal(b"hi"), b"\0\0\0\2\1hi" + mac)


class Closing(SynchronousTestCase):
    def test_the_end_is_proved(self) -> None:
        us, them = pair()
        wire = us.seal(b"bye") + us.close()
        self.assertFalse(them.is_closed)
        self.assertEqual(them.open(wire), b"bye")
        self.assertTrue(them.is_closed)

    def test_closing_twice_sends_one_record(self) -> None:
        us, _ = pair()
        us.close()
        self.assertEqual(us.close(), b"")

    def test_nothing_is_sent_behind_the_end(self) -> None:
        us, _ = pair()
        us.close()
        with self.assertRaises(AuthenticationError):
            us.seal(b"more")

    def test_anything_behind_the_end_is_refused(self) -> None:
        for extra in (b"\0", b"\0\0\0\0\1" + bytes(32)):
            us, them = pair()
            with self.assertRaises(AuthenticationError):
                them.open(us.close() + extra)
            us, them = pair()
            them.open(us.close())
            with self.assertRaises(AuthenticationError):
                them.open(extra)

    def test_a_stream_cut_at_any_octet_is_not_a_proved_end(self) -> None:
        us, _ = pair()
        wire = us.seal(b"data") + us.close()
        for length in range(len(wire)):
            _, them = pair()
            them.open(wire[:length])
            self.assertFalse(them.is_closed)


class HostileProxy(SynchronousTestCase):
    """A proxy that sees every record and may do to the stream what it wants."""

    def records(self, count: int = 3) -> list[bytes]:
        us, _ = pair()
        return [us.seal(b"record %d" % i) for i in range(count)]

    def refused(self, wire: bytes) -> None:
        _, them = pair()
        with self.assertRaises(AuthenticationError):
            them.open(wire)
        with self.assertRaises(AuthenticationError):  # and it stays so
            them.open(b"")

    def test_an_injected_record_is_refused(self) -> None:
        one, two, _ = self.records()
        self.refused(one + b"\0\0\0\2\1hi" + bytes(32) + two)

    def test_a_dropped_record_is_refused(self) -> None:
        one, _, three = self.records()
        self.refused(one + three)

    def test_a_repeated_record_is_refused(self) -> None:
        one, _, _ = self.records()
        self.refused(one + one)

    def test_records_in_another_order_are_refused(self) -> None:
        one, two, _ = self.records()
        self.refused(two + one)

    def test_a_reflected_record_is_refused(self) -> None:
        us, them = pair()
        with self.assertRaises(AuthenticationError):
            us.open(us.seal(b"mine"))
        with self.assertRaises(AuthenticationError):
            them.open(them.seal(b"mine"))

    def test_a_record_of_another_connection_is_refused(self) -> None:
        other = MacRecords(b"c" * 32, B, clock=Clock().seconds)
        self.refused(other.seal(b"record 0"))

    def test_every_flipped_bit_is_refused_or_waits_for_octets_that_never_come(self) -> None:
        wire = self.records(1)[0]
        for bit in range(8 * len(wire)):
            changed = bytearray(wire)
            changed[bit // 8] ^= 1 << bit % 8
            _, them = pair()
            try:
                given = them.open(bytes(changed))
            except AuthenticationError:
                continue
            self.assertEqual(given, b"")
            self.assertLess(bit, 32, "only a changed length can leave the record incomplete")

    def test_a_length_over_the_cap_is_refused_before_it_is_buffered(self) -> None:
        self.refused(struct.pack(">IB", MAX_PAYLOAD + 1, 1))

    def test_unknown_and_misused_types_are_refused_though_their_mac_is_right(self) -> None:
        for kind, payload in ((0, b""), (1, b""), (2, b"x"), (3, b"x"), (4, b""), (255, b"x")):
            us, _ = pair()
            self.refused(us._mac_record(kind, payload))

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=7))
    def test_only_a_prefix_of_what_was_sent_is_ever_delivered(self, order: list[int]) -> None:
        records = self.records(5)
        _, them = pair()
        delivered: list[bytes] = []
        try:
            for index in order:
                delivered.append(them.open(records[index]))
        except AuthenticationError:
            pass
        self.assertEqual(delivered, [b"record %d" % i for i in range(len(delivered))])


class Rekeying(SynchronousTestCase):
    def test_data_flows_on_under_the_new_key(self) -> None:
        us, them = pair()
        first = us.seal(b"same")
        wire = first + us.rekey()
        second = us.seal(b"same")
        self.assertNotEqual(first, second)
        self.assertEqual(them.open(wire + second), b"samesame")

    def test_a_record_from_before_is_refused_behind_it(self) -> None:
        us, them = pair()
        first = us.seal(b"same")
        them.open(first + us.rekey())
        with self.assertRaises(AuthenticationError):
            them.open(first)

    def test_a_key_is_changed_when_it_is_old(self) -> None:
        clock = Clock()
        us, them = pair(clock)
        short = len(us.seal(b"x"))
        us, them = pair(clock)
        clock.advance(MAX_KEY_AGE_S - 1)
        self.assertEqual(len(us.seal(b"x")), short)
        clock.advance(1)
        us, them = pair(clock)
        clock.advance(MAX_KEY_AGE_S)
        wire = us.seal(b"x")
        self.assertEqual(len(wire), short + 37)
        self.assertEqual(len(us.seal(b"x")), short)
        self.assertEqual(them.open(wire), b"x")

    def test_a_sequence_number_never_repeats_under_one_key(self) -> None:
        with mock.patch.object(mac_records, "MAX_RECORDS", 4):
            us, them = pair()
            wires = [us.seal(b"x") for _ in range(10)]
            self.assertEqual(len(set(wires)), 10)
            self.assertEqual(b"".join(map(them.open, wires)), b"x" * 10)

    def test_a_peer_that_never_changes_its_key_is_refused(self) -> None:
        us, them = pair()
        wires = [us.seal(b"x") for _ in range(5)]
        with mock.patch.object(mac_records, "MAX_RECORDS", 4):
            them.open(b"".join(wires[:4]))
            with self.assertRaises(AuthenticationError):
                them.open(wires[4])
