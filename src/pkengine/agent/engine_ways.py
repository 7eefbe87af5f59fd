"""The way between this agent and one engine, on disk, and how another way takes its place.

A way is three things that stand in three places: the key that the engine must prove
(``authorized_engines``), the secret where there is one (``secrets/``), and how the engine is
dialled, if it is (``engines.d/``).  They cannot change at once, so they change in an order in
which whatever interrupts them leaves a way that works: the old one up to the step that says
who dials and how, and the new one from then on.  Doing it again completes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import SharedKey
from pkengine.interfaces import ISharedKeyStore, ITrustStore


@dataclass(frozen=True, slots=True)
class EngineWay:
    """How one engine and this agent meet.

    Attributes:
        peer: the engine's name, its key, and the one mechanism by which it proves that.
        engine: how it is dialled, or None where it dials.
        secret: what is shared with it and not on disk yet, or None.
    """

    peer: TrustedPeer
    engine: DialledEngine | None
    secret: SharedKey | None = None


class EngineWays:
    """Puts ways on disk.

    Args:
        trust: the keys that are accepted.
        secrets: what is shared with engines.
        dialled: the engines that are dialled.
    """

    def __init__(
        self, trust: ITrustStore, secrets: ISharedKeyStore, dialled: DialledEngines
    ) -> None:
        self._trust = trust
        self._secrets = secrets
        self._dialled = dialled

    def make_only(self, way: EngineWay) -> None:
        """Let an engine come by one way and by no other.

        Raises:
            KeyFileError, TrustFileError: a file cannot be written.  A way that works is
                left, the old one or the new one; connections by it stay.
        """
        for step in self.steps(way):
            step()

    def steps(self, way: EngineWay) -> list[Callable[[], None]]:
        """Give the steps of `make_only`, each of which happens as a whole or not at all."""
        return [
            lambda: self._keep_secret(way),
            lambda: self._accept_both(way.peer),
            lambda: self._dial(way),
            lambda: self._trust.add(way.peer),
            *(
                lambda key=other.key: self._trust.remove(key)
                for other in self._trust.peers()
                if other.name == way.peer.name and other.key != way.peer.key
            ),
            lambda: self._forget_secrets(way.peer),
        ]

    def _keep_secret(self, way: EngineWay) -> None:
        if way.secret is not None:
            self._secrets.add(way.secret)

    def _accept_both(self, peer: TrustedPeer) -> None:
        known = self._trust.lookup(peer.key)
        if known is not None:
            peer = replace(peer, mechanisms=peer.mechanisms | known.mechanisms)
        self._trust.add(peer)

    def _dial(self, way: EngineWay) -> None:
        if way.engine is None:
            self._dialled.remove(way.peer.name)
        else:
            self._dialled.put(way.peer.name, way.engine)

    def _forget_secrets(self, peer: TrustedPeer) -> None:
        for secret in list(self._secrets.keys()):
            if secret.peer == peer.name and secret.key_id != peer.key:
                with contextlib.suppress(KeyError):
                    self._secrets.remove(secret.key_id)
