"""The primes of the Diffie-Hellman groups of RFC 3526, from their definition.

Each is 2^n - 2^(n-64) - 1 + 2^64 · (⌊2^(n-130) · π⌋ + c), with the smallest c that makes it a
safe prime, so that nobody had a choice in it.  The generator is 2.
"""

from __future__ import annotations

from functools import cache

#: The number of the group: its length in bits, and c.
_DEFINITIONS = {14: (2048, 124476), 16: (4096, 240904), 18: (8192, 4743158)}
_GUARD_BITS = 64


@cache
def modp_prime(group: int) -> int:
    """Give the prime of group 14, 16 or 18."""
    bits, constant = _DEFINITIONS[group]
    return (1 << bits) - (1 << bits - 64) - 1 + ((_pi(bits - 130) + constant) << 64)


def _pi(bits: int) -> int:
    """Give ⌊2^bits · π⌋, by Machin's formula π = 16 arctan 1/5 - 4 arctan 1/239."""
    one = 1 << bits + _GUARD_BITS
    return (16 * _arctan_of_inverse(5, one) - 4 * _arctan_of_inverse(239, one)) >> _GUARD_BITS


def _arctan_of_inverse(x: int, one: int) -> int:
    power = total = one // x
    divisor, sign = 3, -1
    while power:
        power //= x * x
        total += sign * (power // divisor)
        divisor, sign = divisor + 2, -sign
    return total
