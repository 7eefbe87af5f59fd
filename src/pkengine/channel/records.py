"""Records: whole messages on an authenticated byte stream, without IO.

A record is a header of five octets, which is the length of the payload (uint32 in network
byte order) and a type (uint8), and the payload.  A length above the limit is refused when
the header is read, before any of the payload is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pkengine.errors import ProtocolViolation

HEADER = struct.Struct("!IB")

#: The types of records; 16 and above are kept for streams.
JSONRPC = 1
PING = 2
PONG = 3

MAX_PAYLOAD = 1024 * 1024


def encode_record(record_type: int, payload: bytes) -> bytes:
    """Put the header in front of a payload."""
    return HEADER.pack(len(payload), record_type) + payload


class RecordReader:
    """Finds records in a byte stream that comes in pieces of any size.

    Args:
        max_payload: the longest payload that is taken, in octets.
    """

    __slots__ = ("_kept", "_max_payload", "_needed")

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        #: The beginning of a record that is not whole, and how long it must get.
        self._kept: bytearray | None = None
        self._needed = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take octets; give the type and payload of each record that is whole now.

        Raises:
            ProtocolViolation: a record is longer than is taken.
        """
        if self._kept is not None:
            self._kept += data
            if len(self._kept) < self._needed:
                return
            data = bytes(self._kept)
            self._kept = None
        start, end = 0, len(data)
        while True:
            after = start + HEADER.size
            if after <= end:
                length, record_type = HEADER.unpack_from(data, start)
                if length > self._max_payload:
                    raise ProtocolViolation(
                        f"A record of {length} octets came: at most {self._max_payload} are taken."
                    )
                after += length
            if after > end:
                break
            yield record_type, data[after - length : after]
            start = after
        if start < end:
            self._kept = bytearray(data[start:])
            self._needed = after - start
