"""Endpoint strings, trust folders and nesting, over real loopback connections."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    clientFromString,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from pkengine.auth import AuthenticatedClientEndpoint, AuthenticatedServerEndpoint
from pkengine.auth.folder import TrustFolder
from pkengine.auth.mechanisms import authenticator_from_folder, find_mechanism
from pkengine.auth.pake import register_pair
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import SharedKey
from pkengine.errors import AuthenticationError, KeyFileError, UnknownMechanism
from pkengine.interfaces import IAuthenticatedTransport
from pkengine.keys import KeyPair, Secret
from tests.auth.exchanges import EVERY_MECHANISM

MECHANISMS = ("pin", "sign", "hmac", "spake2plus")


class Echo(Protocol):
    """Sends back what it gets; the server's half."""

    def connectionMade(self) -> None:
        self.factory.peers.append(IAuthenticatedTransport(self.transport).authenticated)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data.upper())


class Asker(Protocol):
    """Waits for an answer, and for the end."""

    def __init__(self) -> None:
        self.received = b""
        self.answer: Deferred[bytes] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) == 5:
            self.answer.callback(self.received)

    def connectionLost(self, reason: object = None) -> None:
        self.ended.callback(None)


def make_folders(root: Path, mechanism: str) -> tuple[Path, Path]:
    """Make the folders of an agent and an engine that trust each other."""
    agent, engine = TrustFolder(root / "agent"), TrustFolder(root / "engine")
    if mechanism in ("pin", "sign"):
        ours, theirs = agent.make_identity().pin, engine.make_identity().pin
    else:
        if mechanism == "hmac":
            key = SharedKey.generate("hmac", local="agent", peer="engine")
            pair = key, key.for_peer()
        else:
            pair = register_pair(Secret("a secret"), prover="agent", verifier="engine")
        agent.secrets.add(pair[0])
        engine.secrets.add(pair[1])
        ours = theirs = pair[0].key_id
    agent.trust.add(TrustedPeer("engine", theirs, frozenset({mechanism})))
    engine.trust.add(TrustedPeer("agent", ours, frozenset({mechanism})))
    return agent.directory, engine.directory


class OverLoopback(TestCase):
    """Real connections."""

    def factory(self) -> Factory:
        factory = Factory.forProtocol(Echo)
        factory.peers = []
        return factory

    async def listen(self, endpoint: IStreamServerEndpoint, factory: Factory) -> IListeningPort:
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        return port

    async def ask(self, asker: Asker) -> None:
        asker.transport.write(b"hello")
        self.assertEqual(await asker.answer, b"HELLO")
        asker.transport.loseConnection()
        await asker.ended

    async def test_every_mechanism_works_from_endpoint_strings(self) -> None:
        for mechanism in MECHANISMS:
            agent, engine = make_folders(Path(self.mktemp()), mechanism)
            factory = self.factory()
            port = await self.listen(
                serverFromString(
                    reactor,
                    rf"pk:tcp\:0\:interface\=127.0.0.1:trust={engine}:mechanism={mechanism}",
                ),
                factory,
            )
            client = clientFromString(
                reactor,
                rf"pk:tcp\:127.0.0.1\:{port.getHost().port}:trust={agent}"
                rf":mechanism={mechanism}:peer=engine:timeout=20",
            )
            await self.ask(await client.connect(Factory.forProtocol(Asker)))
            (authenticated,) = factory.peers
            self.assertEqual(authenticated.peer.name, "agent")
            self.assertEqual(authenticated.mechanism, mechanism)

    async def test_a_line_removed_from_the_file_ends_the_connection_and_the_next(self) -> None:
        for mechanism in MECHANISMS:
            agent, engine = make_folders(Path(self.mktemp()), mechanism)
            port = await self.listen(
                serverFromString(
                    reactor,
                    rf"pk:tcp\:0\:interface\=127.0.0.1:trust={engine}:mechanism={mechanism}",
                ),
                self.factory(),
            )
            client = clientFromString(
                reactor,
                rf"pk:tcp\:127.0.0.1\:{port.getHost().port}:trust={agent}:mechanism={mechanism}",
            )
            asker = await client.connect(Factory.forProtocol(Asker))
            (engine / "peers").write_text("# nobody any more\n")
            await asker.ended
            with self.assertRaises(AuthenticationError):
                await client.connect(Factory.forProtocol(Asker))

    async def test_a_mechanism_that_the_peer_is_not_allowed_is_refused(self) -> None:
        agent, engine = make_folders(Path(self.mktemp()), "pin")
        port = await self.listen(
            serverFromString(reactor, rf"pk:tcp\:0\:interface\=127.0.0.1:trust={engine}"),
            self.factory(),
        )
        for mechanism in ("sign", "hmac", "spake2plus"):
            client = clientFromString(
                reactor,
                rf"pk:tcp\:127.0.0.1\:{port.getHost().port}:trust={agent}:mechanism={mechanism}",
            )
            with self.assertRaises(AuthenticationError):
                await client.connect(Factory.forProtocol(Asker))

    def outer_tls(self) -> tuple[CertificateOptions, object]:
        """Give TLS options of a server with a certificate, and of a client that trusts it."""
        pair = KeyPair.generate("outer", subject_alternative_names=["localhost"])
        root = trustRootFromCertificates([Certificate.loadPEM(pair.certificate_pem())])
        return (
            CertificateOptions(privateKey=pair.private_key, certificate=pair.certificate),
            optionsForClientTLS("localhost", trustRoot=root),
        )

    async def test_every_mechanism_runs_inside_tls_and_sees_that_the_path_is_direct(self) -> None:
        server_tls, client_tls = self.outer_tls()
        for name, make in EVERY_MECHANISM.items():
            ends = make(require_direct=True, monotonic=reactor.seconds)
            factory = self.factory()
            port = await self.listen(
                AuthenticatedServerEndpoint(
                    reactor, TlsServerEndpoint(reactor, server_tls), ends.engine
                ),
                factory,
            )
            below = clientFromString(reactor, f"tcp:127.0.0.1:{port.getHost().port}")
            client = AuthenticatedClientEndpoint(
                reactor, wrapClientTLS(client_tls, below), ends.agent, "engine"
            )
            await self.ask(await client.connect(Factory.forProtocol(Asker)))
            (authenticated,) = factory.peers
            self.assertEqual(authenticated.mechanism, name)
            self.assertEqual(authenticated.facts["tls_path"], "direct")

    async def test_pin_runs_nested_inside_tls(self) -> None:
        server_tls, client_tls = self.outer_tls()
        agent, engine = make_folders(Path(self.mktemp()), "pin")
        factory = self.factory()
        port = await self.listen(
            AuthenticatedServerEndpoint(
                reactor,
                TlsServerEndpoint(reactor, server_tls),
                authenticator_from_folder("pin", str(engine)),
            ),
            factory,
        )
        below = clientFromString(reactor, f"tcp:127.0.0.1:{port.getHost().port}")
        client = AuthenticatedClientEndpoint(
            reactor,
            wrapClientTLS(client_tls, below),
            authenticator_from_folder("pin", str(agent)),
            "engine",
        )
        await self.ask(await client.connect(Factory.forProtocol(Asker)))
        self.assertEqual(factory.peers[0].facts["tls_version"], "TLSv1.3")


@implementer(IStreamServerEndpoint)
class TlsServerEndpoint:
    """TLS with a certificate, on a loopback port of the system's choice."""

    def __init__(self, reactor: object, options: CertificateOptions) -> None:
        self._reactor = reactor
        self._options = options

    def listen(self, factory: Factory) -> Deferred[IListeningPort]:
        below = TCP4ServerEndpoint(self._reactor, 0, interface="127.0.0.1")
        return below.listen(TLSMemoryBIOFactory(self._options, False, factory))


class Folders(SynchronousTestCase):
    def test_a_folder_without_an_identity_is_refused_by_name(self) -> None:
        path = Path(self.mktemp())
        error = self.assertRaises(KeyFileError, authenticator_from_folder, "pin", str(path))
        self.assertIn("identity.key", str(error))

    def test_the_identity_may_be_in_another_folder(self) -> None:
        root = Path(self.mktemp())
        pair = TrustFolder(root / "identity").make_identity()
        authenticator = authenticator_from_folder(
            "pin", str(root / "trust"), identity=str(root / "identity")
        )
        self.assertEqual(authenticator.pin, pair.pin)

    def test_making_an_identity_twice_keeps_the_key(self) -> None:
        folder = TrustFolder(Path(self.mktemp()))
        self.assertEqual(folder.make_identity().pin, folder.make_identity().pin)

    def test_an_unknown_mechanism_is_refused_and_the_known_ones_are_named(self) -> None:
        error = self.assertRaises(UnknownMechanism, find_mechanism, "password")
        for mechanism in MECHANISMS:
            self.assertIn(mechanism, str(error))

    def test_a_direct_path_can_be_required_by_an_argument(self) -> None:
        root = Path(self.mktemp())
        for mechanism in ("sign", "hmac", "spake2plus"):
            agent, _ = make_folders(root / mechanism, mechanism)
            authenticator = authenticator_from_folder(mechanism, str(agent), requireDirect="yes")
            self.assertTrue(authenticator._policy.require_direct)
            with self.assertRaises(ValueError):
                authenticator_from_folder(mechanism, str(agent), requireDirect="maybe")
