"""A reactor whose network is real and whose time stands still until it is moved."""

from __future__ import annotations

from twisted.internet import reactor as default_reactor
from twisted.internet.interfaces import IReactorPluggableNameResolver, IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer


@implementer(IReactorTime, IReactorPluggableNameResolver)
class ClockedReactor:
    """Deadlines pass when the test says so, however slow the machine is."""

    def __init__(self, reactor=default_reactor) -> None:
        self._reactor = reactor
        clock = Clock()
        self.seconds = clock.seconds
        self.callLater = clock.callLater
        self.getDelayedCalls = clock.getDelayedCalls
        self.advance = clock.advance

    def __getattr__(self, name: str):
        return getattr(self._reactor, name)
