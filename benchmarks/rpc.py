"""Calls per second on one connection: a channel beside Twisted AMP, over the same TLS.

    python benchmarks/rpc.py [--rounds N] [--seconds S]

The caller and the answering end are two processes on the loopback.  Both kinds of
connection use the same keys and the same pinned mutual TLS 1.3; AMP has it from Twisted's
own TLS layer.  A call carries a number and 32 characters, which come back.  Rounds of both
kinds alternate, so that whatever else the machine does meets both; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.amp import AMP, Command, Integer, Unicode
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from pkengine.auth import MemoryTrustStore, PinAuthenticator, TrustedPeer
from pkengine.auth.tls import pinned_context
from pkengine.channel import Verbs, connect_channel, listen_channel
from pkengine.keys import KeyPair, Pin

TEXT = "x" * 32


class Echo(Command):
    arguments = ((b"number", Integer()), (b"text", Unicode()))
    response = arguments


class AnsweringAmp(AMP):
    @Echo.responder
    def echo(self, number: int, text: str) -> dict[str, Any]:
        return {"number": number, "text": text}


class EchoParams(msgspec.Struct):
    number: int
    text: str


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class PinnedTls:
    """The settings of `pinned_context` for Twisted's TLS layer."""

    def __init__(self, key_pair: KeyPair, peer: Pin) -> None:
        def verify(_: Any, certificate: Any, __: int, depth: int, ___: int) -> bool:
            return depth == 0 and Pin.of(certificate.to_cryptography().public_key()) == peer

        self.context = pinned_context(key_pair)
        flags = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        self.context.set_verify(flags, verify)

    def serverConnectionForTLS(self, _: Any) -> SSL.Connection:
        return SSL.Connection(self.context, None)

    clientConnectionForTLS = serverConnectionForTLS


def key_pairs(directory: Path) -> tuple[KeyPair, KeyPair]:
    return KeyPair.load_or_create(directory, "server"), KeyPair.load_or_create(directory, "client")


async def serve(directory: Path) -> None:
    server, client = key_pairs(directory)
    verbs = Verbs()
    verbs.add("echo", EchoParams, lambda params, _: params)
    trust = MemoryTrustStore([TrustedPeer("client", client.pin)])
    listener = await listen_channel(
        reactor,
        TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
        PinAuthenticator(server, trust),
        verbs=verbs,
    )
    amp = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
        TLSMemoryBIOFactory(
            PinnedTls(server, client.pin), False, Factory.forProtocol(AnsweringAmp)
        )
    )
    print(json.dumps({"channel": listener.getHost().port, "amp": amp.getHost().port}), flush=True)
    await Deferred()


def load(call: Callable[[], Deferred[Any]], in_flight: int, seconds: float) -> Deferred[dict]:
    """Keep that many calls in flight for that long; give what came of it."""
    ended: Deferred[dict] = Deferred()
    times: list[float] = []
    began = time.perf_counter()
    cpu = cpu_time()
    left = in_flight

    def begin() -> None:
        at = time.perf_counter()

        def answered(_: Any) -> None:
            nonlocal left
            now = time.perf_counter()
            times.append(now - at)
            if now < began + seconds:
                begin()
                return
            left -= 1
            if not left:
                times.sort()
                ended.callback(
                    {
                        "calls_per_s": len(times) / (now - began),
                        "p50_us": times[len(times) // 2] * 1e6,
                        "p99_us": times[int(len(times) * 0.99)] * 1e6,
                        "cpu_us": (cpu_time() - cpu) / len(times) * 1e6,
                    }
                )

        call().addCallbacks(answered, ended.errback)

    for _ in range(in_flight):
        begin()
    return ended


def cpu_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(directory: Path, rounds: int, seconds: float) -> None:
    server, client = key_pairs(directory)
    child = subprocess.Popen(  # noqa: ASYNC220 - once, before anything is measured
        [sys.executable, __file__, "--serve", str(directory)], stdout=subprocess.PIPE
    )
    try:
        ports = json.loads(child.stdout.readline())
        trust = MemoryTrustStore([TrustedPeer("server", server.pin)])
        channel = await connect_channel(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", ports["channel"]),
            PinAuthenticator(client, trust),
            expected="server",
        )
        wrapper = TLSMemoryBIOFactory(
            PinnedTls(client, server.pin), True, Factory.forProtocol(AMP)
        )
        amp = (
            await TCP4ClientEndpoint(reactor, "127.0.0.1", ports["amp"]).connect(wrapper)
        ).wrappedProtocol
        params = EchoParams(1, TEXT)
        kinds = {
            "amp": lambda: amp.callRemote(Echo, number=1, text=TEXT),
            "channel": lambda: channel.call("echo", params, result_type=EchoParams),
        }
        results: dict[tuple[int, str], list[dict]] = {}
        for kind in kinds.values():
            await load(kind, 8, 0.2)  # warm up
        for _ in range(rounds):
            for in_flight in (1, 64):
                for name, call in kinds.items():
                    result = await load(call, in_flight, seconds)
                    results.setdefault((in_flight, name), []).append(result)
        report(results)
        channel.abort()
        amp.transport.abortConnection()
    finally:
        child.kill()
        child.wait()


def report(results: dict[tuple[int, str], list[dict]]) -> None:
    print("in flight  kind     calls/s   p50 us   p99 us  caller's CPU us/call")
    for (in_flight, name), runs in sorted(results.items()):
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"{in_flight:9d}  {name:8s} {row['calls_per_s']:7.0f}  {row['p50_us']:7.0f}  "
            f"{row['p99_us']:7.0f}  {row['cpu_us']:7.1f}"
        )
    for in_flight, goal in ((1, 1.4), (64, 6.0)):
        ratio = statistics.median(
            ours["calls_per_s"] / theirs["calls_per_s"]
            for ours, theirs in zip(
                results[in_flight, "channel"], results[in_flight, "amp"], strict=True
            )
        )
        print(f"channel / AMP with {in_flight} in flight: {ratio:.2f} (goal: at least {goal})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--serve", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        react(lambda _: ensureDeferred(serve(Path(options.serve))))
    with tempfile.TemporaryDirectory() as directory:
        react(lambda _: ensureDeferred(measure(Path(directory), options.rounds, options.seconds)))


if __name__ == "__main__":
    main()
