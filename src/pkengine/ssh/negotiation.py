"""Agree on algorithms (RFC 4253 §7.1): compare the KEXINIT messages of both sides; no IO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from pkengine.ssh.ciphers import AEAD_CIPHERS
from pkengine.ssh.wire import Reader, name_list

#: Not methods, but marks within the list of key exchange methods (RFC 8308, OpenSSH's PROTOCOL).
STRICT_CLIENT, STRICT_SERVER = "kex-strict-c-v00@openssh.com", "kex-strict-s-v00@openssh.com"
EXTENSIONS = "ext-info-c"
_MARKS = frozenset((STRICT_CLIENT, STRICT_SERVER, EXTENSIONS, "ext-info-s"))


class NoCommonAlgorithm(ValueError):
    """The two sides share no algorithm of one kind.

    Attributes:
        what: the kind.
        theirs, ours: what each side has.
    """

    def __init__(self, what: str, theirs: Sequence[str], ours: Sequence[str]) -> None:
        super().__init__(what)
        self.what = what
        self.theirs = theirs
        self.ours = tuple(name for name in ours if name not in _MARKS)


@dataclass(frozen=True, slots=True)
class Offer:
    """The lists of one side, each in its order of preference.

    "Out" is from the client to the server, "in" the other way.
    """

    exchanges: Sequence[str]
    host_keys: Sequence[str]
    ciphers_out: Sequence[str]
    ciphers_in: Sequence[str]
    macs_out: Sequence[str]
    macs_in: Sequence[str]
    compressions_out: Sequence[str]
    compressions_in: Sequence[str]

    def written(self) -> bytes:
        """Write it as in a KEXINIT message, behind its number and 16 random octets.

        Neither languages nor a guess of the algorithms come behind it.
        """
        lists = (getattr(self, field.name) for field in fields(self))
        return b"".join(map(name_list, lists)) + 2 * name_list(()) + b"\0" + bytes(4)

    @classmethod
    def parse(cls, packet: bytes) -> Offer:
        """Read a KEXINIT message behind its number.

        Raises:
            MalformedMessage: it is too short.
        """
        reader = Reader(packet)
        reader.octets(16)
        lists = [reader.name_list() for _ in range(10)]
        reader.boolean()
        reader.uint32()
        return cls(*lists[:8])


@dataclass(frozen=True, slots=True)
class Agreement:
    """The algorithms for one key exchange.

    Attributes:
        mac_out, mac_in: empty where the cipher of that direction needs none.
    """

    exchange: str
    host_key: str
    cipher_out: str
    cipher_in: str
    mac_out: str
    mac_in: str


def negotiate(client: Offer, server: Offer) -> Agreement:
    """Choose of each kind the client's first that the server has too.

    Raises:
        NoCommonAlgorithm: there is none; the client is this side.
    """
    exchange = _choose("key exchange method", client.exchanges, server.exchanges)
    host_key = _choose("host key algorithm", client.host_keys, server.host_keys)
    cipher_out = _choose("cipher", client.ciphers_out, server.ciphers_out)
    cipher_in = _choose("cipher", client.ciphers_in, server.ciphers_in)
    mac_out = mac_in = ""
    if cipher_out not in AEAD_CIPHERS:
        mac_out = _choose("MAC", client.macs_out, server.macs_out)
    if cipher_in not in AEAD_CIPHERS:
        mac_in = _choose("MAC", client.macs_in, server.macs_in)
    _choose("compression", client.compressions_out, server.compressions_out)
    _choose("compression", client.compressions_in, server.compressions_in)
    return Agreement(exchange, host_key, cipher_out, cipher_in, mac_out, mac_in)


def _choose(what: str, ours: Sequence[str], theirs: Sequence[str]) -> str:
    for name in ours:
        if name in theirs and name not in _MARKS:
            return name
    raise NoCommonAlgorithm(what, theirs, ours)
