"""The server's side of a WebSocket: a resource of `twisted.web` where streams come from.

`twisted.web.websocket` is not used: it puts messages together without a limit before it
shows them, hides the connection below, and so knows no back-pressure for what it reads.  Of
Twisted only the step from HTTP to another protocol is taken, which it has for its own
WebSocket and offers under no public name.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import h11
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import AlreadyListened
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from wsproto import ConnectionType
from wsproto.events import AcceptConnection
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError
from zope.interface import implementer

from pkengine.channel.admission import Admission
from pkengine.channel.websocket import websocket_stream


@implementer(IAddress)
class ResourceAddress:
    """The address of a resource, as far as it knows."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return self.path


@implementer(IStreamServerEndpoint)
class WebSocketResource(Resource):
    """A resource that is also an endpoint: what listens on it gets a stream for each WebSocket.

    A request with an ``Origin`` is refused: it comes from a page in a browser, and who runs
    that page is not who sits at the browser (RFC 6455 §10.2).

    Args:
        clock: keeps the time of pings.
        path: where the resource is, to be shown to people.
        admission: whom to let in when; None lets everybody in at once.
    """

    isLeaf = True
    _log = Logger()

    def __init__(
        self, clock: IReactorTime, path: str, *, admission: Admission | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock = clock
        self._admission = admission
        self._address = ResourceAddress(path)
        self._factory: IProtocolFactory | None = None

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Have a factory make the protocols of the streams that come from now on.

        Raises:
            AlreadyListened: one does so already.
        """
        if self._factory is not None:
            raise AlreadyListened
        self._factory = protocolFactory
        protocolFactory.doStart()
        return succeed(_Port(self))

    def stop_listening(self) -> None:
        """Take no more streams; those that there are go on."""
        factory, self._factory = self._factory, None
        if factory is not None:
            factory.doStop()

    def address(self) -> IAddress:
        """Give where the resource is."""
        return self._address

    def render_GET(self, request: Request) -> bytes | int:
        """Answer an agent's request for a WebSocket."""
        if request.requestHeaders.hasHeader(b"Origin"):
            return self._refuse(request, 403, "This is for agents: browsers are refused.")
        handshake = H11Handshake(ConnectionType.SERVER)
        headers = [
            (name, value)
            for name, values in request.requestHeaders.getAllRawHeaders()
            for value in values
        ]
        try:
            if request.clientproto != b"HTTP/1.1":  # older ones know no upgrade
                raise RemoteProtocolError("not HTTP/1.1")
            handshake.initiate_upgrade_connection(headers, request.path)
        except (RemoteProtocolError, h11.ProtocolError, UnicodeDecodeError):
            request.setHeader(b"Upgrade", b"websocket")
            request.setHeader(b"Sec-WebSocket-Version", b"13")
            return self._refuse(
                request,
                426,
                "This is for agents: expected a request for a WebSocket (RFC 6455). A proxy in "
                "front of the engine must pass on the headers Upgrade and Connection.",
            )
        if self._factory is None or (self._admission is not None and self._admission.is_full):
            return self._refuse_for_now(request)
        if self._admission is None:
            return self._begin(request, handshake)
        self._wait(request, handshake, self._admission)
        return NOT_DONE_YET

    def _wait(self, request: Request, handshake: H11Handshake, admission: Admission) -> None:
        """Begin when it is this request's turn."""

        def begin() -> None:
            answer = self._begin(request, handshake)
            if isinstance(answer, bytes):
                request.write(answer)
                request.finish()
                admission.settled()

        def left(_: Failure) -> None:
            admission.leave(begin)

        request.notifyFinish().addErrback(left)
        admission.enter(begin)

    def _begin(self, request: Request, handshake: H11Handshake) -> bytes | int:
        channel: Any = request.channel
        transport = channel.transport
        peer: IAddress = request.getClientAddress()
        factory = self._factory
        application = factory.buildProtocol(peer) if factory is not None else None
        if application is None:
            return self._refuse_for_now(request)
        agreement = handshake.send(AcceptConnection())
        connection = handshake.connection
        assert connection is not None, "an agreement makes a connection"
        transport.unregisterProducer()  # HTTP's: the stream brings its own
        transport.write(agreement)
        channel._protocolUpgradeForWebsockets(
            websocket_stream(connection, application, transport, self._clock, peer=peer)
        )
        return NOT_DONE_YET

    def _refuse_for_now(self, request: Request) -> bytes:
        request.setHeader(b"Retry-After", b"1")
        return self._refuse(request, 503, "No agents are taken now.")

    def _refuse(self, request: Request, code: int, text: str) -> bytes:
        self._log.info(
            "{peer} is answered {code}: {text}",
            peer=request.getClientAddress(),
            code=code,
            text=text,
        )
        request.setResponseCode(code, HTTPStatus(code).phrase.encode("ascii"))
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        return f"{text}\n".encode()


@implementer(IListeningPort)
class _Port:
    """What listens on a resource."""

    def __init__(self, resource: WebSocketResource) -> None:
        self._resource = resource

    def startListening(self) -> None:
        """It listens from the beginning."""

    def stopListening(self) -> None:
        """Take no more streams."""
        self._resource.stop_listening()

    def getHost(self) -> IAddress:
        """Give where the resource is."""
        return self._resource.address()
