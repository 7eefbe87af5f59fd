"""The keys of the engines that this agent accepts, as its verbs list and change them."""

from __future__ import annotations

import contextlib

from twisted.logger import Logger

from pkengine.agent.dialled_engines import DialledEngines
from pkengine.auth.peer import TrustedPeer, parse_peer_key
from pkengine.channel.verbs import AcceptedKey, AddKey, RemoveKey
from pkengine.errors import AgentError
from pkengine.interfaces import ISharedKeyStore, ITrustStore
from pkengine.keys import Pin
from pkengine.keys.key_id import KeyId


def accepted_key(peer: TrustedPeer) -> AcceptedKey:
    """Give a record of trust in the form in which it is told."""
    return AcceptedKey(
        pin=str(peer.key),
        name=peer.name,
        mechanisms=tuple(sorted(peer.mechanisms)),
        expires=peer.expires,
        comment=peer.comment,
    )


class AcceptedKeys:
    """Lists, adds and removes the keys that an agent accepts.

    Args:
        trust: where they are kept.
        own: the agent's own key, which it never accepts.
        secrets: what the agent shares with engines.
        dialled: the engines that it dials.
    """

    _log = Logger()

    def __init__(
        self,
        trust: ITrustStore,
        own: Pin,
        secrets: ISharedKeyStore,
        dialled: DialledEngines,
    ) -> None:
        self._trust = trust
        self._own = own
        self._secrets = secrets
        self._dialled = dialled

    def list(self) -> list[AcceptedKey]:
        """Give every key that is accepted now."""
        return [accepted_key(peer) for peer in self._trust.peers()]

    def add(self, request: AddKey, by: str) -> AcceptedKey:
        """Accept a key from now on; what was known about the same key is replaced.

        Args:
            request: the key and whose it is.
            by: who asks, for the log.

        Raises:
            InvalidKeyText: the pin is malformed.
            AgentError: the key is the agent's own.
            TrustFileError: the name or the comment cannot be kept.
        """
        peer = TrustedPeer(
            name=request.name,
            key=Pin.parse(request.pin),
            mechanisms=frozenset(request.mechanisms),
            expires=request.expires,
            comment=request.comment,
        )
        if peer.key == self._own:
            raise AgentError(f"{peer.key} is this agent's own key: give the key of an engine.")
        self._trust.add(peer)
        self._log.info(
            "Key {key} of {name} is accepted: {by}", key=peer.key, name=peer.name, by=by
        )
        return accepted_key(peer)

    def remove(self, request: RemoveKey, by: str, *, may_be_last: bool) -> AcceptedKey:
        """Accept a key no longer; its connections close at once.

        A secret goes with its key, and an engine without a key is dialled no longer.

        Args:
            request: the key.
            by: who asks, for the log.
            may_be_last: the one that asks can come back when no key is left.

        Returns:
            What was known about the key.

        Raises:
            InvalidKeyText: the pin is malformed.
            AgentError: the key is not accepted anyway, or is the last one.
        """
        key = parse_peer_key(request.pin)
        peer = self._trust.lookup(key)
        if peer is None:
            raise AgentError(f"The key {key} is not among those that this agent accepts.")
        if not may_be_last and all(other.key == key for other in self._trust.peers()):
            raise AgentError(
                f"{key} is the last key that this agent accepts, and without it no engine "
                f"could reach the host: add another key first, or run on the host: "
                f"pkagent keys remove {key}"
            )
        self._trust.remove(key)
        if isinstance(key, KeyId):
            with contextlib.suppress(KeyError):
                self._secrets.remove(key)
        if all(other.name != peer.name for other in self._trust.peers()):
            self._dialled.remove(peer.name)
        self._log.info("Key {key} of {name} was removed: {by}", key=key, name=peer.name, by=by)
        return accepted_key(peer)
