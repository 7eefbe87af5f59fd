"""What the authenticators of the common handshake have in common."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable

from zope.interface import implementer

from pkengine.auth.handshake import (
    Acceptor,
    AcceptorHandshake,
    Hello,
    Initiator,
    InitiatorHandshake,
    Policy,
)
from pkengine.auth.trust import Clock, utc_now
from pkengine.interfaces import IAuthenticator, IExchange, ITrustStore


@implementer(IAuthenticator)
class HandshakeAuthenticator(abc.ABC):
    """An authenticator whose exchanges are handshakes; a mechanism says who takes part.

    Args:
        trust: which keys are accepted, and for whom.
        require_direct: refuse a path on which a proxy ends TLS.
        monotonic: seconds that only go forward.
        clock: the time of day.
    """

    mechanism: str

    def __init__(
        self,
        trust: ITrustStore,
        *,
        require_direct: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Clock = utc_now,
    ) -> None:
        self.trust = trust
        self._policy = Policy(
            mechanism=self.mechanism,
            require_direct=require_direct,
            monotonic=monotonic,
            clock=clock,
        )

    def initiator(self, expected: str | None = None, channel_binding: bytes = b"") -> IExchange:
        """Begin an exchange as the initiator; see `IAuthenticator.initiator`."""
        return InitiatorHandshake(self._policy, self._dial(expected), channel_binding)

    def acceptor(self, channel_binding: bytes = b"") -> IExchange:
        """Begin an exchange as the acceptor; see `IAuthenticator.acceptor`."""
        return AcceptorHandshake(self._policy, self._choose, channel_binding)

    @abc.abstractmethod
    def _dial(self, expected: str | None) -> Initiator:
        """Give this end of an exchange with the peer that is about to be dialled."""

    @abc.abstractmethod
    def _choose(self, hello: Hello) -> Acceptor:
        """Give this end of an exchange for the hello that came."""
