"""Records with a MAC, for a connection whose TLS ends at a proxy.

Theory of operation
===================

A mechanism with a session key leaves two keys, one for each direction.  From then on each
record is::

    length of payload, 4 octets | type, 1 octet | payload | MAC, 32 octets

and the MAC is HMAC-SHA256 over ``sequence (8) | type (1) | length (4) | payload``.  The
sequence is never sent: both ends count.  So a proxy in between reads, but whatever it
injects, drops, repeats, reorders, reflects, or takes from another connection has a MAC that
is wrong where it arrives; the first wrong record ends the connection.  Octets are given to
the application only after the MAC of their record was right.

======== ===== =====================================================================
type     value meaning
======== ===== =====================================================================
DATA     1     application octets
CLOSE    2     the sender sends no more; without it, the end of a stream is a cut
REKEY    3     the sender's next record is under ``derive(key, "rekey")``, sequence 0
======== ===== =====================================================================
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from zope.interface import implementer

from pkengine.auth.key_schedule import KEY_SIZE, PROTOCOL
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IProtection

_HEADER = struct.Struct(">IB")
_MAC_PREFIX = struct.Struct(">QBI")
_MAC_SIZE = 32

#: The largest payload of a record; longer data becomes several records.
MAX_PAYLOAD = 64 * 1024
#: A key serves no more records than this, and no longer than this.
MAX_RECORDS = 2**32
MAX_KEY_AGE_S = 24 * 3600.0

_DATA, _CLOSE, _REKEY = 1, 2, 3


class _Direction:
    """The key and the sequence number of one direction."""

    __slots__ = ("key", "sequence")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.sequence = 0

    def mac(self, kind: int, payload: bytes) -> bytes:
        """Make the MAC of the next record."""
        prefix = _MAC_PREFIX.pack(self.sequence, kind, len(payload))
        self.sequence += 1
        return hmac.digest(self.key, prefix + payload, "sha256")

    def rekey(self) -> None:
        self.key = HKDFExpand(hashes.SHA256(), KEY_SIZE, PROTOCOL + b"\0rekey").derive(self.key)
        self.sequence = 0


@implementer(IProtection)
class MacRecords:
    """The record protection of one connection.

    Args:
        send_key: bytes, 32 long, for what this end sends.
        receive_key: bytes, 32 long, for what the peer sends.
        clock: seconds that only go forward, for the age of a key.
    """

    __slots__ = ("_buffer", "_clock", "_is_broken", "_is_closing", "_key_since", "_receive",
                 "_send", "_unread", "is_closed")  # fmt: skip

    def __init__(
        self,
        send_key: bytes,
        receive_key: bytes,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._send = _Direction(send_key)
        self._receive = _Direction(receive_key)
        self._clock = clock
        self._key_since = clock()
        self._buffer = bytearray()
        self._unread = b""
        self._is_broken = False
        self._is_closing = False
        self.is_closed = False

    def seal(self, data: bytes) -> bytes:
        """Protect octets; give the records to send."""
        if self._is_closing:
            raise AuthenticationError("Nothing can be sent behind the record that closes.")
        if len(data) <= MAX_PAYLOAD:
            return self._record(_DATA, data) if data else b""
        return b"".join(
            self._record(_DATA, data[start : start + MAX_PAYLOAD])
            for start in range(0, len(data), MAX_PAYLOAD)
        )

    def close(self) -> bytes:
        """Give the record that tells the peer that nothing follows; the second time nothing."""
        if self._is_closing:
            return b""
        record = self._record(_CLOSE, b"")
        self._is_closing = True
        return record

    def pending(self) -> bytes:
        """Give nothing: there is no alert."""
        return b""

    def unread(self, data: bytes) -> None:
        """Put application octets back; the next `open` gives them first."""
        self._unread = data + self._unread

    def rekey(self) -> bytes:
        """Change the key for sending; give the record that tells the peer."""
        record = self._mac_record(_REKEY, b"")
        self._send.rekey()
        self._key_since = self._clock()
        return record

    def open(self, data: bytes) -> bytes:
        """Take octets from the peer; give the payloads whose MAC was right.

        Raises:
            AuthenticationError: a record is wrong, too large, of an unknown type or behind
                the one that closes; from then on every call raises.
        """
        if self._is_broken:
            raise AuthenticationError("A record was wrong before, so nothing more is read.")
        buffer = self._buffer
        buffer += data
        payloads = [self._unread] if self._unread else []
        self._unread = b""
        position = 0
        try:
            while len(buffer) - position >= _HEADER.size:
                length, kind = _HEADER.unpack_from(buffer, position)
                if length > MAX_PAYLOAD:
                    raise AuthenticationError(
                        f"A record announces {length} octets; at most {MAX_PAYLOAD} are allowed."
                    )
                end = position + _HEADER.size + length + _MAC_SIZE
                if len(buffer) < end:
                    break
                body = bytes(buffer[position + _HEADER.size : end])
                self._accept(kind, body[:length], body[length:], payloads)
                position = end
            if self.is_closed and len(buffer) > position:
                raise AuthenticationError("Octets arrived behind the record that closes.")
        except AuthenticationError:
            self._is_broken = True
            raise
        del buffer[:position]
        return b"".join(payloads)

    def _accept(self, kind: int, payload: bytes, mac: bytes, payloads: list[bytes]) -> None:
        sequence = self._receive.sequence
        if self.is_closed:
            raise AuthenticationError("A record arrived behind the one that closes.")
        if sequence >= MAX_RECORDS:
            raise AuthenticationError("The peer used one key for too many records.")
        if not hmac.compare_digest(self._receive.mac(kind, payload), mac):
            raise AuthenticationError(f"The MAC of record {sequence} is wrong.")
        if kind == _DATA and payload:
            payloads.append(payload)
        elif kind == _CLOSE and not payload:
            self.is_closed = True
        elif kind == _REKEY and not payload:
            self._receive.rekey()
        else:
            raise AuthenticationError(f"Record {sequence} has an unknown or misused type {kind}.")

    def _record(self, kind: int, payload: bytes) -> bytes:
        # The last sequence number of a key is kept for the record that changes the key.
        is_due = (
            self._send.sequence >= MAX_RECORDS - 1
            or self._clock() - self._key_since >= MAX_KEY_AGE_S
        )
        record = self.rekey() if is_due else b""
        return record + self._mac_record(kind, payload)

    def _mac_record(self, kind: int, payload: bytes) -> bytes:
        return _HEADER.pack(len(payload), kind) + payload + self._send.mac(kind, payload)
