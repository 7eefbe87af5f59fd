"""Proxies that end TLS, as real programs, and one that is hostile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.error import ConnectError, ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface import implementer

from pkengine.cli.demo.proxy import DOCUMENTED_PROXIES, DocumentedProxy, free_port
from pkengine.keys import KeyPair

NGINX = """
{modules}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
stream {{
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/proxy.pem;
        ssl_certificate_key {folder}/proxy.pem;
        proxy_pass 127.0.0.1:{backend};
    }}
}}
"""

HAPROXY = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen proxy
    bind 127.0.0.1:{port} ssl crt {folder}/proxy.pem
    server backend 127.0.0.1:{backend}
"""


#: What includes a file that stands outside of ``http``.
NGINX_TCP = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
include {site};
"""

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

#: What else the programs need here, where they are not the system's own services.
_SQUID_HERE = """
cache_log /dev/null
access_log none
pid_filename none
coredump_dir none
shutdown_lifetime 0 seconds
"""


def _nginx_modules() -> str:
    """Load the module for TCP, where it is not compiled in."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    return f"load_module {module};" if module.exists() else ""


_NGINX = DOCUMENTED_PROXIES["nginx"]
_HAPROXY = DOCUMENTED_PROXIES["haproxy"]

_EXAMPLES = {
    example.path.name: example
    for example in (
        *DOCUMENTED_PROXIES.values(),
        DocumentedProxy(
            EXAMPLES / "nginx-tcp.conf",
            "libnginx-mod-stream",
            _NGINX.command,
            ("listen 443", "listen 127.0.0.1:{port}"),
            main=_nginx_modules() + NGINX_TCP,
        ),
        DocumentedProxy(
            EXAMPLES / "haproxy-tcp.cfg", "haproxy", _HAPROXY.command, _HAPROXY.listens
        ),
        DocumentedProxy(
            EXAMPLES / "tinyproxy.conf",
            "tinyproxy",
            ("tinyproxy", "-d", "-c", "{configuration}"),
            ("Port 3128", "Port {port}\nListen 127.0.0.1"),
        ),
        DocumentedProxy(
            EXAMPLES / "squid.conf",
            "squid",
            ("squid", "-N", "-n", "pkt{port}", "-f", "{configuration}"),
            ("http_port 3128", "http_port 127.0.0.1:{port}" + _SQUID_HERE),
        ),
    )
}


class _Program(ProcessProtocol):
    """A program that runs until it is stopped."""

    def __init__(self) -> None:
        self.output = b""
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        self.ended.callback(None)


def proxy_certificate(folder: Path) -> KeyPair:
    """Make the certificate of a proxy, and the file that the programs want it in."""
    pair = KeyPair.generate("proxy", subject_alternative_names=["localhost"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "proxy.pem").write_bytes(pair.certificate_pem() + pair.private_key_pem())
    return pair


async def _start(test: TestCase, command: list[str], port: int, *, signal: str = "KILL") -> None:
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SkipTest(f"{command[0]} is not installed")
    process = _Program()
    transport = reactor.spawnProcess(process, program, command, env=os.environ)

    def stop() -> Deferred[None]:
        if transport.pid is not None:
            transport.signalProcess(signal)
        return process.ended

    test.addCleanup(stop)
    while not process.ended.called:
        try:
            probe = await connectProtocol(
                TCP4ClientEndpoint(reactor, "127.0.0.1", port), Protocol()
            )
        except ConnectError:
            await deferLater(reactor, 0.02)
        else:
            probe.transport.abortConnection()
            return
    raise AssertionError(f"{command[0]} ended: {process.output.decode()}")


async def start_nginx(test: TestCase, folder: Path, backend: int) -> int:
    """Start nginx, ending TLS in front of a port; give its own port."""
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        NGINX.format(modules=_nginx_modules(), folder=folder, port=port, backend=backend)
    )
    await _start(test, ["nginx", "-p", str(folder), "-c", str(configuration)], port)
    return port


async def start_haproxy(test: TestCase, folder: Path, backend: int) -> int:
    """Start HAProxy, ending TLS in front of a port; give its own port."""
    port = free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(HAPROXY.format(folder=folder, port=port, backend=backend))
    await _start(test, ["haproxy", "-db", "-f", str(configuration)], port)
    return port


async def start_documented(
    test: TestCase, example: str, folder: Path, changes: Mapping[str, str]
) -> int:
    """Start a proxy with a configuration file of the documentation; give its port.

    Args:
        test: its end is the proxy's.
        example: the name of the file.
        folder: for what the proxy writes.
        changes: what stands for something else on this machine, such as a path.
    """
    port = free_port()
    command = _EXAMPLES[example].furnish(folder, port, changes)
    # Squid, when it is killed, leaves shared memory behind.
    await _start(test, command, port, signal="TERM" if command[0] == "squid" else "KILL")
    return port


@implementer(IOpenSSLClientConnectionCreator)
class AnyServer:
    """A TLS client that asks nobody who the server is."""

    def clientConnectionForTLS(self, tls: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(CertificateOptions().getContext(), None)


class _Leg(Protocol):
    """One leg of the hostile proxy."""

    other: _Leg | None = None
    direction = ""

    def __init__(self, proxy: HostileProxy) -> None:
        self.proxy = proxy
        self.held = b""

    def dataReceived(self, data: bytes) -> None:
        self.proxy.seen += data
        if self.other is None:
            self.held += data
        elif changed := self.proxy.change(self.direction, data):
            self.other.transport.write(changed)

    def connectionLost(self, reason: Failure) -> None:
        if self.other is not None and self.proxy.passes_the_end:
            self.other.transport.loseConnection()


class _Front(_Leg):
    direction = "to the server"

    def connectionMade(self) -> None:
        back = _Back(self.proxy)
        back.other = self
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.proxy.backend)
        if self.proxy.is_backend_tls:  # and it does not look whose TLS that is
            endpoint = wrapClientTLS(AnyServer(), endpoint)
        connectProtocol(endpoint, back).addCallbacks(
            self._joined, lambda failure: self.transport.loseConnection()
        )

    def _joined(self, back: _Leg) -> None:
        self.other = back
        self.proxy.legs.append((self, back))
        held, self.held = self.held, b""
        if held:
            back.transport.write(self.proxy.change(self.direction, held))


class _Back(_Leg):
    direction = "to the client"


class HostileProxy:
    """Ends TLS, keeps what it sees, and changes it as it likes.

    Attributes:
        change: takes the direction and octets, gives the octets to pass on.
        seen: everything that passed, as the proxy read it.
        legs: the two legs of each connection.
        passes_the_end: whether the end of one leg ends the other.
    """

    def __init__(self, backend: int, *, is_backend_tls: bool = False) -> None:
        self.backend = backend
        self.is_backend_tls = is_backend_tls
        self.change: Callable[[str, bytes], bytes] = lambda direction, data: data
        self.seen = b""
        self.legs: list[tuple[_Leg, _Leg]] = []
        self.passes_the_end = True

    async def start(self, test: TestCase, pair: KeyPair) -> int:
        """Listen; give the port."""
        options = CertificateOptions(privateKey=pair.private_key, certificate=pair.certificate)
        factory = Factory.forProtocol(lambda: _Front(self))
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            TLSMemoryBIOFactory(options, False, factory)
        )
        test.addCleanup(port.stopListening)
        self.port = port.getHost().port
        return self.port
