"""Agents that dial in through proxies, set up as the documentation says."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from pkengine.auth.mechanisms import OWN_MECHANISMS, authenticator_from_folder
from pkengine.channel import Channel, Verbs, connect_channel, listen_channel
from pkengine.channel.engine_url import engine_endpoint
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.errors import AuthenticationError, ChannelError
from pkengine.keys import KeyPair, Pin
from tests.auth.test_strings import make_folders
from tests.channel.https import url_of
from tests.channel.test_wss import agents
from tests.integration.proxies import proxy_certificate, start_documented

HTTP_MODE = ("nginx.conf", "haproxy.cfg")


class DialInThroughProxies(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.pair = proxy_certificate(self.folder)
        self.engine = KeyPair.generate("engine", subject_alternative_names=["localhost"])
        (self.folder / "https.crt").write_bytes(self.engine.certificate_pem())
        self.resource = WebSocketResource(reactor, "/pkengine/agent")
        self.channels: list[Channel] = []

    async def serve(self, endpoint: IStreamServerEndpoint | None = None) -> int:
        """Serve HTTPS as an engine does; give the port."""
        options = CertificateOptions(
            privateKey=self.engine.private_key, certificate=self.engine.certificate
        )
        endpoint = endpoint or TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self.port = await endpoint.listen(
            TLSMemoryBIOFactory(options, False, agents(self.resource))
        )
        self.addCleanup(self.port.stopListening)
        return self.port.getHost().port

    async def proxy(self, example: str, backend: int) -> int:
        """Start a proxy in front of the engine; give its port."""
        certificate = str(self.folder / "proxy.pem")
        changes = {"127.0.0.1:8443": f"127.0.0.1:{backend}"}
        if example in HTTP_MODE:
            changes["/var/lib/pkengine/https.crt"] = str(self.folder / "https.crt")
            changes["/etc/ssl/engine.example.pem"] = certificate
        if example == "nginx.conf":
            changes["/etc/ssl/engine.example.key"] = certificate
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

    async def dial(self, mechanism: str, port: int, pin: Pin | None = None) -> Channel:
        return await connect_channel(
            reactor,
            engine_endpoint(reactor, url_of(port), pin=pin or self.pair.pin),
            authenticator_from_folder(mechanism, str(self.agent)),
            expected="engine",
        )

    async def test_every_mechanism_works_and_those_with_a_mac_see_the_proxy(self) -> None:
        for example in HTTP_MODE:
            port = await self.proxy(example, await self.serve())
            for mechanism in OWN_MECHANISMS:
                await self.listen(mechanism)
                channel = await self.dial(mechanism, port)
                text = "many words " * 20_000
                self.assertEqual(await channel.call("shout", {"text": text}), text.upper())
                facts = self.channels[-1].authenticated.facts
                if mechanism == "pin":  # its TLS is end to end, within that of the proxy
                    self.assertEqual(facts["tls_version"], "TLSv1.3")
                else:
                    self.assertEqual(facts["tls_path"], "proxied")
                channel.close()
                await channel.closed

    async def test_where_a_direct_path_is_required_a_proxy_is_refused(self) -> None:
        port = await self.proxy("haproxy.cfg", await self.serve())
        for mechanism in ("sign", "hmac", "spake2plus"):
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
        for version in ("send-proxy-v2", "send-proxy"):
            backend = await self.serve(
                serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1")
            )
            text = {"send-proxy-v2": version} if version != "send-proxy-v2" else {}
            port = await start_documented(
                self,
                "haproxy-tcp.cfg",
                self.folder,
                {"127.0.0.1:8443": f"127.0.0.1:{backend}", **text},
            )
            await self.listen("hmac", requireDirect="yes")
            channel = await self.dial("hmac", port, self.engine.pin)
            accepted = self.channels[-1]
            self.assertEqual(accepted.authenticated.facts["tls_path"], "direct")
            self.assertEqual(accepted.peer_address.port, own_port(channel))
            channel.close()
            await channel.closed


def own_port(channel: Channel) -> int:
    """Give the port from which a channel was dialled."""
    return int(channel._transport.getHost().port)
