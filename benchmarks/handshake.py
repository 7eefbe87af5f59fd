"""CPU time that a server spends on one mutual handshake, beside three peers.

Run it with ``pip install pkengine foolscap`` and ``python benchmarks/handshake.py``; ``openssl``
must be installed.  Each server is a process of its own.  A connection is a full handshake with
certificates of P-256 on both sides, two octets each way, and the close; 16 are under way at
once.  The servers take turns in rounds, and medians are printed:

* ``pin``: this library's driver, with *ready* and the trust store;
* ``Twisted, CA``: Twisted's own TLS with certificates of a CA on both sides;
* ``s_server``: ``openssl s_server`` with the same certificates, no Python at all;
* ``Foolscap``: ``Tub.getReference`` and one remote call, its way of a pinned connection.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.task import react
from twisted.protocols.tls import TLSMemoryBIOFactory

from pkengine.auth import AuthenticatedClientEndpoint, AuthenticatedServerEndpoint
from pkengine.auth.folder import TrustFolder
from pkengine.auth.mechanisms import authenticator_from_folder
from pkengine.auth.peer import TrustedPeer

CONCURRENT = 16


class Answer(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Ask(Protocol):
    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(b"b\n")

    def dataReceived(self, data: bytes) -> None:
        self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.ended.callback(None)


def make_certificates(folder: Path) -> None:
    """Make a CA and two certificates of it, as PEM files."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.timezone.utc)
    ca_key = ec.generate_private_key(ec.SECP256R1())

    def issue(subject: str, key: ec.EllipticCurvePrivateKey, is_ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
            )
            .sign(ca_key, hashes.SHA256())
        )

    (folder / "ca.pem").write_bytes(issue("ca", ca_key, True).public_bytes(Encoding.PEM))
    for end in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{end}.pem").write_bytes(
            issue(end, key, False).public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )


def make_folders(folder: Path) -> None:
    """Make the trust folders of both ends."""
    ends = {end: TrustFolder(folder / f"pin-{end}") for end in ("server", "client")}
    for end, other in (("server", "client"), ("client", "server")):
        ends[end].trust.add(TrustedPeer(other, ends[other].make_identity().pin))


def ca_options(folder: Path, end: str) -> tuple[PrivateCertificate, Any]:
    private = PrivateCertificate.loadPEM((folder / f"{end}.pem").read_bytes())
    ca = Certificate.loadPEM((folder / "ca.pem").read_bytes())
    return private, trustRootFromCertificates([ca])


# Servers.


def serve(kind: str, folder: Path) -> None:
    """Run one of the servers in Python until standard input ends."""
    if kind == "Foolscap":
        serve_foolscap(folder)
        return
    below = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1", backlog=512)
    factory = Factory.forProtocol(Answer)
    factory.noisy = False
    if kind == "pin":
        authenticator = authenticator_from_folder("pin", str(folder / "pin-server"))
        listening = AuthenticatedServerEndpoint(reactor, below, authenticator).listen(factory)
    else:
        private, root = ca_options(folder, "server")
        options = CertificateOptions(
            privateKey=private.privateKey.original,
            certificate=private.original,
            trustRoot=root,
            raiseMinimumTo=TLSVersion.TLSv1_3,
        )
        listening = below.listen(TLSMemoryBIOFactory(options, False, factory))
    listening.addCallback(lambda port: print(port.getHost().port, flush=True))
    reactor.run()


def serve_foolscap(folder: Path) -> None:
    from foolscap.api import Referenceable, Tub

    class Remote(Referenceable):
        def remote_echo(self, data: str) -> str:
            return data

    tub = Tub()
    tub.startService()
    tub.listenOn("tcp:0:interface=127.0.0.1")
    (listener,) = tub.getListeners()

    def listening() -> None:
        port = listener.getPortnum()
        tub.setLocation(f"tcp:127.0.0.1:{port}")
        (folder / "furl").write_text(tub.registerReference(Remote(), "echo"))
        print(port, flush=True)

    reactor.callLater(0.2, listening)
    reactor.run()


def start(kind: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server; give it and its port."""
    if kind == "s_server":
        port = 20000 + os.getpid() % 20000
        process = subprocess.Popen(
            [
                *("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3", "-rev"),
                *("-cert", str(folder / "server.pem"), "-key", str(folder / "server.pem")),
                *("-CAfile", str(folder / "ca.pem"), "-Verify", "2", "-verify_return_error"),
                *("-num_tickets", "0", "-no_cache", "-quiet"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.5)
        return process, port
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", kind, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


# The client.


def client_of(kind: str, folder: Path, port: int) -> Callable[[], Any]:
    """Give what makes one whole connection."""
    below = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    factory = Factory.forProtocol(Ask)
    factory.noisy = False
    if kind == "Foolscap":
        return foolscap_client(folder)
    if kind == "pin":
        endpoint: Any = AuthenticatedClientEndpoint(
            reactor, below, authenticator_from_folder("pin", str(folder / "pin-client")), "server"
        )
    else:
        private, root = ca_options(folder, "client")
        endpoint = wrapClientTLS(
            optionsForClientTLS("localhost", trustRoot=root, clientCertificate=private), below
        )

    async def connect() -> None:
        asked = await endpoint.connect(factory)
        await asked.ended

    return connect


def foolscap_client(folder: Path) -> Callable[[], Any]:
    from foolscap.api import Tub

    furl = (folder / "furl").read_text()
    certificates = [Tub().getCertData() for _ in range(CONCURRENT)]

    async def connect() -> None:
        certificate = certificates.pop()
        tub = Tub(certData=certificate)
        tub.startService()
        remote = await tub.getReference(furl)
        await remote.callRemote("echo", "b")
        await tub.stopService()
        certificates.append(certificate)

    return connect


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Give the time that all threads of a process were on a CPU, to the nanosecond."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


async def connections(connect: Callable[[], Any], count: int) -> None:
    left = count

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await connect()

    await gatherResults([ensureDeferred(worker()) for _ in range(CONCURRENT)])


async def measure(folder: Path, rounds: int, count: int) -> None:
    kinds = ("pin", "Twisted, CA", "s_server", "Foolscap")
    servers = {kind: start(kind, folder) for kind in kinds}
    try:
        clients = {kind: client_of(kind, folder, servers[kind][1]) for kind in kinds}
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for kind in kinds:
            await connections(clients[kind], CONCURRENT)
        for _ in range(rounds):
            for kind in kinds:
                before = cpu_s(servers[kind][0])
                await connections(clients[kind], count)
                times[kind].append((cpu_s(servers[kind][0]) - before) / count * 1e3)
    finally:
        for process, _ in servers.values():
            process.kill()
            process.wait()
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    print(f"{'server CPU, ms a handshake':28}{'median':>8}{'min':>8}{'max':>8}")
    for kind, values in times.items():
        print(f"{kind:28}{medians[kind]:8.3f}{min(values):8.3f}{max(values):8.3f}")
    for kind, goal in (("Twisted, CA", 1.05), ("s_server", 1.5), ("Foolscap", 0.35)):
        ratios = [ours / theirs for ours, theirs in zip(times["pin"], times[kind], strict=True)]
        print(f"pin / {kind}: {statistics.median(ratios):.2f} (goal at most {goal})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=300)
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "FOLDER"))
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_certificates(folder)
        make_folders(folder)
        react(lambda _: ensureDeferred(measure(folder, options.rounds, options.connections)), ())


if __name__ == "__main__":
    main()
