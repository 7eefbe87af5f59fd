"""SSH's binary packets, octet by octet."""

from __future__ import annotations

import os
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.ssh.ciphers import (
    CIPHERS,
    MACS,
    MAX_PACKET_LENGTH,
    Keys,
    PacketError,
    Plain,
    opener,
    sealer,
)

ALGORITHMS = [(cipher, mac) for cipher in CIPHERS for mac in MACS]


def keys() -> Keys:
    return Keys(os.urandom(64), os.urandom(64), os.urandom(64))


class RoundTripTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(
        st.sampled_from(ALGORITHMS),
        st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5),
        st.data(),
    )
    def test_packets_come_out_as_they_went_in_however_they_are_split(
        self, algorithms, payloads, data
    ):
        material = keys()
        seal, open_ = sealer(*algorithms, material), opener(*algorithms, material)
        stream = b"".join(seal.seal(number, payload) for number, payload in enumerate(payloads))
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
        received, opened = bytearray(), []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            received += stream[start:end]
            while (payload := open_.open(len(opened), received)) is not None:
                opened.append(payload)
        self.assertEqual(opened, payloads)
        self.assertEqual(received, b"")

    def test_one_octet_at_a_time_is_enough(self):
        for algorithms in ALGORITHMS:
            material = keys()
            packet = sealer(*algorithms, material).seal(7, b"payload")
            open_, received = opener(*algorithms, material), bytearray()
            for octet in packet[:-1]:
                received.append(octet)
                self.assertIsNone(open_.open(7, received))
            received.append(packet[-1])
            self.assertEqual(open_.open(7, received), b"payload")

    def test_plain_packets_are_built_as_rfc_4253_has_it(self):
        packet = Plain().seal(0, b"\x15")
        length, padding = struct.unpack(">IB", packet[:5])
        self.assertEqual(len(packet), 4 + length)
        self.assertEqual(len(packet) % 8, 0)
        self.assertGreaterEqual(padding, 4)
        self.assertEqual(Plain().open(0, bytearray(packet)), b"\x15")


class TamperingTests(SynchronousTestCase):
    def test_no_bit_of_a_packet_can_be_changed(self):
        for algorithms in ALGORITHMS:
            material = keys()
            packet = sealer(*algorithms, material).seal(3, b"payload")
            for position in range(len(packet)):
                changed = bytearray(packet)
                changed[position] ^= 1
                # A changed length may make it wait for more: that is not genuine either.
                with self.subTest(algorithms=algorithms, position=position):
                    try:
                        payload = opener(*algorithms, material).open(3, changed)
                    except PacketError:
                        continue
                    self.assertIsNone(payload)

    def test_a_packet_cannot_be_repeated(self):
        for algorithms in ALGORITHMS:
            material = keys()
            packet = sealer(*algorithms, material).seal(0, b"payload")
            open_ = opener(*algorithms, material)
            self.assertEqual(open_.open(0, bytearray(packet)), b"payload")
            # With the length encrypted, a repetition decrypts to a length out of thin air.
            try:
                payload = open_.open(1, bytearray(packet))
            except PacketError:
                continue
            self.assertIsNone(payload)

    def test_an_oversized_packet_is_refused_by_its_length_alone(self):
        field = bytearray(struct.pack(">I", MAX_PACKET_LENGTH + 16))
        self.assertRaises(PacketError, Plain().open, 0, field)
        gcm = opener("aes128-gcm@openssh.com", "hmac-sha2-256", keys())
        self.assertRaises(PacketError, gcm.open, 0, field)

    def test_wrong_padding_is_refused(self):
        for padding in (0, 3, 11, 12, 255):
            packet = struct.pack(">IB", 12, padding) + bytes(11)
            self.assertRaises(PacketError, Plain().open, 0, bytearray(packet))

    def test_garbage_is_refused(self):
        self.assertRaises(PacketError, Plain().open, 0, bytearray(b"HTTP/1.1 400 Bad Request\r\n"))
