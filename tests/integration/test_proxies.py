"""Every mechanism through a proxy that ends TLS: nginx, HAProxy, and one that is hostile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pkengine.auth import AuthenticatedClientEndpoint
from pkengine.auth.mechanisms import authenticator_from_folder
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IAuthenticatedTransport
from tests.auth.test_strings import MECHANISMS, make_folders
from tests.integration.proxies import (
    HostileProxy,
    proxy_certificate,
    start_haproxy,
    start_nginx,
)

SECRET = b"a word that only the two ends should know"


class Recorder(Protocol):
    """Keeps what it gets and how it ended."""

    def __init__(self) -> None:
        self.received = b""
        self.reason: Failure | None = None
        self.ended: Deferred[None] = Deferred()
        self._waiting: list[tuple[int, Deferred[bytes]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        for length, waiting in self._waiting[:]:
            if len(self.received) >= length:
                self._waiting.remove((length, waiting))
                waiting.callback(self.received)

    def when_received(self, length: int) -> Deferred[bytes]:
        waiting: Deferred[bytes] = Deferred()
        self._waiting.append((length, waiting))
        self.dataReceived(b"")
        return waiting

    def connectionLost(self, reason: Failure) -> None:
        self.reason = reason
        self.ended.callback(None)


class Answering(Recorder):
    """The server's end: answers in capitals."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if data:
            self.transport.write(data.upper())


class ThroughProxy(TestCase):
    """A server behind a proxy, and a client in front of it."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.servers: list[Answering] = []
        self.pair = proxy_certificate(self.folder)

    def _server(self) -> Answering:
        server = Answering()
        self.servers.append(server)
        return server

    async def serve(self, mechanism: str, **arguments: str) -> int:
        """Start a server that authenticates; give its port."""
        self.agent, engine = make_folders(self.folder / mechanism, mechanism)
        more = "".join(f":{name}={value}" for name, value in arguments.items())
        endpoint = serverFromString(
            reactor,
            rf"pk:tcp\:0\:interface\=127.0.0.1:trust={engine}:mechanism={mechanism}{more}",
        )
        port = await endpoint.listen(Factory.forProtocol(self._server))
        self.addCleanup(port.stopListening)
        return port.getHost().port

    async def dial(self, mechanism: str, port: int) -> Recorder:
        """Dial through TLS that somebody ends."""
        root = trustRootFromCertificates([Certificate.loadPEM(self.pair.certificate_pem())])
        below = wrapClientTLS(
            optionsForClientTLS("localhost", trustRoot=root),
            clientFromString(reactor, f"tcp:127.0.0.1:{port}"),
        )
        endpoint = AuthenticatedClientEndpoint(
            reactor, below, authenticator_from_folder(mechanism, str(self.agent)), "engine"
        )
        return await endpoint.connect(Factory.forProtocol(Recorder))

    async def hang_up(self, client: Recorder) -> None:
        client.transport.loseConnection()
        await client.ended
        await self.servers[-1].ended


class RealProxies(ThroughProxy):
    async def every_mechanism_through(
        self, start: Callable[[TestCase, Path, int], Awaitable[int]]
    ) -> None:
        for mechanism in MECHANISMS:
            backend = await self.serve(mechanism)
            client = await self.dial(mechanism, await start(self, self.folder, backend))
            data = SECRET * 10_000  # many records
            client.transport.write(data)
            self.assertEqual(await client.when_received(len(data)), data.upper())
            authenticated = IAuthenticatedTransport(self.servers[-1].transport).authenticated
            self.assertEqual(authenticated.peer.name, "agent")
            # The proxy speaks plain TCP to the server: only nested TLS compares that, too.
            expected = "proxied" if mechanism == "pin" else "unknown"
            self.assertEqual(authenticated.facts["tls_path"], expected)
            await self.hang_up(client)

    async def test_every_mechanism_works_through_nginx(self) -> None:
        await self.every_mechanism_through(start_nginx)

    async def test_every_mechanism_works_through_haproxy(self) -> None:
        await self.every_mechanism_through(start_haproxy)

    async def test_where_a_direct_path_is_required_a_real_proxy_is_refused(self) -> None:
        for mechanism in MECHANISMS:
            backend = await self.serve(mechanism, requireDirect="yes")
            port = await start_haproxy(self, self.folder, backend)
            with self.assertRaises(AuthenticationError):
                await self.dial(mechanism, port)
            self.assertEqual(self.servers, [])


class AHostileProxy(ThroughProxy):
    async def attack(self, mechanism: str) -> tuple[HostileProxy, Recorder, Answering]:
        """Let a connection through unharmed at first."""
        backend = await self.serve(mechanism)
        proxy = HostileProxy(backend)
        port = await proxy.start(self, self.pair)
        client = await self.dial(mechanism, port)
        client.transport.write(SECRET)
        await client.when_received(len(SECRET))
        return proxy, client, self.servers[-1]

    async def test_it_reads_what_a_mac_protects_and_not_what_nested_tls_protects(self) -> None:
        for mechanism in MECHANISMS:
            proxy, client, _ = await self.attack(mechanism)
            self.assertEqual(SECRET in proxy.seen, mechanism != "pin", mechanism)
            await self.hang_up(client)

    async def test_what_it_changes_is_not_delivered_and_ends_the_connection(self) -> None:
        for mechanism in MECHANISMS:
            proxy, client, server = await self.attack(mechanism)
            proxy.change = lambda direction, data: data[:-1] + bytes([data[-1] ^ 1])
            client.transport.write(b"another word")
            await server.ended
            await client.ended
            self.assertEqual(server.received, SECRET)
            self.assertIsInstance(server.reason.value, AuthenticationError)

    async def test_what_it_repeats_is_not_delivered_and_ends_the_connection(self) -> None:
        for mechanism in MECHANISMS:
            proxy, client, server = await self.attack(mechanism)
            proxy.change = lambda direction, data: data + data
            client.transport.write(b"another word")
            await server.ended
            await client.ended
            # What came first is whole and right; the copy behind it is what is refused.
            self.assertIn(server.received, (SECRET, SECRET + b"another word"))
            self.assertIsInstance(server.reason.value, AuthenticationError)

    async def test_what_it_leaves_out_is_noticed_with_what_comes_next(self) -> None:
        for mechanism in MECHANISMS:
            proxy, client, server = await self.attack(mechanism)
            swallowed: Deferred[None] = Deferred()

            def swallow(direction: str, data: bytes, done: Deferred[None] = swallowed) -> bytes:
                done.callback(None)
                return b""

            proxy.change = swallow
            client.transport.write(b"lost")
            await swallowed
            proxy.change = lambda direction, data: data
            client.transport.write(b"next")
            await server.ended
            await client.ended
            self.assertEqual(server.received, SECRET)
            self.assertIsInstance(server.reason.value, AuthenticationError)

    async def test_it_cannot_take_an_authenticated_connection_over(self) -> None:
        for mechanism in MECHANISMS:
            proxy, client, server = await self.attack(mechanism)
            proxy.passes_the_end = False
            front, back = proxy.legs[-1]
            front.transport.abortConnection()
            await client.ended
            back.transport.write(b"\0\0\0\6\1mallet" + bytes(32))
            await server.ended
            self.assertEqual(server.received, SECRET)
            self.assertIsInstance(server.reason.value, AuthenticationError)

    async def test_a_recorded_session_is_worth_nothing_to_it(self) -> None:
        for mechanism in MECHANISMS:
            proxy, client, _ = await self.attack(mechanism)
            recorded: list[bytes] = []
            await self.hang_up(client)
            proxy.change = lambda direction, data, recorded=recorded: (
                recorded.append(data) or data if direction == "to the server" else data
            )
            await self.hang_up(await self.dial(mechanism, proxy.port))
            served = len(self.servers)
            replayed = Recorder()
            below = clientFromString(reactor, f"tcp:127.0.0.1:{proxy.backend}")
            await below.connect(Factory.forProtocol(lambda replayed=replayed: replayed))
            for data in recorded:
                replayed.transport.write(data)
            await replayed.ended
            self.assertEqual(len(self.servers), served)

    async def test_a_cut_is_not_taken_for_an_end(self) -> None:
        for mechanism in MECHANISMS:
            proxy, client, server = await self.attack(mechanism)
            front, back = proxy.legs[-1]
            back.transport.loseConnection()
            front.transport.loseConnection()
            for end in (server, client):
                await end.ended
                self.assertFalse(end.reason.check(ConnectionDone))
