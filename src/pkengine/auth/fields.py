"""Length-prefixed fields, of which every message of an authentication is made.

A *field* is a 16-bit length in network byte order and that many octets.  A *message* is a
fixed number of fields; on a byte stream a 16-bit length stands in front of it.  Because
each field carries its length, two different lists of fields never encode to the same
octets.
"""

from __future__ import annotations

import struct

from pkengine.errors import AuthenticationError

_LENGTH = struct.Struct("!H")

#: No message of any mechanism comes near this.
MAX_MESSAGE = 4096


def encode_fields(*fields: bytes) -> bytes:
    """Put fields behind each other, each with its length in front."""
    return b"".join(part for field in fields for part in (_LENGTH.pack(len(field)), field))


def decode_fields(message: bytes, count: int) -> list[bytes]:
    """Take a message apart.

    Raises:
        AuthenticationError: it is not exactly that many fields.
    """
    fields: list[bytes] = []
    offset = 0
    while offset < len(message):
        if len(fields) == count or len(message) - offset < _LENGTH.size:
            break
        (length,) = _LENGTH.unpack_from(message, offset)
        offset += _LENGTH.size + length
        fields.append(message[offset - length : offset])
    if len(fields) != count or offset != len(message):
        raise AuthenticationError(
            f"A message of authentication is malformed: expected {count} fields and "
            f"nothing more in its {len(message)} octets."
        )
    return fields


def frame(message: bytes) -> bytes:
    """Put the length of a message in front of it, for a byte stream."""
    return _LENGTH.pack(len(message)) + message


class MessageReader:
    """Finds messages in a byte stream that comes in pieces of any size."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take octets; give the next whole message, or None while it is not whole.

        Raises:
            AuthenticationError: the message says that it is longer than any may be.
        """
        self._buffer += data
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise AuthenticationError(
                f"A message of authentication has {length} octets: at most {MAX_MESSAGE} "
                "are expected."
            )
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        message, self._buffer = self._buffer[_LENGTH.size : end], self._buffer[end:]
        return message

    def rest(self) -> bytes:
        """Give, once, what came behind the last message."""
        rest, self._buffer = self._buffer, b""
        return rest
