"""Opening channels: dialling a peer, and listening for peers, over any endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from zope.interface import implementer

from pkengine.auth.endpoints import AuthenticatedClientEndpoint, AuthenticatedServerEndpoint
from pkengine.channel.connection import HEARTBEAT_S, Channel
from pkengine.channel.incoming import Verbs
from pkengine.errors import ChannelError
from pkengine.interfaces import IAuthenticator

CONNECT_TIMEOUT_S = 20.0


async def connect_channel(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    authenticator: IAuthenticator,
    *,
    expected: str | None,
    verbs: Verbs | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> Channel:
    """Open a channel to a peer.

    Args:
        reactor: keeps the deadlines.
        endpoint: gives the byte stream.
        authenticator: the mechanism, who this end is and whom it accepts.
        expected: the name of the peer that must answer, or None for any trusted one.
        verbs: what this end answers, or None for nothing.
        timeout_s: how long all of it may take.
        heartbeat_s: after how much silence the peer is pinged.

    Raises:
        AuthenticationError: the peer did not prove who it is, or does not accept this end.
        ChannelError: there was no connection, or not in time.
    """
    name = expected or "the peer"
    factory = _Dialler(reactor, verbs or Verbs(), heartbeat_s)
    connecting = AuthenticatedClientEndpoint(
        reactor, endpoint, authenticator, expected, timeout_s=timeout_s
    ).connect(factory)
    try:
        return cast(Channel, await connecting)
    except (ConnectError, ConnectionClosed) as error:
        raise ChannelError(f"No connection to {name}: {error}") from error


async def listen_channel(
    reactor: IReactorTime,
    endpoint: IStreamServerEndpoint,
    authenticator: IAuthenticator,
    *,
    verbs: Verbs,
    on_channel: Callable[[Channel], None] | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    settled: Callable[[], object] = lambda: None,
) -> ChannelListener:
    """Listen for peers that open channels.

    Args:
        reactor: keeps the deadlines.
        endpoint: where the byte streams come from.
        authenticator: the mechanism, who this end is and whom it accepts.
        verbs: what this end answers.
        on_channel: is called with each channel when it is open.
        heartbeat_s: after how much silence a peer is pinged.
        settled: is called when authentication on a connection has ended, well or not.
    """
    factory = _Acceptors(reactor, verbs, heartbeat_s, on_channel)
    below = AuthenticatedServerEndpoint(reactor, endpoint, authenticator, settled=settled)
    port = await below.listen(factory)
    return ChannelListener(port, factory.open_channels)


@implementer(IListeningPort)
class ChannelListener:
    """A port where peers open channels.

    Attributes:
        channels: those that are open now.
    """

    def __init__(self, port: IListeningPort, channels: set[Channel]) -> None:
        self._port = port
        self.channels = channels

    def startListening(self) -> None:
        """Listen again."""
        self._port.startListening()

    def stopListening(self) -> Deferred[Any]:
        """Listen no more, and close every channel that was opened here."""
        waiting: list[Any] = [self._port.stopListening()]
        for channel in tuple(self.channels):
            waiting.append(_when_closed(channel))
            channel.close()
        return gatherResults([each for each in waiting if isinstance(each, Deferred)])

    def getHost(self) -> IAddress:
        """Give the address that is listened on."""
        return self._port.getHost()


def _when_closed(channel: Channel) -> Deferred[None]:
    done: Deferred[None] = Deferred()

    def fired(reason: Any) -> Any:
        done.callback(None)
        return reason

    channel.closed.addCallback(fired)
    return done


class _AcceptedChannel(Channel):
    """A channel that its listener knows of while it is open."""

    __slots__ = ("_owner",)

    def __init__(self, owner: _Acceptors) -> None:
        super().__init__(owner.clock, owner.verbs, heartbeat_s=owner.heartbeat_s)
        self._owner = owner

    def connectionMade(self) -> None:
        self._owner.opened(self)

    def connectionLost(self, reason: Any) -> None:
        self._owner.open_channels.discard(self)
        super().connectionLost(reason)


class _Acceptors(Factory):
    """Makes a channel of each connection of a listener."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        verbs: Verbs,
        heartbeat_s: float,
        on_channel: Callable[[Channel], None] | None,
    ) -> None:
        self.clock = clock
        self.verbs = verbs
        self.heartbeat_s = heartbeat_s
        self.open_channels: set[Channel] = set()
        self._on_channel = on_channel

    def buildProtocol(self, addr: IAddress | None) -> Channel:  # type: ignore[override]
        return _AcceptedChannel(self)

    def opened(self, channel: Channel) -> None:
        self.open_channels.add(channel)
        if self._on_channel is not None:
            self._on_channel(channel)


@implementer(IProtocolFactory)
class _Dialler:
    """Makes the channel of one connection; light, because it lives as long as that."""

    __slots__ = ("_clock", "_heartbeat_s", "_verbs")

    def __init__(self, clock: IReactorTime, verbs: Verbs, heartbeat_s: float) -> None:
        self._clock = clock
        self._verbs = verbs
        self._heartbeat_s = heartbeat_s

    def doStart(self) -> None:
        """Nothing is kept."""

    def doStop(self) -> None:
        """Nothing is kept."""

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:
        return Channel(self._clock, self._verbs, heartbeat_s=self._heartbeat_s)
