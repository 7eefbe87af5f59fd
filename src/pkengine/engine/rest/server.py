"""The HTTP server around the API: bodies are bounded while they arrive, logs have no query."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.web import http, server
from twisted.web.resource import IResource

from pkengine.engine.paced_connections import hasten
from pkengine.engine.rest.application import form_for_faults
from pkengine.engine.rest.elements import FAULT
from pkengine.engine.rest.faults import BodyTooLarge, fault_of
from pkengine.engine.rest.request import LARGEST_BODY, body_too_large, client_address
from pkengine.engine.trusted_proxies import TrustedProxies

#: A connection that says nothing for so long is closed.
IDLE_TIMEOUT_S = 60


class BoundedRequest(server.Request):
    """A request that knows where it comes from, and never holds more than `LARGEST_BODY` octets.

    A length that is too large is answered before the body is read.  A body of no declared
    length that grows too large is read to its end and thrown away, then answered.
    """

    is_too_large = False
    _is_answered = False

    def __init__(self, channel: Any, *more: Any) -> None:
        super().__init__(channel, *more)  # type: ignore[no-untyped-call]
        self._trusted_proxies: TrustedProxies = channel.factory.trusted_proxies

    def getClientAddress(self) -> IAddress:
        """Give the address that the request comes from, as far as trusted proxies tell it."""
        peer = super().getClientAddress()  # type: ignore[no-untyped-call]
        forwarded_for = self.requestHeaders.getRawHeaders("X-Forwarded-For") or []
        return self._trusted_proxies.client(peer, forwarded_for)

    def gotLength(self, length: int | None) -> None:
        """See `twisted.web.iweb.IRequest`; called before the body is read."""
        self.content = BytesIO()
        if length is None or length <= LARGEST_BODY:
            return
        self.is_too_large = True
        # Who waits for "100 Continue" is not to get it behind this answer.
        self.requestHeaders.removeHeader(b"Expect")
        self._answer_at_once(body_too_large())

    def handleContentChunk(self, data: bytes) -> None:
        """See `twisted.web.iweb.IRequest`."""
        assert self.content is not None
        if self.content.tell() + len(data) > LARGEST_BODY:
            self.is_too_large = True
        if not self.is_too_large:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """See `twisted.web.iweb.IRequest`; called after the body was read."""
        if not self._is_answered:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """See `twisted.web.iweb.IRequest`.

        Whoever was given what it asked for is no longer one of a crowd that comes back.
        """
        if self.code < http.BAD_REQUEST and self.channel is not None:
            hasten(self.channel.transport)
        super().finish()  # type: ignore[no-untyped-call]

    def _answer_at_once(self, error: BodyTooLarge) -> None:
        self._is_answered = True
        fault = fault_of(error)
        assert fault is not None
        form = form_for_faults(self)
        body = form.write(FAULT, fault, "")
        self.channel.writeHeaders(
            b"HTTP/1.1",
            b"%d" % fault.status,
            fault.reason.encode("ascii"),
            [
                (b"Content-Type", form.CONTENT_TYPE.encode("ascii")),
                (b"Content-Length", b"%d" % len(body)),
                (b"Connection", b"close"),
            ],
        )
        self.channel.write(body)
        self.channel.loseConnection()


class DeadlineChannel(http.HTTPChannel):
    """A connection that gives each request `IDLE_TIMEOUT_S` to arrive, however its octets drip."""

    #: The longest search in percent-encoding fits, with all else that there may be beside it.
    MAX_LENGTH = 32 * 1024
    totalHeadersSize = 64 * 1024

    _is_arriving = False

    def dataReceived(self, data: bytes) -> None:
        """See `IProtocol`."""
        if not self._is_arriving:
            self._is_arriving = True
            super().resetTimeout()  # type: ignore[no-untyped-call]
        super().dataReceived(data)  # type: ignore[no-untyped-call]

    def resetTimeout(self) -> None:
        """Give no more time; called for each octet."""

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a request line, or a header, that is too long, and close.

        Twisted's own way closes without an answer, and over TLS not even that: it waits for
        the producer that this channel is.
        """
        status = b"431 Request Header Fields Too Large" if self.requests else b"414 URI Too Long"
        assert self.transport is not None
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        self.loseConnection()  # type: ignore[no-untyped-call]

    def allContentReceived(self) -> None:
        """See `HTTPChannel`: the request is whole."""
        self._is_arriving = False
        super().allContentReceived()  # type: ignore[no-untyped-call]


class HttpServer(server.Site):
    """Serves the resources of the engine.

    Args:
        resource: the root.
        reactor: for time-outs.
        trusted_proxies: who is believed about where requests come from.
    """

    noisy = False
    _log = Logger()
    protocol = DeadlineChannel  # type: ignore[assignment]  # HTTP/1.1 alone needs no wrapper

    def __init__(
        self,
        resource: IResource,
        reactor: Any,
        trusted_proxies: TrustedProxies = TrustedProxies(),  # noqa: B008 - it is immutable
    ) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            resource, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT_S, reactor=reactor
        )
        self.displayTracebacks = False
        self.trusted_proxies = trusted_proxies

    def acceptableProtocols(self) -> list[bytes]:
        """See `IProtocolNegotiationFactory`.

        HTTP/2 is not offered: its streams would each have a body on the way, and there is
        no way to refuse one before it has come whole.
        """
        return [b"http/1.1"]

    def log(self, request: http.Request) -> None:
        """Log an answer: without the query, in which a careless client may put secrets."""
        self._log.info(
            "{address} {method} {path} {status}",
            address=client_address(request),
            method=request.method.decode("ascii", "replace"),
            path=request.path.decode("ascii", "replace"),
            status=request.code,
        )
