"""Clients that are slow, or send what they should not, over real sockets; others are served."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from pkengine.engine.accounts import ADMIN
from pkengine.engine.model import Severity
from pkengine.engine.rest import response, server
from pkengine.engine.store.events import insert_event
from tests.engine.engine_process import EngineProcess
from tests.engine.rest.test_protocol import BOMB
from tests.engine.rest.test_server import HttpsTestCase

HEAD = b"GET /ovirt-engine/api/hosts HTTP/1.1\r\nHost: 127.0.0.1\r\n"


class Client(Protocol):
    """Sends what it is told to, and reads unless it is told not to.

    Attributes:
        received: all that came.
        closed: fires when the connection has gone.
    """

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[None] = Deferred()

    def end(self) -> Deferred[None]:
        if not self.closed.called:
            self.transport.abortConnection()  # type: ignore[union-attr]
        return self.closed

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any) -> None:
        self.closed.callback(None)


async def connect(port: int, ca_file: Path) -> Client:
    root = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(ca_file.read_bytes())])
    endpoint = wrapClientTLS(
        ssl.optionsForClientTLS("localhost", trustRoot=root),
        HostnameEndpoint(reactor, b"127.0.0.1", port),
    )
    client = Client()
    await connectProtocol(endpoint, client)
    return client


async def drip(client: Client, data: bytes) -> None:
    """Send an octet now and then, for as long as the connection is there."""
    while not client.closed.called:
        client.transport.write(data)  # type: ignore[union-attr]
        await deferLater(reactor, 0.05)


class SlowClientTests(HttpsTestCase):
    async def setUp(self) -> None:
        self.patch(server, "IDLE_TIMEOUT_S", 3.0)
        self.patch(response, "LONGEST_PAUSE_S", 1.0)
        await super().setUp()
        self.port = int(self.origin.rpartition(":")[2])

    async def client(self) -> Client:
        client = await connect(self.port, self.ca_file)
        self.addCleanup(client.end)
        return client

    async def assert_others_are_served(self) -> None:
        other = await self.client()
        other.transport.write(HEAD + b"Connection: close\r\n\r\n")  # type: ignore[union-attr]
        await other.closed
        self.assertTrue(other.received.startswith(b"HTTP/1.1 401 "), other.received)

    async def test_headers_that_drip_end_with_their_time_and_others_are_served(self) -> None:
        slow = await gatherResults([Deferred.fromCoroutine(self.client()) for _ in range(50)])
        for client in slow:
            client.transport.write(HEAD + b"X: ")
        drips = [Deferred.fromCoroutine(drip(client, b"x")) for client in slow]
        await self.assert_others_are_served()
        await gatherResults(drips)
        self.assertEqual({client.received for client in slow}, {b""})

    async def test_body_that_drips_ends_with_its_time_and_others_are_served(self) -> None:
        head = b"POST /ovirt-engine/api/hosts HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        slow = await gatherResults([Deferred.fromCoroutine(self.client()) for _ in range(50)])
        for client in slow:
            client.transport.write(head + b"Content-Length: 1000000\r\n\r\n<host>")
        drips = [Deferred.fromCoroutine(drip(client, b" ")) for client in slow]
        await self.assert_others_are_served()
        await gatherResults(drips)
        self.assertEqual({client.received for client in slow}, {b""})

    async def test_client_that_does_not_read_its_answer_is_cut_off(self) -> None:
        draft = self.engine.events.draft(13, Severity.NORMAL, "x" * 30_000)

        def add(connection: Connection) -> None:
            for _ in range(700):
                insert_event(connection, draft)

        await self.engine.store.write(add)
        cut: Deferred[None] = Deferred()

        def observe(event: LogEvent) -> None:
            if "reads nothing" in (event.get("log_format") or ""):
                cut.callback(None)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        slow = await self.client()
        # It reads the first answer, so that the handshake of TLS is over.
        slow.transport.write(HEAD + b"\r\n")  # type: ignore[union-attr]
        while b"</fault>" not in slow.received:
            await deferLater(reactor, 0.01)
        slow.transport.pauseProducing()  # type: ignore[union-attr]
        authorization = f"Authorization: {self.engine.authorization}\r\n\r\n".encode()
        events = HEAD.replace(b"/hosts", b"/events?max=100000")
        slow.transport.write(events + authorization)  # type: ignore[union-attr]
        await self.assert_others_are_served()
        await cut
        slow.transport.resumeProducing()  # type: ignore[union-attr]
        await slow.closed
        self.assertFalse(slow.received.endswith(b"0\r\n\r\n"))


class HostileRequestTests(TestCase):
    """Requests to ``twistd pkengine``, a process of its own whose memory can be looked at."""

    timeout = 120
    if shutil.which("curl") is None:
        skip = "curl is missing: apt-get install curl"

    async def setUp(self) -> None:
        self.engine = EngineProcess(reactor, Path(self.mktemp()))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.engine.stop()))
        await self.engine.ready
        port = int(self.engine.url.split(":")[2].partition("/")[0])
        self.client = await connect(port, self.engine.state / "https.crt")
        self.addCleanup(self.client.end)
        user = base64.b64encode(f"{ADMIN}:{self.engine.password}".encode())
        self.authorization = b"Authorization: Basic " + user + b"\r\n"

    def peak(self) -> int:
        """Give the most memory that the engine has had, in MiB."""
        for line in Path(f"/proc/{self.engine.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
        raise AssertionError("Linux does not tell.")

    async def send(self, *parts: bytes) -> bytes:
        """Send a request after which the engine closes the connection; give the answer."""
        for part in parts:
            self.client.transport.write(part)  # type: ignore[union-attr]
        await self.client.closed
        return self.client.received

    async def post(self, body: bytes, content_type: bytes = b"application/xml") -> bytes:
        head = b"POST /ovirt-engine/api/hosts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        length = b"Content-Length: %d\r\n" % len(body)
        return await self.send(
            head,
            self.authorization,
            b"Content-Type: " + content_type + b"\r\n",
            length,
            b"\r\n",
            body,
        )

    async def test_body_of_100_mib_without_a_length_is_answered_in_bounded_memory(self) -> None:
        before = self.peak()
        self.client.transport.write(  # type: ignore[union-attr]
            b"POST /ovirt-engine/sso/oauth/token HTTP/1.1\r\nHost: localhost\r\n"
            b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
        for _ in range(400):
            self.client.transport.write(chunk)  # type: ignore[union-attr]
            await deferLater(reactor, 0)
        answer = await self.send(b"0\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 413 "), answer[:80])
        self.assertLess(self.peak() - before, 24)

    async def test_entities_are_refused_before_they_grow(self) -> None:
        before = self.peak()
        answer = await self.post(BOMB.encode())
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer[:80])
        self.assertIn(b"entities, which are refused", answer)
        self.assertLess(self.peak() - before, 80)  # checking a password takes 64

    async def test_deep_nesting_is_refused(self) -> None:
        answer = await self.post(b"[" * 500_000, b"application/json")
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer[:80])

    async def test_header_that_would_begin_another_is_one_header(self) -> None:
        answer = await self.send(
            HEAD,
            b"Connection: close\r\nCorrelation-Id: a\rSet-Cookie: b=c\r\n",
            self.authorization,
            b"\r\n",
        )
        head = answer.partition(b"\r\n\r\n")[0]
        self.assertNotIn(b"Set-Cookie:", head)

    async def test_two_lengths_are_refused(self) -> None:
        answer = await self.send(
            b"POST /ovirt-engine/api/hosts HTTP/1.1\r\nHost: localhost\r\n",
            self.authorization,
            b"Content-Length: 4\r\nContent-Length: 40\r\n\r\n<a/>",
        )
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer[:80])
