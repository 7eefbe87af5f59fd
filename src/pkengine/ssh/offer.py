"""What this side offers, in its order of preference (RFC 4253 §7.1); no IO.

The curves of NIST are trusted less than the rest.  So they are not offered as long as the host
has anything else: only a host that has nothing else is asked again, on another connection, and
then with all of it.  Who makes believe that a host has nothing else gains little: what the two
sides then agree on is still the first of the longer list that both have.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pkengine.ssh.ciphers import CIPHERS, MACS
from pkengine.ssh.host_keys import HOST_KEY_ALGORITHMS, KEY_TYPES
from pkengine.ssh.key_exchange import HYBRIDS, METHODS
from pkengine.ssh.negotiation import EXTENSIONS, STRICT_CLIENT, Offer

_LESS_TRUSTED = "nistp"


@dataclass(frozen=True, slots=True)
class ClientOffer:
    """What this side offers on one connection.

    Attributes:
        lists: what it says.
        wanted: the host key algorithms of which the host must have one.  Those that stand
            behind them are for OpenSSH's server, which looks there for the hashes that this
            side knows, before it proves an RSA key beside the one of the connection.
        written: the lists as a KEXINIT message has them, behind its 16 random octets.
    """

    lists: Offer
    wanted: tuple[str, ...]
    written: bytes

    @classmethod
    @functools.cache
    def of(
        cls, key_types: tuple[str, ...], *, is_wide: bool = False, keeps_secrets: bool = True
    ) -> ClientOffer:
        """Make the offer, or give the same again.

        Args:
            key_types: those that are wanted of the host, the most wanted first.
            is_wide: also what is trusted less.  A type that is wanted alone, because the host
                has such a key, is offered in any case.
            keeps_secrets: something secret will be said; else a key exchange that outlasts
                quantum computers, and takes twice the time, comes last.
        """
        exchanges: Iterable[str] = METHODS
        others: Iterable[str] = KEY_TYPES
        if not is_wide:
            exchanges = _trusted(METHODS)
            others = _trusted(KEY_TYPES)
            key_types = _trusted(key_types) or key_types
        if not keeps_secrets:
            exchanges = sorted(exchanges, key=HYBRIDS.__contains__)
        lists = Offer(
            exchanges=(*exchanges, STRICT_CLIENT, EXTENSIONS),
            host_keys=_algorithms((*key_types, *others)),
            ciphers_out=tuple(CIPHERS),
            ciphers_in=tuple(CIPHERS),
            macs_out=tuple(MACS),
            macs_in=tuple(MACS),
            compressions_out=("none",),
            compressions_in=("none",),
        )
        return cls(lists, _algorithms(key_types), lists.written())

    def is_too_narrow_for(self, host: Offer) -> bool:
        """Tell whether the host has something that only a wide offer has."""
        return any(
            not _meet(ours, theirs) and _meet(all_of_ours, theirs)
            for ours, all_of_ours, theirs in (
                (self.lists.exchanges, METHODS, host.exchanges),
                (self.wanted, _algorithms(KEY_TYPES), host.host_keys),
            )
        )


def _trusted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if _LESS_TRUSTED not in name)


def _algorithms(key_types: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        algorithm
        for key_type in dict.fromkeys(key_types)
        for algorithm in HOST_KEY_ALGORITHMS[key_type]
    )


def _meet(ours: Iterable[str], theirs: Collection[str]) -> bool:
    return any(name in theirs for name in ours)
