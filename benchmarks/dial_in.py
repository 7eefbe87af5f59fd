"""Round trips of a verb: over TCP, over a WebSocket, and through nginx.

    python benchmarks/dial_in.py [--calls N]

All three are channels with the mechanism ``pin``; the other end is a second process.  The calls
go in turns, so that all ways meet the same load, and the medians are compared.  nginx is set
up as docs/dial-in.md says.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater, react
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.server import Site

from pkengine.auth import MemoryTrustStore, PinAuthenticator, TrustedPeer
from pkengine.channel import Channel, Verbs, connect_channel, listen_channel
from pkengine.channel.engine_url import engine_endpoint, parse_engine_url
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.cli.demo.proxy import DOCUMENTED_PROXIES, free_port
from rpc import key_pairs

GOAL = 1.6
ARGUMENT = {"text": "x" * 100}


async def serve(folder: Path) -> None:
    """Be the other end, until killed; print the ports for TCP and for HTTPS."""
    server, client = key_pairs(folder)
    accept = PinAuthenticator(server, MemoryTrustStore([TrustedPeer("client", client.pin)]))
    verbs = Verbs()
    verbs.add("echo", dict, lambda params, _: params)
    tcp = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    direct = await listen_channel(reactor, tcp, accept, verbs=verbs)
    resource = WebSocketResource(reactor, "/")
    await listen_channel(reactor, resource, accept, verbs=verbs)
    site = Site(resource)
    site.log = lambda request: None
    options = CertificateOptions(privateKey=server.private_key, certificate=server.certificate)
    https = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
        TLSMemoryBIOFactory(options, False, site)
    )
    print(direct.getHost().port, https.getHost().port, flush=True)
    await Deferred()


def start_server(folder: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start the other end; give its ports for TCP and for HTTPS, too."""
    command = [sys.executable, __file__, "--serve", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    tcp, https = map(int, process.stdout.readline().split())
    return process, tcp, https


def start_nginx(folder: Path, backend: int) -> tuple[subprocess.Popen[bytes], int] | None:
    """Start nginx in front of the engine's port; None where it is not installed."""
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        return None
    server, _ = key_pairs(folder)
    (folder / "proxy.pem").write_bytes(server.certificate_pem() + server.private_key_pem())
    port = free_port()
    changes = {
        "127.0.0.1:8443": f"127.0.0.1:{backend}",
        "/etc/ssl/engine.example.pem": str(folder / "proxy.pem"),
        "/var/lib/pkengine/https.crt": str(folder / "proxy.pem"),
        "proxy_ssl_verify on": "proxy_ssl_verify off",  # these keys name no host
    }
    command = DOCUMENTED_PROXIES["nginx"].furnish(folder, port, changes)
    environment = {**os.environ, "PATH": "/usr/sbin:/usr/bin"}
    return subprocess.Popen(command, env=environment), port


async def answers(port: int) -> None:
    """Wait until a port takes connections."""
    while True:
        try:
            probe = await connectProtocol(
                TCP4ClientEndpoint(reactor, "127.0.0.1", port), Protocol()
            )
        except ConnectError:
            await deferLater(reactor, 0.02)
        else:
            probe.transport.abortConnection()
            return


async def measure(folder: Path, calls: int) -> None:
    server, client = key_pairs(folder)
    dialler = PinAuthenticator(client, MemoryTrustStore([TrustedPeer("server", server.pin)]))

    async def dial(endpoint: IStreamClientEndpoint) -> Channel:
        return await connect_channel(reactor, endpoint, dialler, expected="server")

    def websocket(port: int) -> Any:
        return engine_endpoint(
            reactor, parse_engine_url(f"wss://127.0.0.1:{port}/x"), pin=server.pin
        )

    server_process, tcp, https = start_server(folder)
    children = [server_process]
    try:
        ways = {
            "TCP": await dial(TCP4ClientEndpoint(reactor, "127.0.0.1", tcp)),
            "WebSocket": await dial(websocket(https)),
        }
        nginx = start_nginx(folder, https)
        if nginx is not None:
            children.append(nginx[0])
            await answers(nginx[1])
            ways["WebSocket, nginx"] = await dial(websocket(nginx[1]))
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(calls + 100):
            for name, channel in ways.items():
                begun = time.perf_counter()
                await channel.call("echo", ARGUMENT)
                if number >= 100:  # what is made once is made by now
                    taken[name].append(time.perf_counter() - begun)
    finally:
        for child in children:
            child.kill()
            child.wait()
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, median in medians.items():
        print(f"{name:17s} {median * 1e6:7.0f} us")
    for name, median in list(medians.items())[1:]:
        print(f"{name} / TCP: {median / medians['TCP']:.2f}")
    if "WebSocket, nginx" in medians:
        ratio = medians["WebSocket, nginx"] / medians["WebSocket"]
        print(f"through nginx / direct: {ratio:.2f} (goal: at most {GOAL})")
    else:
        print("nginx is not installed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        react(lambda _: ensureDeferred(serve(options.serve)))
    with tempfile.TemporaryDirectory() as directory:
        key_pairs(Path(directory))
        react(lambda _: ensureDeferred(measure(Path(directory), options.calls)))


if __name__ == "__main__":
    main()
