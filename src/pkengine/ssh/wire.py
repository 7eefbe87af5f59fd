"""The data types of SSH messages (RFC 4251 §5)."""

from __future__ import annotations

import struct
from collections.abc import Iterable


class MalformedMessage(ValueError):
    """A message from the server is not built as the protocol says."""


def string(value: bytes) -> bytes:
    """Write a ``string``: its length, then the octets."""
    return struct.pack(">I", len(value)) + value


def mpint(value: int) -> bytes:
    """Write an ``mpint`` that is not negative."""
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")


def name_list(names: Iterable[str]) -> bytes:
    """Write a ``name-list``."""
    return string(",".join(names).encode("ascii"))


class Reader:
    """Reads the fields of one message, front to back.

    Every method raises `MalformedMessage` where the message is too short.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0

    def octets(self, count: int) -> bytes:
        """Read so many octets as they are."""
        end = self._at + count
        if end > len(self._message):
            raise MalformedMessage("a message ends before its last field")
        octets, self._at = self._message[self._at : end], end
        return octets

    @property
    def rest(self) -> bytes:
        """What was not read yet."""
        return self._message[self._at :]

    def boolean(self) -> bool:
        """Read a ``boolean``."""
        return self.octets(1) != b"\0"

    def uint32(self) -> int:
        """Read a ``uint32``."""
        return int.from_bytes(self.octets(4), "big")

    def string(self) -> bytes:
        """Read a ``string``, or an ``mpint`` in its wire form."""
        message, begin = self._message, self._at + 4
        end = begin + int.from_bytes(message[self._at : begin], "big")
        if end > len(message):
            raise MalformedMessage("a message ends before its last field")
        self._at = end
        return message[begin:end]

    def name_list(self) -> list[str]:
        """Read a ``name-list``."""
        text = self.string().decode("ascii", "replace")
        return text.split(",") if text else []


def readable(text: bytes | str, limit: int = 300) -> str:
    """Make what a server wrote fit for a sentence: one line, printable, not too long."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "replace")
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
