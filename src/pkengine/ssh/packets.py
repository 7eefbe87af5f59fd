"""The octets of an SSH connection below its messages: a version string, then packets; no IO.

Each direction has its protection and a sequence number, which no packet carries but which its
MAC covers (RFC 4253 §6).  New keys replace the protection, and with strict key exchange they
also start the sequence anew (OpenSSH's PROTOCOL, section 1.10).
"""

from __future__ import annotations

from pkengine.ssh.ciphers import Opener, Plain, Sealer
from pkengine.ssh.version import VersionReader

_SEQUENCE_MASK = 0xFFFF_FFFF


class PacketStream:
    """Both directions of one connection.

    Attributes:
        octets: how many were carried in both directions since the last change of the key that
            opens.
        opened: the sequence number of the packet that comes next.
    """

    def __init__(self) -> None:
        self.octets = 0
        self.opened = 0
        self._sealed = 0
        self._sealer: Sealer = Plain()
        self._opener: Opener = Plain()
        self._version = VersionReader()
        self._received = bytearray()

    def receive(self, data: bytes) -> None:
        """Take octets from the network; `version` and `open` make something of them."""
        self._received += data

    def version(self) -> bytes | None:
        """Give the host's version string, which comes first, or None where it is still to come.

        Raises:
            MalformedMessage: there is none.
        """
        return self._version.read(self._received)

    def open(self) -> bytes | None:
        """Give the payload of the next packet, or None where more octets are needed.

        Raises:
            PacketError: it is not genuine or not well formed.
        """
        payload = self._opener.open(self.opened, self._received)
        if payload is not None:
            self.octets += len(payload)
            self.opened = (self.opened + 1) & _SEQUENCE_MASK
        return payload

    def seal(self, *payload: bytes) -> bytes:
        """Give the packet around a payload, which may come in parts."""
        packet = self._sealer.seal(self._sealed, *payload)
        self.octets += len(packet)
        self._sealed = (self._sealed + 1) & _SEQUENCE_MASK
        return packet

    def seal_with(self, sealer: Sealer, *, is_strict: bool) -> None:
        """Protect by this from the next packet on."""
        self._sealer = sealer
        if is_strict:
            self._sealed = 0

    def open_with(self, opener: Opener, *, is_strict: bool) -> None:
        """Expect this protection from the next packet on."""
        self._opener = opener
        self.octets = 0
        if is_strict:
            self.opened = 0
