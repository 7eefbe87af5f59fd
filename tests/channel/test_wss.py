"""Channels over real HTTPS: every mechanism, whose server it is, proxies, and bad answers."""

from __future__ import annotations

import datetime
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import treq
from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import (
    AlreadyListened,
    ConnectingCancelledError,
    ConnectionRefusedError,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from pkengine.auth.mechanisms import authenticator_from_folder
from pkengine.channel import Channel, Verbs, connect_channel, listen_channel
from pkengine.channel.engine_url import engine_endpoint, joining_endpoint, parse_engine_url
from pkengine.channel.http_proxy import HttpProxy, proxy_from_environment
from pkengine.channel.verbs import Nothing
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.errors import (
    AuthenticationError,
    BadProxy,
    ChannelError,
    InvalidEngineUrl,
    ServerCertificateRefused,
)
from pkengine.keys import KeyPair
from tests.auth.test_strings import MECHANISMS, make_folders
from tests.channel.https import Authority, answering, serve_https, url_of

LOOPBACK = [x509.IPAddress(ip_address("127.0.0.1"))]


def agents(resource: Resource) -> Site:
    """Make the site of an engine."""
    root, pkengine = Resource(), Resource()
    root.putChild(b"pkengine", pkengine)
    pkengine.putChild(b"agent", resource)
    return Site(root)


class Stream(Protocol):
    """Keeps what it gets, and how it ended."""

    def __init__(self) -> None:
        self.received = b""
        self.is_lost = False
        self.ended: Deferred[BaseException] = Deferred()
        self.made: Deferred[None] = Deferred()
        self.waiting: tuple[int, Deferred[None]] = (0, Deferred())

    def connectionMade(self) -> None:
        self.made.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        length, done = self.waiting
        if len(self.received) >= length and not done.called:
            done.callback(None)

    def when_received(self, length: int) -> Deferred[None]:
        self.waiting = (length, Deferred())
        self.dataReceived(b"")
        return self.waiting[1]

    def connectionLost(self, reason: Failure) -> None:
        self.is_lost = True
        self.ended.callback(reason.value)


class Wss(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.key_pair = KeyPair.generate("engine")
        self.resource = WebSocketResource(reactor, "/pkengine/agent")
        self.channels: list[Channel] = []

    async def listen(self, folder: Path, mechanism: str, **arguments: str) -> None:
        verbs = Verbs()
        verbs.add("shout", dict, lambda params, _: params["text"].upper())
        listener = await listen_channel(
            reactor,
            self.resource,
            authenticator_from_folder(mechanism, str(folder), **arguments),
            verbs=verbs,
            on_channel=self.channels.append,
        )
        self.addCleanup(listener.stopListening)

    async def serve(self, **arguments: Any) -> int:
        if not arguments:
            arguments = {"key_pair": self.key_pair}
        return await serve_https(self, agents(self.resource), **arguments)

    async def dial(
        self, folder: Path, mechanism: str, port: int, *, proxy: HttpProxy | None = None
    ) -> Channel:
        verbs = Verbs()
        verbs.add("whisper", Nothing, lambda _, __: "psst")
        endpoint = engine_endpoint(reactor, url_of(port), pin=self.key_pair.pin, proxy=proxy)
        authenticator = authenticator_from_folder(mechanism, str(folder))
        return await connect_channel(
            reactor, endpoint, authenticator, expected="engine", verbs=verbs
        )

    async def connect_stream(self, port: int, *, pinned: bool = True) -> Stream:
        """Open a bare stream."""
        endpoint = engine_endpoint(
            reactor, url_of(port), pin=self.key_pair.pin if pinned else None
        )
        stream = await endpoint.connect(Factory.forProtocol(Stream))

        def end() -> Deferred[BaseException]:
            if not stream.is_lost:
                stream.transport.abortConnection()
            return stream.ended

        self.addCleanup(end)
        return stream

    async def refused(self, port: int, *, pinned: bool = True) -> str:
        """Dial what does not take a stream; give the sentence."""
        with self.assertRaises(ChannelError) as caught:
            await self.connect_stream(port, pinned=pinned)
        return str(caught.exception)


class EveryMechanism(Wss):
    async def test_calls_go_both_ways_whatever_the_mechanism(self) -> None:
        for mechanism in MECHANISMS:
            self.resource.stop_listening()
            agent, engine = make_folders(Path(self.mktemp()), mechanism)
            await self.listen(engine, mechanism)
            channel = await self.dial(agent, mechanism, await self.serve())
            text = "long " * 50_000
            self.assertEqual(await channel.call("shout", {"text": text}), text.upper())
            self.assertEqual(await self.channels[-1].call("whisper"), "psst")
            self.assertEqual(self.channels[-1].peer_name, "agent")
            self.assertEqual(self.channels[-1].authenticated.mechanism, mechanism)
            channel.close()
            closed = await self.channels[-1].closed
            self.assertEqual(str(closed), "agent closed the channel.")
            await channel.closed

    async def test_without_a_proxy_both_ends_see_the_same_tls_connection(self) -> None:
        agent, engine = make_folders(Path(self.mktemp()), "hmac")
        await self.listen(engine, "hmac", requireDirect="yes")
        channel = await self.dial(agent, "hmac", await self.serve())
        self.assertEqual(self.channels[0].authenticated.facts["tls_path"], "direct")
        channel.close()
        await channel.closed

    async def test_a_key_that_the_engine_does_not_know_is_refused(self) -> None:
        agent, _ = make_folders(Path(self.mktemp()), "hmac")
        _, engine = make_folders(Path(self.mktemp()), "hmac")
        await self.listen(engine, "hmac")
        with self.assertRaises(AuthenticationError):
            await self.dial(agent, "hmac", await self.serve())
        self.assertEqual(self.channels, [])


class Streams(Wss):
    async def streams(self) -> tuple[Stream, Stream]:
        server = Stream()
        port = await self.resource.listen(Factory.forProtocol(lambda: server))
        self.assertEqual(str(port.getHost()), "/pkengine/agent")
        client = await self.connect_stream(await self.serve())
        await server.made
        return client, server

    async def test_a_reader_that_pauses_holds_up_the_writer(self) -> None:
        client, server = await self.streams()
        paused: Deferred[None] = Deferred()

        class Source:
            def resumeProducing(self) -> None:
                client.transport.write(b"x" * 65536)
                if not paused.called:
                    reactor.callLater(0, self.resumeProducing)

            def pauseProducing(self) -> None:
                if not paused.called:
                    paused.callback(None)

            def stopProducing(self) -> None:
                pass

        server.transport.pauseProducing()
        source = Source()
        client.transport.registerProducer(source, True)
        source.resumeProducing()
        await paused
        client.transport.unregisterProducer()
        held = len(server.received)
        server.transport.resumeProducing()
        client.transport.write(b"end")
        await server.when_received(held + 1)

    async def test_a_server_that_writes_much_is_held_up_as_well(self) -> None:
        client, server = await self.streams()
        states: list[str] = []
        paused: Deferred[None] = Deferred()

        class Source:
            def pauseProducing(self) -> None:
                states.append("paused")
                paused.callback(None)

            def resumeProducing(self) -> None:
                states.append("resumed")

            def stopProducing(self) -> None:
                states.append("stopped")

        client.transport.pauseProducing()
        server.transport.registerProducer(Source(), True)
        size = 16 * 1024 * 1024
        server.transport.write(b"y" * size)
        await paused
        client.transport.resumeProducing()
        await client.when_received(size)
        self.assertEqual(states, ["paused", "resumed"])
        server.transport.unregisterProducer()

    async def test_the_end_of_one_is_the_end_of_the_other(self) -> None:
        client, server = await self.streams()
        server.transport.write(b"bye")
        server.transport.loseConnection()
        await client.ended
        self.assertEqual(client.received, b"bye")
        await server.ended

    async def test_a_stream_is_cut_by_an_abort(self) -> None:
        client, server = await self.streams()
        client.transport.abortConnection()
        await server.ended
        await client.ended


class WhoTheServerIs(Wss):
    def setUp(self) -> None:
        super().setUp()
        self.factory = Factory.forProtocol(Stream)
        self.successResultOf(self.resource.listen(self.factory))
        self.authority = Authority()
        path = Path(self.mktemp())
        self.authority.write(path)
        self.trusted = str(path)

    async def test_a_pinned_key_is_enough_whatever_the_certificate_says(self) -> None:
        past = KeyPair.generate("other", subject_alternative_names=["other.example"])
        self.key_pair = past
        await self.connect_stream(await self.serve())

    async def test_another_key_than_the_pinned_one_is_refused_though_certified(self) -> None:
        self.patch_environment()
        port = await self.serve(options=self.authority.issue(LOOPBACK))
        with self.assertRaises(ServerCertificateRefused) as caught:
            await self.connect_stream(port)
        self.assertIn(f"expected {self.key_pair.pin}", str(caught.exception))

    async def test_a_certificate_of_an_authority_in_ssl_cert_file_is_accepted(self) -> None:
        self.patch_environment()
        await self.connect_stream(
            await self.serve(options=self.authority.issue(LOOPBACK)), pinned=False
        )

    async def test_a_pinned_key_is_no_certificate(self) -> None:
        self.patch_environment()
        sentence = await self.refused(await self.serve(), pinned=False)
        self.assertEqual(
            sentence,
            "The certificate of 127.0.0.1 is self-signed: pin its key, or have a certificate "
            "authority sign it.",
        )

    async def test_an_unknown_authority_is_refused(self) -> None:
        self.patch_environment()
        port = await self.serve(options=Authority().issue(LOOPBACK))
        self.assertIn("not trusted here", await self.refused(port, pinned=False))

    async def test_a_certificate_that_has_expired_is_refused(self) -> None:
        self.patch_environment()
        port = await self.serve(options=self.authority.issue(LOOPBACK, valid_days=-1))
        self.assertIn("has expired", await self.refused(port, pinned=False))

    async def test_a_clock_an_hour_off_is_told_of(self) -> None:
        self.patch_environment()
        options = self.authority.issue(LOOPBACK, begins=datetime.timedelta(hours=1))
        port = await self.serve(options=options)
        said = await self.refused(port, pinned=False)
        self.assertIn("is not valid yet: compare the clocks of both machines", said)

    async def test_a_certificate_for_another_name_is_refused(self) -> None:
        self.patch_environment()
        port = await self.serve(options=self.authority.issue([x509.DNSName("other.example")]))
        self.assertIn("is for another name", await self.refused(port, pinned=False))

    def patch_environment(self) -> None:
        previous = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = self.trusted
        if previous is None:
            self.addCleanup(os.environ.pop, "SSL_CERT_FILE")
        else:
            self.addCleanup(os.environ.__setitem__, "SSL_CERT_FILE", previous)


class WhereHostsJoin(Wss):
    async def test_it_lies_below_the_engines_url_and_any_certificate_will_do(self) -> None:
        below = WebSocketResource(reactor, "/pkengine/agent/join")
        folder = Resource()
        folder.putChild(b"join", below)
        streams: list[Stream] = []

        def keep() -> Stream:
            streams.append(Stream())
            return streams[-1]

        await below.listen(Factory.forProtocol(keep))
        options = Authority().issue(b"no names", valid_days=-1)
        port = await serve_https(self, agents(folder), options=options)
        for number, path in enumerate(("/pkengine/agent", "/pkengine/agent/"), 1):
            endpoint = joining_endpoint(reactor, url_of(port, path))
            stream = await endpoint.connect(Factory.forProtocol(Stream))
            self.assertEqual(len(streams), number)
            await streams[-1].made
            stream.transport.write(b"who are you?")
            await streams[-1].when_received(12)
            stream.transport.loseConnection()
            for each in (stream, streams[-1]):
                await each.ended


class BadAnswers(Wss):
    async def answered(self, answer: bytes | None) -> str:
        return await self.refused(await serve_https(self, answering(answer), self.key_pair))

    async def test_a_server_that_closes_without_an_answer(self) -> None:
        self.assertIn("closed the connection without an answer", await self.answered(None))

    async def test_a_proxy_that_does_not_reach_the_engine(self) -> None:
        sentence = await self.answered(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        self.assertIn("502 Bad Gateway: a proxy in front of the engine does not reach", sentence)

    async def test_a_page_in_place_of_a_websocket(self) -> None:
        sentence = await self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        self.assertIn("200 OK: what answers there is not the engine", sentence)

    async def test_a_redirect_is_named_and_not_followed(self) -> None:
        sentence = await self.answered(
            b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.example/\r\n\r\n"
        )
        self.assertIn("'https://elsewhere.example/': redirects are not followed", sentence)

    async def test_an_unknown_status_and_what_is_not_http(self) -> None:
        self.assertIn("answered 799: expected 101", await self.answered(b"HTTP/1.1 799 ?\r\n\r\n"))
        self.assertIn("no agreement", await self.answered(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"))
        wrong_accept = (
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: AAAA\r\n\r\n"
        )
        self.assertIn("no agreement", await self.answered(wrong_accept))
        self.assertIn(
            "no agreement", await self.answered(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 99999)
        )

    async def test_what_comes_with_the_agreement_is_not_lost(self) -> None:
        # A server may send its first frame in the packet of its agreement.
        greeting = Factory.forProtocol(Greeting)
        await self.resource.listen(greeting)
        stream = await self.connect_stream(await self.serve())
        await stream.when_received(5)
        self.assertEqual(stream.received, b"hello")

    async def test_a_server_that_never_answers_is_given_up(self) -> None:
        clock, opened = Clock(), Deferred()
        port = await serve_https(self, Factory.forProtocol(lambda: Silent(opened)), self.key_pair)
        endpoint = engine_endpoint(reactor, url_of(port), pin=self.key_pair.pin)
        endpoint._reactor = clock
        connecting = endpoint.connect(Factory.forProtocol(Stream))
        closed = await opened
        clock.advance(45.0)
        with self.assertRaises(ChannelError) as caught:
            await connecting
        self.assertIn("gave no answer within 45 s", str(caught.exception))
        await closed

    async def test_an_attempt_can_be_cancelled(self) -> None:
        opened: Deferred[Deferred[None]] = Deferred()
        port = await serve_https(self, Factory.forProtocol(lambda: Silent(opened)), self.key_pair)
        endpoint = engine_endpoint(reactor, url_of(port), pin=self.key_pair.pin)
        connecting = endpoint.connect(Factory.forProtocol(Stream))
        closed = await opened
        connecting.cancel()
        with self.assertRaises(ConnectingCancelledError):
            await connecting
        await closed

    async def test_a_port_where_nobody_listens_is_a_connect_error(self) -> None:
        probe = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory())
        port = probe.getHost().port
        await probe.stopListening()
        with self.assertRaises(ConnectionRefusedError):
            await self.connect_stream(port)


class Greeting(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(b"hello")


class Silent(Protocol):
    """Hears a request, and says nothing."""

    def __init__(self, opened: Deferred[Deferred[None]]) -> None:
        self.opened = opened
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.opened.callback(self.closed)

    def connectionLost(self, reason: Failure) -> None:
        self.closed.callback(None)


class WhatTheResourceRefuses(Wss):
    """Requests that are not those of an agent, over plain HTTP as behind a proxy."""

    async def status(
        self, *, upgrade: bool = True, headers: dict[str, str] | None = None
    ) -> tuple:
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            agents(self.resource)
        )
        self.addCleanup(port.stopListening)
        wanted = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version": "13",
        }
        response = await treq.get(
            f"http://127.0.0.1:{port.getHost().port}/pkengine/agent",
            headers={**(wanted if upgrade else {}), **(headers or {})},
            persistent=False,
        )
        return response.code, await response.text()

    async def test_a_browser_is_refused_by_its_origin(self) -> None:
        await self.resource.listen(Factory.forProtocol(Stream))
        for origin in ("https://engine.example", "null", ""):
            code, text = await self.status(headers={"Origin": origin})
            self.assertEqual((code, "browsers are refused" in text), (403, True), origin)

    async def test_who_asks_for_a_page_is_told_what_this_is(self) -> None:
        await self.resource.listen(Factory.forProtocol(Stream))
        code, text = await self.status(upgrade=False)
        self.assertEqual(code, 426)
        self.assertIn("must pass on the headers Upgrade and Connection", text)
        for odd in (
            {"Sec-WebSocket-Version": "7"},
            {"Sec-WebSocket-Version": "\xe9"},
            {"Sec-WebSocket-Protocol": "a, \xe9"},
            {"Connection": "Upgrade, \xe9"},
            {"Connection": "close"},
            {"Upgrade": "h2c"},
        ):
            code, _ = await self.status(headers=odd)
            self.assertEqual(code, 426, odd)

    async def test_before_somebody_listens_and_after_nobody_is_taken(self) -> None:
        self.assertEqual((await self.status())[0], 503)
        port = await self.resource.listen(Factory.forProtocol(Stream))
        with self.assertRaises(AlreadyListened):
            self.resource.listen(Factory())
        port.stopListening()
        self.assertEqual((await self.status())[0], 503)

    async def test_a_factory_that_wants_nobody_is_heard(self) -> None:
        class Nobody(Factory):
            def buildProtocol(self, address: object) -> None:
                return None

        await self.resource.listen(Nobody())
        self.assertEqual((await self.status())[0], 503)


class Proxy(Protocol):
    """An HTTP proxy that knows CONNECT, and nothing else."""

    other: Protocol | None = None

    def __init__(self, owner: HttpProxies) -> None:
        self.owner = owner
        self.head = b""

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
            return
        self.head += data
        if b"\r\n\r\n" not in self.head:
            return
        self.owner.requests.append(self.head)
        if self.owner.answer is not None:
            self.transport.write(self.owner.answer)
            self.transport.loseConnection()
            return
        port = int(self.head.split(b" ")[1].rpartition(b":")[2])
        back = Back(self)
        connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), back).addCallback(
            self.joined
        )

    def joined(self, back: Protocol) -> None:
        self.other = back
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def connectionLost(self, reason: Failure) -> None:
        if self.other is not None:
            self.other.transport.loseConnection()


class Back(Protocol):
    def __init__(self, front: Proxy) -> None:
        self.front = front

    def dataReceived(self, data: bytes) -> None:
        self.front.transport.write(data)

    def connectionLost(self, reason: Failure) -> None:
        self.front.transport.loseConnection()


class HttpProxies(Wss):
    answer: bytes | None = None

    async def proxy(self, credentials: str = "") -> HttpProxy:
        self.requests: list[bytes] = []
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            Factory.forProtocol(lambda: Proxy(self))
        )
        self.addCleanup(port.stopListening)
        return HttpProxy.parse(f"http://{credentials}127.0.0.1:{port.getHost().port}")

    async def test_a_channel_goes_through_connect_with_tls_end_to_end(self) -> None:
        agent, engine = make_folders(Path(self.mktemp()), "hmac")
        await self.listen(engine, "hmac", requireDirect="yes")
        port = await self.serve()
        proxy = await self.proxy("me:s%40crit@")
        channel = await self.dial(agent, "hmac", port, proxy=proxy)
        self.assertEqual(await channel.call("shout", {"text": "hello"}), "HELLO")
        [request] = self.requests
        self.assertTrue(request.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % port))
        self.assertIn(b"Proxy-Authorization: Basic bWU6c0Bjcml0\r\n", request)
        channel.close()
        await channel.closed

    async def test_a_proxy_that_refuses_is_named_without_its_password(self) -> None:
        for answer, expected in (
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "give user and password"),
            (b"HTTP/1.1 403 No\r\n\r\n", "must be allowed"),
            (b"HTTP/1.1 500 No\r\n\r\n", "connects nobody"),
            (b"what?\r\n\r\n", "is not HTTP"),
            (b"", "closed the connection without an answer"),
        ):
            self.answer = answer
            proxy = await self.proxy("me:s%40crit@")
            endpoint = engine_endpoint(reactor, url_of(1), pin=self.key_pair.pin, proxy=proxy)
            with self.assertRaises(ChannelError) as caught:
                await endpoint.connect(Factory.forProtocol(Stream))
            self.assertIn(expected, str(caught.exception))
            self.assertIn(str(proxy), str(caught.exception))
            self.assertNotIn("crit", str(caught.exception) + repr(proxy))


class TextForms(SynchronousTestCase):
    def test_urls_of_engines(self) -> None:
        for text, expected in (
            ("https://engine.example", "wss://engine.example/pkengine/agent"),
            ("wss://engine.example:8443/", "wss://engine.example:8443/pkengine/agent"),
            ("wss://[::1]:8443/elsewhere?a=b", "wss://[::1]:8443/elsewhere?a=b"),
        ):
            self.assertEqual(parse_engine_url(text).geturl(), expected)

    def test_what_is_no_url_of_an_engine(self) -> None:
        for text in (
            "",
            "engine.example",
            "http://engine.example",
            "ws://engine.example",
            "wss://",
            "wss://engine:port",
            "wss://engine:0",
            "wss://engine:99999",
            "wss://me:secret@engine.example",
            "wss://engine.example/#here",
            "wss://engine.example/a b",
            "wss://[::1",
        ):
            with self.assertRaises(InvalidEngineUrl, msg=text):
                parse_engine_url(text)

    def test_urls_of_proxies(self) -> None:
        self.assertEqual(str(HttpProxy.parse("proxy.example")), "proxy.example:80")
        self.assertEqual(str(HttpProxy.parse("http://[::1]:3128/")), "[::1]:3128")
        for text in ("https://proxy", "http://", "http://me:pass@proxy:port", "socks5://x"):
            with self.assertRaises(BadProxy) as caught:
                HttpProxy.parse(text)
            self.assertNotIn("pass", str(caught.exception))

    def test_which_hosts_the_environment_excepts(self) -> None:
        environment = {
            "HTTPS_PROXY": "http://proxy:3128",
            "no_proxy": "localhost, .example.org,*.example.net,192.0.2.0/24,bad/99,,2001:db8::1",
        }
        for host, goes_through in (
            ("engine.example.com", True),
            ("localhost", False),
            ("notlocalhost", True),
            ("a.example.org", False),
            ("example.org", False),
            ("A.Example.NET", False),
            ("192.0.2.7", False),
            ("192.0.3.7", True),
            ("2001:db8::1", False),
        ):
            found = proxy_from_environment(environment, host)
            self.assertEqual(found is not None, goes_through, host)
        self.assertIsNone(proxy_from_environment({}, "host"))
        star = {"https_proxy": "http://proxy:1", "NO_PROXY": "*"}
        self.assertIsNone(proxy_from_environment(star, "host"))
