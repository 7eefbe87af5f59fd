"""The *ready* message: the acceptor's first protected octets, whatever the mechanism.

An initiator is authenticated only when it has read it: in TLS 1.3 a client finishes its
handshake before the server has judged its certificate, so a finished handshake says
nothing about being accepted.  *Ready* names both ends and the mechanism as the acceptor
sees them, so that a difference of opinion ends the connection.
"""

from __future__ import annotations

import datetime
import struct
from dataclasses import dataclass

from pkengine.auth.fields import decode_fields, encode_fields, frame
from pkengine.errors import AuthenticationError

VERSION = 1

_LABEL = b"pkengine ready"
_MILLISECONDS = struct.Struct("!Q")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True, slots=True)
class Ready:
    """What the acceptor says when it has authenticated the initiator.

    Attributes:
        mechanism: the name of the mechanism that was used.
        acceptor: the identity of the end that sends this; under ``pin`` the text form of
            its pin.
        initiator: the identity of the end that it has authenticated.
        time: the acceptor's clock, to the millisecond, with a time zone.
    """

    mechanism: str
    acceptor: str
    initiator: str
    time: datetime.datetime

    def encode(self) -> bytes:
        """Give the message with its length in front."""
        milliseconds = (self.time - _EPOCH) // datetime.timedelta(milliseconds=1)
        return frame(
            encode_fields(
                _LABEL,
                bytes([VERSION]),
                self.mechanism.encode("ascii"),
                self.acceptor.encode("utf-8"),
                self.initiator.encode("utf-8"),
                _MILLISECONDS.pack(milliseconds),
            )
        )

    @classmethod
    def decode(cls, message: bytes) -> Ready:
        """Read the message, without its length.

        Raises:
            AuthenticationError: it is no *ready* of this version.
        """
        label, version, mechanism, acceptor, initiator, time = decode_fields(message, 6)
        if label != _LABEL or version != bytes([VERSION]):
            raise AuthenticationError(
                "The acceptor's first message is not 'ready' of version "
                f"{VERSION}: the other end may be of another version, or no pkengine peer."
            )
        try:
            (milliseconds,) = _MILLISECONDS.unpack(time)
            return cls(
                mechanism.decode("ascii"),
                acceptor.decode("utf-8"),
                initiator.decode("utf-8"),
                _EPOCH + datetime.timedelta(milliseconds=milliseconds),
            )
        except (ValueError, OverflowError, struct.error) as error:
            raise AuthenticationError("A field of the 'ready' message is malformed.") from error

    def check(self, *, mechanism: str, acceptor: str, initiator: str) -> None:
        """Compare with what the initiator knows.

        Raises:
            AuthenticationError: the acceptor sees other ends or another mechanism.
        """
        seen = (self.mechanism, self.acceptor, self.initiator)
        if seen != (mechanism, acceptor, initiator):
            raise AuthenticationError(
                f"The acceptor is ready for {self.initiator} by mechanism "
                f"{self.mechanism!r} and calls itself {self.acceptor}: expected "
                f"{initiator}, {mechanism!r} and {acceptor}."
            )
