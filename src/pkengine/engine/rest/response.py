"""Writes answers: short ones at once, long ones as fast as the client takes them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.web.server import Request
from zope.interface import implementer

from pkengine.engine.rest.elements import ACTION, FAULT, ActionResult
from pkengine.engine.rest.faults import Fault
from pkengine.engine.rest.negotiation import XML, Form, accepts_gzip

_WORTH_COMPRESSING = 1024
_COMPRESSION_LEVEL = 4


def send_body(request: Request, content_type: str, body: bytes) -> None:
    """Answer with a whole body; the status is set already."""
    _set_headers(request, content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.write(body)


def send_fault(request: Request, form: Form, fault: Fault, *, is_action: bool = False) -> None:
    """Answer with a fault, in the form that was asked for."""
    request.setResponseCode(fault.status)
    for name, value in fault.headers.items():
        request.setHeader(name.encode("ascii"), value.encode("utf-8"))
    if is_action:
        body = form.write(ACTION, ActionResult(status="failed", fault=fault), "")
    else:
        body = form.write(FAULT, fault, "")
    send_body(request, form.CONTENT_TYPE, body)


async def send_pieces(request: Request, content_type: str, pieces: Iterable[bytes]) -> None:
    """Answer with a body that comes in pieces, compressed where the client likes that."""
    remaining = iter(pieces)
    first = next(remaining, b"")
    second = next(remaining, None)
    request.setHeader(b"Vary", b"Accept, Accept-Encoding, Authorization")
    if second is None and len(first) < _WORTH_COMPRESSING:
        send_body(request, content_type, first)
        return
    compress = accepts_gzip(request)
    if compress:
        request.setHeader(b"Content-Encoding", b"gzip")
    if second is None:
        body = b"".join(_compressed([first])) if compress else first
        send_body(request, content_type, body)
        return
    _set_headers(request, content_type)
    whole = _chained(first, second, remaining)
    producer = _Pieces(request, _compressed(whole) if compress else whole)
    request.registerProducer(producer, False)
    await producer.finished


def _set_headers(request: Request, content_type: str) -> None:
    charset = ";charset=UTF-8" if content_type == XML.CONTENT_TYPE else ""
    request.setHeader(b"Content-Type", (content_type + charset).encode("ascii"))
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")


def _chained(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(level=_COMPRESSION_LEVEL, wbits=16 + zlib.MAX_WBITS)
    for piece in pieces:
        if compressed := compressor.compress(piece):
            yield compressed
    yield compressor.flush()


@implementer(IPullProducer)
class _Pieces:
    """Writes the next piece when the connection has taken the one before."""

    def __init__(self, request: Request, pieces: Iterator[bytes]) -> None:
        self._request = request
        self._pieces = pieces
        self.finished: Deferred[None] = Deferred()

    def resumeProducing(self) -> None:
        """See `IPullProducer`."""
        piece = next(self._pieces, None)
        if piece is not None:
            self._request.write(piece)
            return
        self._request.unregisterProducer()
        self.finished.callback(None)

    def stopProducing(self) -> None:
        """See `IPullProducer`; the client has gone."""
        if not self.finished.called:
            self.finished.cancel()
