"""The decision on a peer's public key, the same for every mechanism that shows one."""

from __future__ import annotations

from pkengine.auth.peer import TrustedPeer
from pkengine.errors import AuthenticationError
from pkengine.interfaces import ITrustStore
from pkengine.keys.pin import Pin


def judge_pin(
    trust: ITrustStore, pin: Pin, *, own: Pin, mechanism: str, expected: str | None
) -> TrustedPeer:
    """Decide whether a key is accepted now.

    Args:
        trust: whose keys are accepted.
        pin: the peer's key.
        own: this end's key, which is never a peer's.
        mechanism: the mechanism under way.
        expected: the name that the peer must have, or None for any trusted one.

    Raises:
        AuthenticationError: it is not; the text says why, for the local log.
    """
    if pin == own:
        raise AuthenticationError(f"The peer shows this end's own key {pin}.")
    peer = trust.lookup(pin)
    if peer is None:
        raise AuthenticationError(f"The peer's key {pin} is not trusted.")
    if mechanism not in peer.mechanisms:
        allowed = " or ".join(map(repr, sorted(peer.mechanisms)))
        raise AuthenticationError(
            f"The peer {peer.name!r} with key {pin} must use the mechanism {allowed}: "
            f"it used {mechanism!r}."
        )
    if expected is not None and peer.name != expected:
        raise AuthenticationError(
            f"The peer is {peer.name!r} with key {pin}: expected {expected!r}."
        )
    return peer
