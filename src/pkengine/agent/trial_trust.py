"""Trust that holds for the time of a trial, beside the one on disk.

A key on trial is accepted by the running agent alone: nothing of it is on disk, so an agent
that is restarted accepts what it accepted before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from pkengine.auth.peer import PeerKey, TrustedPeer
from pkengine.interfaces import ITrustStore

_log = Logger()


@implementer(ITrustStore)
class TrialTrust:
    """A trust store that has what another one has, and the keys on trial.

    Args:
        kept: the other one.
    """

    def __init__(self, kept: ITrustStore) -> None:
        self._kept = kept
        self._trials: dict[PeerKey, TrustedPeer] = {}
        self._watchers: dict[object, Callable[[PeerKey], None]] = {}

    def begin(self, peer: TrustedPeer) -> None:
        """Accept a key for now."""
        self._trials[peer.key] = peer

    def end(self, key: PeerKey) -> None:
        """Accept a key as the other store does again; connections that need more are cut."""
        self._trials.pop(key, None)
        self._announce(key)

    def lookup(self, key: PeerKey) -> TrustedPeer | None:
        """Give the record of a key, or None where the key is not accepted."""
        kept, on_trial = self._kept.lookup(key), self._trials.get(key)
        if kept is None or on_trial is None or kept.name != on_trial.name:
            return kept or on_trial
        return replace(kept, mechanisms=kept.mechanisms | on_trial.mechanisms)

    def peers(self) -> Iterable[TrustedPeer]:
        """Give every record that is accepted now."""
        keys = dict.fromkeys(peer.key for peer in (*self._kept.peers(), *self._trials.values()))
        return tuple(peer for key in keys if (peer := self.lookup(key)) is not None)

    def add(self, peer: TrustedPeer) -> None:
        """Accept a key for good."""
        self._kept.add(peer)

    def remove(self, key: PeerKey) -> None:
        """Accept a key no longer; its live connections close at once.

        Raises:
            KeyError: the key was not accepted.
        """
        on_trial = self._trials.pop(key, None)
        if on_trial is None or self._kept.lookup(key) is not None:
            self._kept.remove(key)
        self._announce(key)

    def watch(
        self, callback: Callable[[PeerKey], None], clock: IReactorTime
    ) -> Callable[[], None]:
        """Ask to be called with each key that loses trust; see `ITrustStore.watch`."""
        token, end = object(), self._kept.watch(callback, clock)
        self._watchers[token] = callback

        def unwatch() -> None:
            self._watchers.pop(token, None)
            end()

        return unwatch

    def _announce(self, key: PeerKey) -> None:
        for callback in tuple(self._watchers.values()):
            with _log.failuresHandled("While ending the trial of {key}", key=key):
                callback(key)
