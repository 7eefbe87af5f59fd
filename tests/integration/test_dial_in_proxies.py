"""Agents that dial in through proxies, set up as the documentation says."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.utils import getProcessOutput
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from zope.interface import implementer

from pkengine.auth.mechanisms import OWN_MECHANISMS, authenticator_from_folder
from pkengine.channel import Channel, Verbs, connect_channel, listen_channel
from pkengine.channel.connection import HEARTBEAT_S
from pkengine.channel.engine_url import engine_endpoint
from pkengine.channel.http_proxy import HttpProxy
from pkengine.channel.server_certificate import PinnedServer
from pkengine.channel.websocket_client import WebSocketClientEndpoint
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.engine.https import listen_https
from pkengine.engine.rest import HttpServer
from pkengine.engine.trusted_proxies import TrustedProxies
from pkengine.errors import AuthenticationError, ChannelClosed, ChannelError
from pkengine.keys import KeyPair, Pin
from tests.auth.test_strings import make_folders
from tests.channel.https import url_of
from tests.integration.proxies import (
    HostileProxy,
    free_port,
    proxy_certificate,
    start_documented,
)

HTTP_MODE = ("nginx.conf", "haproxy.cfg")
ENDS_TLS = (*HTTP_MODE, "stunnel.conf")
TCP_MODE = ("nginx-tcp.conf", "haproxy-tcp.cfg")
#: An address of this machine which is no proxy's.
CLIENT = "127.0.0.3"


class DialInThroughProxies(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.pair = proxy_certificate(self.folder)
        self.engine = KeyPair.generate("engine", subject_alternative_names=["localhost"])
        (self.folder / "https.crt").write_bytes(self.engine.certificate_pem())
        self.resource = WebSocketResource(reactor, "/pkengine/agent")
        self.channels: list[Channel] = []

    async def serve(self, *, https: str = "", trusted_proxies: str = "127.0.0.1") -> int:
        """Serve HTTPS as an engine does; give the port."""
        proxies = TrustedProxies.parse(trusted_proxies)
        root, own = Resource(), Resource()
        root.putChild(b"pkengine", own)
        own.putChild(b"agent", self.resource)
        self.port = listen_https(
            reactor,
            https + "tcp:0:interface=127.0.0.1",
            self.engine,
            HttpServer(root, reactor, proxies),
            trusted_proxies=proxies,
        )
        self.addCleanup(self.port.stopListening)
        return self.port.getHost().port

    async def proxy(self, example: str, backend: int, **changes: str) -> int:
        """Start a proxy in front of the engine; give its port."""
        certificate = str(self.folder / "proxy.pem")
        changes["127.0.0.1:8443"] = f"127.0.0.1:{backend}"
        if example in ENDS_TLS:
            changes["/var/lib/pkengine/https.crt"] = str(self.folder / "https.crt")
            changes["/etc/ssl/engine.example.pem"] = certificate
        return await start_documented(self, example, self.folder, changes)

    async def listen(self, mechanism: str, **arguments: str) -> None:
        """Take in agents by one mechanism, and no more by the one before."""
        self.resource.stop_listening()
        self.agent, engine = make_folders(Path(self.mktemp()), mechanism)
        verbs = Verbs()
        verbs.add("shout", dict, lambda params, _: params["text"].upper())
        listener = await listen_channel(
            reactor,
            self.resource,
            authenticator_from_folder(mechanism, str(engine), **arguments),
            verbs=verbs,
            on_channel=self.channels.append,
        )
        self.addCleanup(listener.stopListening)

    async def dial(
        self,
        mechanism: str,
        port: int,
        pin: Pin | None = None,
        *,
        claims: str = "",
        proxy: HttpProxy | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> Channel:
        """Dial from an address of its own, and perhaps claim another one."""
        pin = pin or self.pair.pin
        if proxy is None:
            way = TCP4ClientEndpoint(reactor, "127.0.0.1", port, bindAddress=(CLIENT, 0))
            tls = wrapClientTLS(PinnedServer("127.0.0.1", pin), way)
            endpoint = WebSocketClientEndpoint(reactor, Claiming(tls, claims), url_of(port))
        else:
            endpoint = engine_endpoint(reactor, url_of(port), pin=pin, proxy=proxy)
        channel = await connect_channel(
            reactor,
            endpoint,
            authenticator_from_folder(mechanism, str(self.agent)),
            expected="engine",
            heartbeat_s=heartbeat_s,
        )
        self.addCleanup(lambda: channel.close() or channel.closed)
        return channel

    def seen(self) -> str:
        """Give the address of the agent that came last, as the engine shows it."""
        return self.channels[-1].peer_address.host

    async def test_every_mechanism_works_and_both_ends_see_the_proxy(self) -> None:
        for example in ENDS_TLS:
            port = await self.proxy(example, await self.serve())
            for mechanism in OWN_MECHANISMS:
                await self.listen(mechanism)
                channel = await self.dial(mechanism, port)
                text = "many words " * 20_000
                self.assertEqual(await channel.call("shout", {"text": text}), text.upper())
                facts = self.channels[-1].authenticated.facts
                if mechanism == "pin":  # its TLS is end to end, within that of the proxy
                    self.assertEqual(facts["tls_version"], "TLSv1.3")
                self.assertEqual(facts["tls_path"], "proxied")
                self.assertEqual(channel.authenticated.facts["tls_path"], "proxied")

    async def test_where_a_direct_path_is_required_a_proxy_is_refused(self) -> None:
        port = await self.proxy("haproxy.cfg", await self.serve())
        for mechanism in OWN_MECHANISMS:
            await self.listen(mechanism, requireDirect="yes")
            with self.assertRaises(AuthenticationError):
                await self.dial(mechanism, port)

    async def test_an_engine_that_is_down_is_told_from_one_that_refuses(self) -> None:
        for example in HTTP_MODE:
            port = await self.proxy(example, await self.serve())
            await self.listen("hmac")
            await self.port.stopListening()
            with self.assertRaises(ChannelError) as caught:
                await self.dial("hmac", port)
            self.assertRegex(str(caught.exception), "a proxy in front of the engine|just starting")

    async def test_a_proxy_that_passes_tls_on_is_not_seen_and_tells_the_agents_address(
        self,
    ) -> None:
        for example, changes in (
            ("haproxy-tcp.cfg", {}),
            ("haproxy-tcp.cfg", {"send-proxy-v2": "send-proxy"}),
            ("nginx-tcp.conf", {}),
        ):
            backend = await self.serve(https="haproxy:")
            port = await self.proxy(example, backend, **changes)
            await self.listen("hmac", requireDirect="yes")
            channel = await self.dial("hmac", port, self.engine.pin, claims="198.51.100.1")
            accepted = self.channels[-1]
            self.assertEqual(accepted.authenticated.facts["tls_path"], "direct")
            self.assertEqual(
                (self.seen(), accepted.peer_address.port), (CLIENT, own_port(channel))
            )

    async def test_a_proxy_in_http_mode_tells_the_agents_address_whatever_the_agent_claims(
        self,
    ) -> None:
        for example in HTTP_MODE:
            port = await self.proxy(example, await self.serve())
            await self.listen("hmac")
            await self.dial("hmac", port)
            self.assertEqual(self.seen(), CLIENT)
            await self.dial("hmac", port, claims="198.51.100.1, 127.0.0.1")
            self.assertEqual(self.seen(), CLIENT)

    async def test_a_proxy_that_is_not_trusted_is_not_believed(self) -> None:
        for example in ENDS_TLS:  # stunnel passes on what clients claim
            port = await self.proxy(example, await self.serve(trusted_proxies="192.0.2.7"))
            await self.listen("hmac")
            await self.dial("hmac", port, claims="198.51.100.1")
            self.assertEqual(self.seen(), "127.0.0.1")

    async def test_without_a_proxy_nobody_is_believed_about_an_address(self) -> None:
        backend = await self.serve()
        await self.listen("hmac")
        await self.dial("hmac", backend, self.engine.pin, claims="198.51.100.1")
        self.assertEqual(self.seen(), CLIENT)

    async def test_past_the_proxy_an_engine_that_wants_its_word_is_not_reached(self) -> None:
        backend = await self.serve(https="haproxy:")
        await self.listen("hmac")
        with self.assertRaises(ChannelError):
            await self.dial("hmac", backend, self.engine.pin)

    # A proxy that means harm, or is broken.

    async def hostile_proxy(self) -> HostileProxy:
        """Put a proxy that ends TLS in front of an engine."""
        proxy = HostileProxy(await self.serve(), is_backend_tls=True)
        await proxy.start(self, self.pair)
        return proxy

    async def test_frames_that_a_proxy_rewrites_end_the_connection_at_both_ends(self) -> None:
        proxy = await self.hostile_proxy()
        for mechanism in OWN_MECHANISMS:
            await self.listen(mechanism)
            channel = await self.dial(mechanism, proxy.port)
            await channel.call("shout", {"text": "hello"})
            proxy.change = lambda _, octets: octets[:-1] + bytes([octets[-1] ^ 1])
            with self.assertRaises(ChannelClosed):
                await channel.call("shout", {"text": "hello"})
            await self.channels[-1].closed
            proxy.change = lambda _, octets: octets
            again = await self.dial(mechanism, proxy.port)
            self.assertEqual(await again.call("shout", {"text": "hello"}), "HELLO")

    async def test_a_proxy_that_keeps_what_it_gets_is_given_up_and_tried_again(self) -> None:
        proxy = await self.hostile_proxy()
        await self.listen("hmac")
        channel = await self.dial("hmac", proxy.port, heartbeat_s=0.2)
        proxy.change = lambda _, octets: b""
        self.assertIn("engine did not answer for", str(await channel.closed))
        proxy.change = lambda _, octets: octets
        again = await self.dial("hmac", proxy.port)
        self.assertEqual(await again.call("shout", {"text": "hello"}), "HELLO")

    # HTTP proxies on the agents' side.

    async def http_proxy(self, example: str, engine: int) -> int:
        """Start an HTTP proxy that knows one password; give its port."""
        if example == "tinyproxy.conf":
            changes = {"192.0.2.0/24": "127.0.0.1", "ConnectPort 8443": f"ConnectPort {engine}"}
            changes |= {"User tinyproxy": "", "Group tinyproxy": ""}
        else:
            # Squid's own user is to read it, who may be kept out of the folder of the tests.
            public = Path(tempfile.mkdtemp())
            self.addCleanup(shutil.rmtree, public)
            public.chmod(0o755)
            passwords = public / "passwords"
            hashed = await getProcessOutput(
                "/usr/bin/openssl", ["passwd", "-apr1", "a-long-password"]
            )
            passwords.write_bytes(b"hosts:" + hashed)
            changes = {"port 8443": f"port {engine}", "192.0.2.1": "127.0.0.1"}
            changes["/etc/squid/passwords"] = str(passwords)
        return await start_documented(self, example, self.folder, changes)

    async def test_tls_goes_end_to_end_through_an_http_proxy_that_wants_a_password(self) -> None:
        await self.listen("hmac", requireDirect="yes")
        engine = await self.serve()
        for example in ("tinyproxy.conf", "squid.conf"):
            port = await self.http_proxy(example, engine)
            proxy = HttpProxy.parse(f"http://hosts:a-long-password@127.0.0.1:{port}")
            channel = await self.dial("hmac", engine, self.engine.pin, proxy=proxy)
            self.assertEqual(await channel.call("shout", {"text": "hello"}), "HELLO")
            self.assertEqual(self.channels[-1].authenticated.facts["tls_path"], "direct")

    async def test_an_http_proxy_that_refuses_is_named_and_its_password_is_not(self) -> None:
        await self.listen("hmac")
        engine = await self.serve()
        other = free_port()
        for example, wrong in (("tinyproxy.conf", "401|407"), ("squid.conf", "407")):
            port = await self.http_proxy(example, engine)
            for credentials, target, expected in (
                ("", engine, wrong),
                ("hosts:guessed@", engine, wrong),
                ("hosts:a-long-password@", other, "403"),
            ):
                proxy = HttpProxy.parse(f"http://{credentials}127.0.0.1:{port}")
                with self.assertRaises(ChannelError) as caught:
                    await self.dial("hmac", target, self.engine.pin, proxy=proxy)
                said = str(caught.exception)
                self.assertRegex(said, f"The proxy 127.0.0.1:{port}, .* answered ({expected}) ")
                self.assertNotRegex(said, "guessed|long-password")


@implementer(IStreamClientEndpoint)
class Claiming:
    """An endpoint whose HTTP requests claim to come from elsewhere."""

    def __init__(self, below: IStreamClientEndpoint, address: str) -> None:
        self.below = below
        self.header = f"X-Forwarded-For: {address}\r\n\r\n".encode() if address else b"\r\n"

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        protocol = factory.buildProtocol(None)
        begin = protocol.makeConnection

        def connected(transport: Any) -> None:
            write = transport.write

            def claim(request: bytes) -> None:
                transport.write = write
                write(request.removesuffix(b"\r\n") + self.header)

            transport.write = claim
            begin(transport)

        protocol.makeConnection = connected
        return connectProtocol(self.below, protocol)


def own_port(channel: Channel) -> int:
    """Give the port from which a channel was dialled."""
    return int(channel._transport.getHost().port)
