"""Writes answers: short ones at once, long ones as fast as the client takes them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request
from zope.interface import implementer

from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.elements import FAULT
from pkengine.engine.rest.faults import Fault
from pkengine.engine.rest.negotiation import XML, Form, accepts_gzip

#: Who reads nothing of an answer for so long is cut off.
LONGEST_PAUSE_S = 60.0

_WORTH_COMPRESSING = 1024
_COMPRESSION_LEVEL = 4

_log = Logger()


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


async def send_pieces(request: Request, content_type: str, pieces: AsyncIterator[bytes]) -> None:
    """Answer with a body that comes in pieces, compressed where the client likes that.

    What goes wrong before there is a second piece is raised, for then the answer has not
    begun.  Later the connection is cut, so that no client takes a part for the whole.
    """
    first = await anext(pieces, b"")
    second = await anext(pieces, None)
    request.setHeader(b"Vary", b"Accept, Accept-Encoding, Authorization")
    if second is None and len(first) < _WORTH_COMPRESSING:
        send_body(request, content_type, first)
        return
    compress = accepts_gzip(request)
    if compress:
        request.setHeader(b"Content-Encoding", b"gzip")
    if second is None:
        send_body(request, content_type, _compress(first) if compress else first)
        return
    _set_headers(request, content_type)
    whole = _chained(first, second, pieces)
    try:
        await _write(request, _compressed(whole) if compress else whole)
    except CancelledError:
        raise
    except TimeoutError:
        _log.info("A client that reads nothing of its answer is cut off")
        await _cut(request)
    except Exception:
        _log.failure("An answer broke off in the middle")
        await _cut(request)


async def _cut(request: Request) -> None:
    connection: Any = request.channel.transport
    connection.abortConnection()
    with suppress(ConnectionClosed):
        await request.notifyFinish()


async def _write(request: Request, pieces: AsyncIterator[bytes]) -> None:
    assert request.site is not None
    flow = _Flow(request.site.reactor)
    request.registerProducer(flow, True)
    try:
        async for piece in pieces:
            request.write(piece)
            await flow.open()
    finally:
        request.unregisterProducer()


def _set_headers(request: Request, content_type: str) -> None:
    charset = ";charset=UTF-8" if content_type == XML.CONTENT_TYPE else ""
    request.setHeader(b"Content-Type", (content_type + charset).encode("ascii"))
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")


async def _chained(
    first: bytes, second: bytes, rest: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    yield first
    yield second
    async for piece in rest:
        yield piece


def _compress(body: bytes) -> bytes:
    return gzip.compress(body, _COMPRESSION_LEVEL)


async def _compressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(level=_COMPRESSION_LEVEL, wbits=16 + zlib.MAX_WBITS)
    async for piece in pieces:
        if compressed := compressor.compress(piece):
            yield compressed
    yield compressor.flush()


@implementer(IPushProducer)
class _Flow:
    """Lets a writer wait while the connection has not taken what it was given.

    Args:
        clock: measures how long that takes.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._is_paused = False
        self._is_gone = False
        self._waiting: Deferred[None] | None = None

    async def open(self) -> None:
        """Wait until more may be written.

        Raises:
            CancelledError: the client has gone.
            TimeoutError: it has taken nothing for `LONGEST_PAUSE_S`.
        """
        if self._is_paused and not self._is_gone:
            self._waiting = Deferred()
            self._waiting.addTimeout(LONGEST_PAUSE_S, self._clock)
            await self._waiting
        if self._is_gone:
            raise CancelledError

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._is_paused = False
        self._go_on()

    def stopProducing(self) -> None:
        """See `IPushProducer`; the client has gone."""
        self._is_gone = True
        self._go_on()

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)
