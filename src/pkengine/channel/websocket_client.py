"""The client's side of a WebSocket: an endpoint whose streams come out of an HTTP server."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult

import h11
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from wsproto import ConnectionType
from wsproto.events import AcceptConnection, Event, RejectConnection, Request
from wsproto.handshake import H11Handshake
from wsproto.utilities import ProtocolError
from zope.interface import implementer

from pkengine.channel.websocket import WebSocketStream, websocket_stream
from pkengine.errors import ChannelError

#: A server that many ask at the same time has them wait for their turn.
UPGRADE_TIMEOUT_S = 45.0


@implementer(IStreamClientEndpoint)
class WebSocketClientEndpoint:
    """Connects to an HTTP server, and asks it for a WebSocket.

    Args:
        reactor: keeps the deadline.
        endpoint: gives the byte stream to the server, with TLS where the URL has it.
        url: what to ask for.
        timeout_s: how long all of it may take.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        url: SplitResult,
        *,
        timeout_s: float = UPGRADE_TIMEOUT_S,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._url = url
        self._timeout_s = timeout_s

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; the result is the factory's protocol.

        Cancelling ends the connection.  The Deferred fails with ChannelError where the server
        gives no WebSocket, and with the errors of the endpoint below.
        """
        upgrade = _Upgrade(self._reactor, self._url, protocolFactory, self._timeout_s)
        return upgrade.connect(self._endpoint)


class _Upgrade(Protocol):
    """One connection: HTTP at first, then octets go on to the stream."""

    def __init__(
        self,
        reactor: IReactorTime,
        url: SplitResult,
        factory: IProtocolFactory,
        timeout_s: float,
    ) -> None:
        self._reactor = reactor
        self._url = url
        self._factory = factory
        self._timeout_s = timeout_s
        self._handshake: H11Handshake | None = H11Handshake(ConnectionType.CLIENT)
        self._stream: WebSocketStream | None = None
        self._connecting: Deferred[Any] | None = None
        self._deadline: IDelayedCall | None = None
        self._result: Deferred[IProtocol] | None = None

    def connect(self, endpoint: IStreamClientEndpoint) -> Deferred[IProtocol]:
        result = self._result = Deferred(self._cancelled)
        self._deadline = self._reactor.callLater(self._timeout_s, self._late)
        self._connecting = connectProtocol(endpoint, self)
        self._connecting.addErrback(self._failed)
        return result

    # HTTP.

    def connectionMade(self) -> None:
        assert self._handshake is not None
        # An empty path is "/" on the wire (RFC 9110 §4.2.3).
        target = self._url._replace(scheme="", netloc="", fragment="").geturl() or "/"
        request = Request(host=self._url.netloc.rpartition("@")[2], target=target)
        transport: Any = self.transport
        transport.write(self._handshake.send(request))

    def dataReceived(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.dataReceived(data)
        elif self._handshake is not None:
            self._answer(self._handshake, data)

    def _answer(self, handshake: H11Handshake, data: bytes) -> None:
        try:
            handshake.receive_data(data)
            # Hints of a proxy, such as 103, may come first; wsproto takes them for refusals.
            answers = [each for each in handshake.events() if not _is_a_hint(each)]
        except (ProtocolError, h11.ProtocolError) as error:
            self._refuse(f"answered what is no agreement on a WebSocket: {error}")
            return
        if not answers:
            return
        answer = answers[0]
        if isinstance(answer, AcceptConnection):
            self._begin(handshake)
            return
        assert isinstance(answer, RejectConnection), "what a refusal says comes behind it"
        self._refuse(_rejection(answer))

    def _begin(self, handshake: H11Handshake) -> None:
        connection, self._handshake = handshake.connection, None
        result = self._ended()
        assert connection is not None, "an agreement makes a connection"
        assert result is not None, "an attempt that was given up hears no answer"
        transport: Any = self.transport
        application = self._factory.buildProtocol(transport.getPeer())
        if application is None:
            transport.abortConnection()
            result.errback(ConnectionClosed("the application takes no connection"))
            return
        self._stream = websocket_stream(connection, application, transport, self._reactor)
        self._stream.makeConnection(transport)
        result.callback(application)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._stream is not None:
            self._stream.connectionLost(reason)
        elif reason.check(ChannelError):  # such as the server's certificate
            self._failed(reason)
        else:
            self._failed(
                Failure(
                    ChannelError(
                        f"{self._url.geturl()} closed the connection without an answer: "
                        f"{_sentence(reason)}"
                    )
                )
            )

    # How the attempt ends.

    def _ended(self) -> Deferred[IProtocol] | None:
        """Give the result that somebody waits for, once."""
        result, self._result = self._result, None
        self._connecting = None
        if self._deadline is not None:
            if self._deadline.active():
                self._deadline.cancel()
            self._deadline = None
        return result

    def _failed(self, failure: Failure) -> None:
        self._handshake = None
        if (result := self._ended()) is not None:
            result.errback(failure)

    def _refuse(self, what: str) -> None:
        self._give_up(ChannelError(f"{self._url.geturl()} {what}"))

    def _late(self) -> None:
        if self.transport is not None:
            self._refuse(f"gave no answer within {self._timeout_s:g} s.")
        else:
            self._give_up(ConnectError(string=f"no connection within {self._timeout_s:g} s"))

    def _cancelled(self, _: Deferred[IProtocol]) -> None:
        self._give_up(ConnectingCancelledError(self._url.geturl()))

    def _give_up(self, reason: Exception) -> None:
        connecting = self._connecting
        self._failed(Failure(reason))
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()
        else:
            assert connecting is not None, "without a connection, one is being made"
            connecting.cancel()


def _is_a_hint(event: Event) -> bool:
    return isinstance(event, RejectConnection) and event.status_code < 200


def _rejection(answer: RejectConnection) -> str:
    """Say what a status means for whoever set up the URL and the proxies."""
    status = answer.status_code
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    if 300 <= status < 400:
        headers = {bytes(name).lower(): bytes(value) for name, value in answer.headers}
        place = headers.get(b"location", b"").decode("utf-8", "replace") or "an unnamed place"
        return f"answered {phrase}, to {place!r}: redirects are not followed, name the right URL."
    advice = {
        200: "what answers there is not the engine, or a proxy in front of it does not pass on "
        "the headers Upgrade and Connection.",
        404: "the path is not that of an engine; expected '/pkengine/agent'.",
        426: "a proxy in front of the engine does not pass on the headers Upgrade and Connection.",
        502: "a proxy in front of the engine does not reach it.",
        503: "the engine, or a proxy in front of it, is just starting or takes no more.",
        504: "a proxy in front of the engine does not get an answer from it.",
    }.get(status, "expected 101 Switching Protocols.")
    return f"answered {phrase}: {advice}"


def _sentence(reason: Failure) -> str:
    text = reason.getErrorMessage() or type(reason.value).__name__
    return text if text.endswith(".") else f"{text}."
