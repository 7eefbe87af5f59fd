"""One run of a key exchange, from the algorithms that were agreed to the new keys; no IO."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from twisted.conch.ssh.transport import SSHCiphers

from pkengine.keys import SshPublicKey
from pkengine.ssh.certificate import CERTIFICATE_SUFFIX, certified_key
from pkengine.ssh.ciphers import Keys, Opener, Sealer, opener, sealer
from pkengine.ssh.host_keys import HOST_KEY_ALGORITHMS
from pkengine.ssh.key_exchange import METHODS, KeyExchange
from pkengine.ssh.negotiation import Agreement
from pkengine.ssh.signature import is_genuine
from pkengine.ssh.wire import MalformedMessage, Reader, string

#: How much key material is derived for each purpose, in octets.
_KEY_MATERIAL = 64


@dataclass(frozen=True, slots=True)
class Said:
    """What both sides said before; it goes into the exchange hash (RFC 4253 §8)."""

    our_version: bytes
    their_version: bytes
    our_kexinit: bytes
    their_kexinit: bytes


class Keying(SSHCiphers):
    """One key exchange.

    It is also what conch hands the new keys to, and keeps until both sides use them.

    Args:
        agreement: the algorithms.
        said: what both sides said before.
        keeps_secrets: something secret will be said.  Where not, the key pair of this side is
            that of other such exchanges: what the host signs is new by both sides' random
            KEXINIT all the same.

    Attributes:
        init: what this side sends.
        sealer, opener: protect the packets from NEWKEYS on; None before the keys are there.
    """

    sealer: Sealer | None = None
    opener: Opener | None = None

    def __init__(self, agreement: Agreement, said: Said, *, keeps_secrets: bool = True) -> None:
        out, in_ = agreement.cipher_out.encode(), agreement.cipher_in.encode()
        super().__init__(out, in_, agreement.mac_out.encode(), agreement.mac_in.encode())
        self._agreement = agreement
        self._said = said
        self._hash, begin = METHODS[agreement.exchange]
        self._method = begin() if keeps_secrets else _reused(agreement.exchange)
        self.init = self._method.init
        self.signature = b""

    def finish(self, reply: bytes, judge: Callable[[SshPublicKey], None]) -> tuple[bytes, bytes]:
        """Take the host's key, its part of the exchange, and its signature.

        Args:
            reply: the message behind its number.
            judge: raises where the host's key, or certificate, must not be trusted.

        Returns:
            The shared secret, as it goes into hashes, and the exchange hash.

        Raises:
            MalformedMessage: the host does not hold the key, or breaks the protocol.
        """
        reader = Reader(reply)
        host_key, value, signature = reader.string(), reader.string(), reader.string()
        shown = SshPublicKey.from_blob(host_key)
        algorithm = self._agreement.host_key
        if algorithm not in HOST_KEY_ALGORITHMS.get(shown.key_type, ()):
            raise MalformedMessage(f"the host key is not for {algorithm}")
        judge(shown)
        try:
            secret = self._method.shared_secret(value)
        except ValueError as error:
            raise MalformedMessage(str(error) or "a value that no key exchange has") from error
        exchange_hash = self._exchange_hash(host_key, value, secret)
        algorithm = algorithm.removesuffix(CERTIFICATE_SUFFIX)
        if not is_genuine(certified_key(shown), signature, exchange_hash, algorithm=algorithm):
            raise MalformedMessage(f"the host's signature is not genuine, or not {algorithm}")
        self.signature = signature
        return secret, exchange_hash

    def _exchange_hash(self, host_key: bytes, value: bytes, secret: bytes) -> bytes:
        said = self._said
        parts = (
            said.our_version,
            said.their_version,
            said.our_kexinit,
            said.their_kexinit,
            host_key,
            self.init,
            value,
        )
        digest: bytes = self._hash(b"".join(map(string, parts)) + secret).digest()
        return digest

    def derive(self, purpose: bytes, secret: bytes, exchange_hash: bytes, session: bytes) -> bytes:
        """Derive the material for one purpose (RFC 4253 §7.2)."""
        beginning = secret + exchange_hash
        key: bytes = self._hash(beginning + purpose + session).digest()
        while len(key) < _KEY_MATERIAL:
            key += self._hash(beginning + key).digest()
        return key

    def setKeys(
        self,
        outIV: bytes,
        outKey: bytes,
        inIV: bytes,
        inKey: bytes,
        outInteg: bytes,
        inInteg: bytes,
    ) -> None:
        """Take the keys that were derived; conch calls this."""
        chosen = self._agreement
        self.sealer = sealer(chosen.cipher_out, chosen.mac_out, Keys(outIV, outKey, outInteg))
        self.opener = opener(chosen.cipher_in, chosen.mac_in, Keys(inIV, inKey, inInteg))
        self.encBlockSize = self.decBlockSize = 16  # tells conch that there are keys


@functools.cache
def _reused(exchange: str) -> KeyExchange:
    return METHODS[exchange][1]()
