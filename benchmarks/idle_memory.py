"""Private memory of one process for each idle connection it holds.

    python benchmarks/idle_memory.py [--connections N]

One after the other: plain TCP, Twisted's own TLS, channels that were accepted and channels
that were dialled, these with the post-quantum key exchange, which is the default, and with the
classical one, and at last channels of agents that dial in, by each mechanism over a WebSocket;
with ``pin`` that is TLS within TLS.  The process that is measured holds only its own ends; the
other ends are in a second process.  What counts is Private_Clean and Private_Dirty of
smaps_rollup, after the connections less before the first.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import react
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.server import Site

from pkengine.auth import MemoryTrustStore, PinAuthenticator, TrustedPeer
from pkengine.auth.mechanisms import IdentityParts
from pkengine.auth.pake import register_pair
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.channel import Verbs, connect_channel, listen_channel
from pkengine.channel.engine_url import engine_endpoint, parse_engine_url
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.keys import Secret
from rpc import PinnedTls, key_pairs

KINDS = {
    "plain TCP, accepted": ("plain", "listen"),
    "Twisted TLS, accepted": ("tls", "listen"),
    "channel, accepted": ("channel", "listen"),
    "channel, dialled": ("channel", "dial"),
    "channel, accepted, classical": ("classical", "listen"),
    "channel, dialled, classical": ("classical", "dial"),
    "dialled in, pin": ("websocket pin", "listen"),
    "dialled in, sign": ("websocket sign", "listen"),
    "dialled in, hmac": ("websocket hmac", "listen"),
    "dialled in, spake2plus": ("websocket spake2plus", "listen"),
}
GOAL_KIB = 36
GOAL_DIALLED_IN_KIB = 48
WARM_UP = 20
AT_ONCE = 16


class Greeter(Protocol):
    """Says one octet, so that the other end knows that the connection is up."""

    def connectionMade(self) -> None:
        self.transport.write(b"k")


class Greeted(Protocol):
    def connectionMade(self) -> None:
        self.greeted: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.greeted.callback(None)


def shared_keys(mechanism: str, directory: Path) -> list[SharedKey]:
    """Give the halves of a key that both processes know, made where there is none."""
    path = directory / mechanism
    if not path.exists():
        if mechanism == "hmac":
            own = SharedKey.generate(mechanism, local="client", peer="server")
            pair = own, own.for_peer()
        else:
            pair = register_pair(Secret(b"a secret"), prover="client", verifier="server")
        path.write_bytes(b"\n\0\n".join([b"", *(half.encode() for half in pair)]))
    return [SharedKey.decode(half) for half in path.read_bytes().split(b"\n\0\n")[1:]]


class Ends:
    """How the ends of one kind of connection listen and dial."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.server, self.client = key_pairs(directory)
        self.verbs = Verbs()
        self.verbs.add("echo", dict, lambda params, _: params)
        self.kind, _, mechanism = kind.partition(" ")
        self.has_shared_key = mechanism in ("hmac", "spake2plus")
        self.is_channel = self.kind in ("channel", "classical", "websocket")
        self.dialler = PinAuthenticator(
            self.client,
            MemoryTrustStore([TrustedPeer("server", self.server.pin)]),
            post_quantum=self.kind != "classical",
        )
        self.acceptor = PinAuthenticator(
            self.server,
            MemoryTrustStore([TrustedPeer("client", self.client.pin)]),
            post_quantum=self.kind != "classical",
        )
        if mechanism in ("sign", "hmac", "spake2plus"):
            self.dialler, self.acceptor = self.ends_of(mechanism, directory)
        self.kept: list[Any] = []

    def ends_of(self, mechanism: str, directory: Path) -> tuple[Any, Any]:
        """Give the authenticators of another mechanism."""
        if mechanism == "sign":
            ours, theirs = self.client.pin, self.server.pin
        else:
            ours = theirs = shared_keys(mechanism, directory)[0].key_id
        stores = [MemorySharedKeys(), MemorySharedKeys()]
        if mechanism != "sign":
            for store, key in zip(stores, shared_keys(mechanism, directory), strict=True):
                store.add(key)
        words = frozenset({mechanism})
        client_trust = MemoryTrustStore([TrustedPeer("server", theirs, words)])
        server_trust = MemoryTrustStore([TrustedPeer("client", ours, words)])
        return (
            IdentityParts(self.client, client_trust, stores[0]).authenticator(mechanism),
            IdentityParts(self.server, server_trust, stores[1]).authenticator(mechanism),
        )

    async def listen(self) -> int:
        endpoint = TCP4ServerEndpoint(reactor, 0, backlog=1024, interface="127.0.0.1")
        if self.kind == "websocket":
            websocket = WebSocketResource(reactor, "/")
            await listen_channel(reactor, websocket, self.acceptor, verbs=self.verbs)
            site = Site(websocket)
            site.log = lambda request: None
            options = CertificateOptions(
                privateKey=self.server.private_key, certificate=self.server.certificate
            )
            port = await endpoint.listen(TLSMemoryBIOFactory(options, False, site))
        elif self.is_channel:
            port = await listen_channel(reactor, endpoint, self.acceptor, verbs=self.verbs)
        else:
            factory: Any = Factory.forProtocol(Greeter)
            factory.noisy = False
            if self.kind == "tls":
                tls = PinnedTls(self.server, self.client.pin)
                factory = TLSMemoryBIOFactory(tls, False, factory)
            port = await endpoint.listen(factory)
        return port.getHost().port

    async def dial(self, port: int) -> None:
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        if self.kind == "websocket":
            url = parse_engine_url(f"wss://127.0.0.1:{port}/x")
            endpoint = engine_endpoint(reactor, url, pin=self.server.pin)
        if self.is_channel:
            self.kept.append(
                await connect_channel(
                    reactor, endpoint, self.dialler, expected="server", verbs=self.verbs
                )
            )
            return
        factory: Any = Factory.forProtocol(Greeted)
        factory.noisy = False
        if self.kind == "tls":
            tls = PinnedTls(self.client, self.server.pin)
            factory = TLSMemoryBIOFactory(tls, True, factory)
        protocol = await endpoint.connect(factory)
        await getattr(protocol, "wrappedProtocol", protocol).greeted
        self.kept.append(protocol)

    async def dial_many(self, port: int, count: int) -> None:
        left = count

        async def dial_some() -> None:
            nonlocal left
            while left:
                left -= 1
                await self.dial(port)

        # Attempts with one shared key are counted until they have succeeded.
        at_once = 1 if self.has_shared_key else AT_ONCE
        await gatherResults([ensureDeferred(dial_some()) for _ in range(at_once)])


async def take_part(part: str, kind: str, directory: Path, port: int, count: int) -> None:
    """Be one of the two processes, until killed."""
    ends = Ends(kind, directory)
    if part == "listen":
        print(await ends.listen(), flush=True)
    else:
        await ends.dial_many(port, WARM_UP)  # what is made once is made now
        for step in (count, 0):
            print("ready", flush=True)
            sys.stdin.readline()
            await ends.dial_many(port, step)
    await Deferred()


def start(directory: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, "--directory", directory, "--part", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def private_kib(process: subprocess.Popen[bytes]) -> int:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def measure(directory: str, kind: str, measured: str, count: int) -> float:
    """Give the KiB of one connection in the process that is measured."""
    listener = start(directory, "listen", kind, "0", "0")
    dialler = None
    try:
        port = listener.stdout.readline().decode().strip()
        dialler = start(directory, "dial", kind, port, str(count))
        process = listener if measured == "listen" else dialler
        dialler.stdout.readline()
        before = private_kib(process)
        dialler.stdin.write(b"\n")
        dialler.stdin.flush()
        dialler.stdout.readline()
        return (private_kib(process) - before) / count
    finally:
        for child in (listener, dialler):
            if child is not None:
                child.kill()
                child.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.connections + 100 > most:
        parser.error(f"this process may open {most} files only: see 'ulimit -Hn'")
    if options.part:
        part, kind, port, count = options.part
        react(
            lambda _: ensureDeferred(
                take_part(part, kind, Path(options.directory), int(port), int(count))
            )
        )
    with tempfile.TemporaryDirectory() as directory:
        key_pairs(Path(directory))
        for mechanism in ("hmac", "spake2plus"):
            shared_keys(mechanism, Path(directory))
        found = {}
        for title, (kind, measured) in KINDS.items():
            found[title] = measure(directory, kind, measured, options.connections)
            print(f"{title:29s} {found[title]:6.1f} KiB a connection", flush=True)
    ratio = found["channel, accepted"] / found["Twisted TLS, accepted"]
    print(f"channel / Twisted TLS: {ratio:.2f}")
    for variant in ("", ", classical"):
        worst = max(found[f"channel, {end}{variant}"] for end in ("accepted", "dialled"))
        print(f"channel{variant}: {worst:.1f} KiB (goal: at most {GOAL_KIB} at 2,000)")
    for title in KINDS:
        if title.startswith("dialled in"):
            print(f"{title}: {found[title]:.1f} KiB (goal: at most {GOAL_DIALLED_IN_KIB})")


if __name__ == "__main__":
    main()
