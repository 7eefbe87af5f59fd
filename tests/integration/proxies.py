"""Proxies that end TLS, as real programs, and one that is hostile."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


#: What Debian's own /etc/nginx/nginx.conf does, as far as it matters.
NGINX_MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {site};
}}
"""

#: The same for a file that stands outside of ``http``.
NGINX_TCP = """
{modules}
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


@dataclass(frozen=True)
class Example:
    """A proxy that the documentation shows how to set up.

    Attributes:
        listens: the line that says where it listens, and the same on the loopback address.
        command: what runs it in the foreground.
        main: the file that includes the example, where it is none that stands alone.
        more: lines behind the example.
        signal: ends it; squid, when it is killed, leaves shared memory behind.
    """

    listens: tuple[str, str]
    command: Sequence[str]
    main: str = ""
    more: str = ""
    signal: str = "KILL"


_NGINX = ("nginx", "-p", "{folder}", "-c", "{configuration}")
_HAPROXY = ("haproxy", "-db", "-f", "{configuration}")

_EXAMPLES = {
    "nginx.conf": Example(
        ("listen 443 ssl", "listen 127.0.0.1:{port} ssl"), _NGINX, main=NGINX_MAIN
    ),
    "nginx-tcp.conf": Example(("listen 443", "listen 127.0.0.1:{port}"), _NGINX, main=NGINX_TCP),
    "haproxy.cfg": Example(("bind :443", "bind 127.0.0.1:{port}"), _HAPROXY),
    "haproxy-tcp.cfg": Example(("bind :443", "bind 127.0.0.1:{port}"), _HAPROXY),
    "stunnel.conf": Example(
        (
            "[clients]\naccept = 443",
            "foreground = yes\npid =\n[clients]\naccept = 127.0.0.1:{port}",
        ),
        ("stunnel", "{configuration}"),
    ),
    "tinyproxy.conf": Example(
        ("Port 3128", "Port {port}\nListen 127.0.0.1"),
        ("tinyproxy", "-d", "-c", "{configuration}"),
    ),
    "squid.conf": Example(
        ("http_port 3128", "http_port 127.0.0.1:{port}"),
        ("squid", "-N", "-n", "pkt{port}", "-f", "{configuration}"),
        more=_SQUID_HERE,
        signal="TERM",
    ),
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


def free_port() -> int:
    """Give a port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


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


def _nginx_modules() -> str:
    """Load the module for TCP, where it is not compiled in."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    return f"load_module {module};" if module.exists() else ""


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
    form = _EXAMPLES[example]

    def here(text: str) -> str:
        return text.format(
            folder=folder, port=port, configuration=configuration, modules=_nginx_modules()
        )

    text = (EXAMPLES / example).read_text()
    configuration = folder / example
    for documented, changed in {**changes, form.listens[0]: here(form.listens[1])}.items():
        assert documented in text, f"{example} does not have {documented!r}"
        text = text.replace(documented, changed)
    configuration.write_text(text + here(form.more))
    if form.main:
        main = form.main.replace("{site}", str(configuration))
        configuration = folder / f"main-{example}"
        configuration.write_text(here(main))
    await _start(test, [here(word) for word in form.command], port, signal=form.signal)
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
