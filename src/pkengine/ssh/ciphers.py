"""Protect SSH's binary packets (RFC 4253 §6), one object for each direction and key.

A *sealer* turns a payload into the octets of a packet; an *opener* takes one packet off the
front of what was received.  There are four constructions:

* AES-GCM (RFC 5647, with OpenSSH's negotiation): the packet length is authenticated but not
  encrypted, the MAC that was negotiated is not used;
* ChaCha20 and Poly1305 (OpenSSH's PROTOCOL.chacha20poly1305): the length is encrypted with a
  key of its own, no MAC is negotiated either;
* encrypt-then-MAC (OpenSSH's ``…-etm@openssh.com``): the same, with AES-CTR and HMAC;
* encrypt-and-MAC (RFC 4253): the length is encrypted too, and the MAC covers the plaintext.

The primitives are those of `cryptography` and of the standard library.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305

#: The longest packet that is accepted, as in OpenSSH; RFC 4253 §6.1 asks for 35000.
MAX_PACKET_LENGTH = 256 * 1024

_BLOCK = 16
_TAG = 16
_CHACHA_BLOCK = 64
_MIN_PADDING = 4
_ETM = "-etm@openssh.com"

#: Length in octets of the key material of each cipher, the most wanted first.
CIPHERS = {
    "aes128-gcm@openssh.com": 16,
    "aes256-gcm@openssh.com": 32,
    "chacha20-poly1305@openssh.com": 64,
    "aes128-ctr": 16,
    "aes192-ctr": 24,
    "aes256-ctr": 32,
}

#: The ciphers that authenticate what they encrypt, so that no MAC is negotiated beside them.
AEAD_CIPHERS = frozenset(cipher for cipher in CIPHERS if not cipher.endswith("-ctr"))

#: Hash and digest length in octets of each MAC, the most wanted first.
MACS = {
    "hmac-sha2-256-etm@openssh.com": ("sha256", 32),
    "hmac-sha2-512-etm@openssh.com": ("sha512", 64),
    "hmac-sha2-256": ("sha256", 32),
    "hmac-sha2-512": ("sha512", 64),
}


class PacketError(ValueError):
    """A packet was changed on its way, or is no SSH packet."""


class Keys(NamedTuple):
    """The key material for one direction (RFC 4253 §7.2); each item is longer than needed."""

    iv: bytes
    encryption: bytes
    integrity: bytes


class Sealer(Protocol):
    """Makes packets."""

    def seal(self, sequence: int, *payload: bytes) -> bytes:
        """Make the packet with that sequence number around a payload, given in parts."""


class Opener(Protocol):
    """Takes packets apart."""

    def open(self, sequence: int, received: bytearray) -> bytes | None:
        """Take one packet off the front of what was received and give its payload.

        Returns:
            None where more octets are needed.

        Raises:
            PacketError: the packet is not genuine or not well formed.
        """


def sealer(cipher: str, mac: str, keys: Keys) -> Sealer:
    """Make the sealer for a negotiated pair of algorithms.

    Args:
        cipher: one of `CIPHERS`.
        mac: one of `MACS`; not looked at for an AEAD cipher.
        keys: the material for this direction.
    """
    return _construction(cipher, mac, keys)


def opener(cipher: str, mac: str, keys: Keys) -> Opener:
    """Make the opener for a negotiated pair of algorithms, as `sealer`."""
    return _construction(cipher, mac, keys)


def _construction(
    cipher: str, mac: str, keys: Keys
) -> _Gcm | _ChaCha20Poly1305 | _EncryptThenMac | _EncryptAndMac:
    if "-gcm@" in cipher:
        return _Gcm(cipher, keys)
    if cipher in AEAD_CIPHERS:
        return _ChaCha20Poly1305(keys)
    return (_EncryptThenMac if mac.endswith(_ETM) else _EncryptAndMac)(cipher, mac, keys)


def _padded(*payload: bytes, uncovered: int, block: int = _BLOCK) -> bytes:
    """Give padding length, payload and padding.

    Args:
        payload: what the packet carries, in parts.
        uncovered: how many octets of the length field count towards the block size.
        block: what the length of the packet must be a multiple of.
    """
    padding = block - (uncovered + 1 + sum(map(len, payload))) % block
    if padding < _MIN_PADDING:
        padding += block
    return b"".join((bytes((padding,)), *payload, os.urandom(padding)))


def _payload(body: bytes) -> bytes:
    """Give the payload of a packet whose length field was cut off."""
    padding = body[0]
    if padding < _MIN_PADDING or padding > len(body) - 2:
        raise PacketError("a packet has wrong padding")
    return body[1:-padding]


def _checked_length(field: bytes | bytearray, *, block: int, uncovered: int) -> int:
    (length,) = struct.unpack(">I", field)
    if not 5 < length <= MAX_PACKET_LENGTH or (length + uncovered) % block:
        raise PacketError(f"a packet claims to be {length} octets long")
    return int(length)


class Plain:
    """No protection, as it is before the first key exchange."""

    block = 8

    def seal(self, sequence: int, *payload: bytes) -> bytes:
        """See `Sealer`."""
        body = _padded(*payload, uncovered=4, block=self.block)
        return struct.pack(">I", len(body)) + body

    def open(self, sequence: int, received: bytearray) -> bytes | None:
        """See `Opener`."""
        if len(received) < 4:
            return None
        length = _checked_length(received[:4], block=self.block, uncovered=4)
        if len(received) < 4 + length:
            return None
        body = bytes(received[4 : 4 + length])
        del received[: 4 + length]
        return _payload(body)


class _Gcm:
    """AES-GCM; the nonce is 4 fixed octets and a counter of invocations (RFC 5647 §7.1)."""

    def __init__(self, cipher: str, keys: Keys) -> None:
        self._aead = AESGCM(keys.encryption[: CIPHERS[cipher]])
        self._fixed = keys.iv[:4]
        self._invocation = int.from_bytes(keys.iv[4:12], "big")

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._invocation.to_bytes(8, "big")
        self._invocation = (self._invocation + 1) & 0xFFFF_FFFF_FFFF_FFFF
        return nonce

    def seal(self, sequence: int, *payload: bytes) -> bytes:
        body = _padded(*payload, uncovered=0)
        length = struct.pack(">I", len(body))
        return length + self._aead.encrypt(self._nonce(), body, length)

    def open(self, sequence: int, received: bytearray) -> bytes | None:
        if len(received) < 4:
            return None
        length = _checked_length(received[:4], block=_BLOCK, uncovered=0)
        end = 4 + length + _TAG
        if len(received) < end:
            return None
        field, sealed = bytes(received[:4]), bytes(received[4:end])
        del received[:end]
        try:
            return _payload(self._aead.decrypt(self._nonce(), sealed, field))
        except InvalidTag as error:
            raise PacketError("a packet was changed on its way") from error


class _ChaCha20Poly1305:
    """ChaCha20 with a nonce of 8 octets, the sequence number, and two keys of 32 octets.

    The first key makes the Poly1305 key, from its block 0, and encrypts the packet from
    block 1 on; the second key encrypts the length, so that it says nothing about the other.
    """

    block = 8

    def __init__(self, keys: Keys) -> None:
        self._packet_key, self._length_key = keys.encryption[:32], keys.encryption[32:64]
        self._length: bytes | None = None

    def _packet_stream(self, sequence: int) -> tuple[CipherContext, bytes]:
        """Give the cipher from block 1 on, and the Poly1305 key."""
        stream = _chacha20(self._packet_key, sequence)
        return stream, stream.update(bytes(_CHACHA_BLOCK))[:32]

    def seal(self, sequence: int, *payload: bytes) -> bytes:
        body = _padded(*payload, uncovered=0, block=self.block)
        stream, mac_key = self._packet_stream(sequence)
        length = _chacha20(self._length_key, sequence).update(struct.pack(">I", len(body)))
        packet = length + stream.update(body)
        return packet + Poly1305.generate_tag(mac_key, packet)

    def open(self, sequence: int, received: bytearray) -> bytes | None:
        if len(received) < 4:
            return None
        if self._length is None:
            self._length = _chacha20(self._length_key, sequence).update(bytes(received[:4]))
        length = _checked_length(self._length, block=self.block, uncovered=0)
        body_end, end = 4 + length, 4 + length + _TAG
        if len(received) < end:
            return None
        packet, tag = bytes(received[:body_end]), bytes(received[body_end:end])
        del received[:end]
        self._length = None
        stream, mac_key = self._packet_stream(sequence)
        try:
            Poly1305.verify_tag(mac_key, packet, tag)
        except InvalidSignature as error:
            raise PacketError("a packet was changed on its way") from error
        return _payload(stream.update(packet[4:]))


def _chacha20(key: bytes, sequence: int) -> CipherContext:
    """Start the key stream at block 0; a counter of 8 octets stands before the nonce."""
    nonce = bytes(8) + struct.pack(">Q", sequence)
    return Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()


class _Ctr:
    """AES in counter mode with an HMAC.  One object serves one direction only."""

    def __init__(self, cipher: str, mac: str, keys: Keys) -> None:
        self._hash, self._mac_length = MACS[mac]
        self._mac_key = keys.integrity[: self._mac_length]
        # In counter mode, encryption and decryption are the same operation.
        key = algorithms.AES(keys.encryption[: CIPHERS[cipher]])
        self._stream = Cipher(key, modes.CTR(keys.iv[:_BLOCK])).encryptor()

    def _mac(self, sequence: int, *parts: bytes) -> bytes:
        covered = b"".join((struct.pack(">I", sequence), *parts))
        return hmac.digest(self._mac_key, covered, self._hash)

    def _check(self, mac: bytes, expected: bytes) -> None:
        if not hmac.compare_digest(mac, expected):
            raise PacketError("a packet was changed on its way")


class _EncryptThenMac(_Ctr):
    """The MAC covers the length in clear and the ciphertext."""

    def seal(self, sequence: int, *payload: bytes) -> bytes:
        body = self._stream.update(_padded(*payload, uncovered=0))
        length = struct.pack(">I", len(body))
        return b"".join((length, body, self._mac(sequence, length, body)))

    def open(self, sequence: int, received: bytearray) -> bytes | None:
        if len(received) < 4:
            return None
        length = _checked_length(received[:4], block=_BLOCK, uncovered=0)
        body_end, end = 4 + length, 4 + length + self._mac_length
        if len(received) < end:
            return None
        field, body = bytes(received[:4]), bytes(received[4:body_end])
        mac = bytes(received[body_end:end])
        del received[:end]
        self._check(mac, self._mac(sequence, field, body))
        return _payload(self._stream.update(body))


class _EncryptAndMac(_Ctr):
    """The MAC covers the plaintext; the first block must be decrypted to learn the length."""

    _first = b""

    def seal(self, sequence: int, *payload: bytes) -> bytes:
        body = _padded(*payload, uncovered=4)
        packet = struct.pack(">I", len(body)) + body
        return self._stream.update(packet) + self._mac(sequence, packet)

    def open(self, sequence: int, received: bytearray) -> bytes | None:
        if not self._first:
            if len(received) < _BLOCK:
                return None
            self._first = self._stream.update(bytes(received[:_BLOCK]))
        length = _checked_length(self._first[:4], block=_BLOCK, uncovered=4)
        body_end, end = 4 + length, 4 + length + self._mac_length
        if len(received) < end:
            return None
        packet = self._first + self._stream.update(bytes(received[_BLOCK:body_end]))
        mac = bytes(received[body_end:end])
        del received[:end]
        self._first = b""
        self._check(mac, self._mac(sequence, packet))
        return _payload(packet[4:])
