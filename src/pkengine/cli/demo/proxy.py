"""A proxy that ends TLS in front of the engine, set up as the documentation shows.

The files in ``proxies/`` are what the documentation prints; what differs on this machine,
such as ports, is put in their place.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkengine.cli.demo.program import Program
from pkengine.errors import EngineError
from pkengine.keys import KeyPair, Pin
from pkengine.keys.files import write_atomically

#: What Debian's own /etc/nginx/nginx.conf does, as far as it matters.
_NGINX_MAIN = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
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


@dataclass(frozen=True)
class DocumentedProxy:
    """A proxy that the documentation shows how to set up.

    Attributes:
        path: its configuration.
        package: Debian's package of it.
        command: what runs it in the foreground.
        listens: the line that says where it listens, and the same on the loopback address.
        main: the file that includes that one, where it is none that stands alone.
        own_address: where it listens for itself, or empty.
        is_forwarding: it tells the engine the addresses of its clients.
    """

    path: Path
    package: str
    command: Sequence[str]
    listens: tuple[str, str]
    main: str = ""
    own_address: str = ""
    is_forwarding: bool = True

    def furnish(self, folder: Path, port: int, changes: Mapping[str, str]) -> list[str]:
        """Write the configuration for this machine; give the command that runs it.

        Args:
            folder: for the configuration and what the proxy writes.
            port: where it is to listen.
            changes: what stands for something else of the documented file.
        """
        text = self.path.read_text("utf-8")
        changes = {**changes, self.listens[0]: self.listens[1].format(port=port)}
        if self.own_address:
            changes[self.own_address] = f"127.0.0.1:{free_port()}"
        for documented, here in changes.items():
            if documented not in text:
                raise ValueError(f"{self.path.name} does not have {documented!r}.")
            text = text.replace(documented, here)
        configuration = folder / self.path.name
        configuration.write_text(text)
        if self.main:
            site, configuration = configuration, folder / f"main-{self.path.name}"
            configuration.write_text(self.main.format(folder=folder, site=site))
        places = {"folder": folder, "configuration": configuration, "port": port}
        return [word.format_map(places) for word in self.command]


_FOLDER = Path(__file__).parent / "proxies"

DOCUMENTED_PROXIES = {
    "nginx": DocumentedProxy(
        _FOLDER / "nginx.conf",
        "nginx",
        ("nginx", "-p", "{folder}", "-c", "{configuration}"),
        ("listen 443 ssl", "listen 127.0.0.1:{port} ssl"),
        main=_NGINX_MAIN,
    ),
    "haproxy": DocumentedProxy(
        _FOLDER / "haproxy.cfg",
        "haproxy",
        ("haproxy", "-db", "-f", "{configuration}"),
        ("bind :443", "bind 127.0.0.1:{port}"),
    ),
    "stunnel": DocumentedProxy(
        _FOLDER / "stunnel.conf",
        "stunnel4",
        ("stunnel", "{configuration}"),
        (
            "[clients]\naccept = 443",
            "foreground = yes\npid =\n[clients]\naccept = 127.0.0.1:{port}",
        ),
        own_address="127.0.0.1:8442",
        is_forwarding=False,
    ),
}


class ProxyProcess:
    """One of these proxies, running in front of an engine on this machine.

    Args:
        reactor: runs the process.
        name: which one, of `DOCUMENTED_PROXIES`.
        folder: for its files; it is made.
        environment: of the process.

    Attributes:
        pin: of the key that it shows to clients.
        port: where it listens.
        is_forwarding: it tells the engine the addresses of its clients.
    """

    def __init__(
        self, reactor: Any, name: str, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._form = DOCUMENTED_PROXIES[name]
        self._folder = folder
        self._key_pair = KeyPair.generate("proxy", subject_alternative_names=["localhost"])
        self.pin: Pin = self._key_pair.pin
        self.port = free_port()
        self.is_forwarding = self._form.is_forwarding
        self._path = f"{environment.get('PATH', '')}:/usr/sbin"
        folder.mkdir(mode=0o700)
        self._program = Program(reactor, name, folder / f"{name}.log", environment)

    async def start(self, engine_port: int, engine_certificate: Path) -> None:
        """Start it, and wait until it listens.

        Raises:
            EngineError: it is not installed, or does not start.
        """
        wanted = self._form.command[0]
        program = shutil.which(wanted, path=self._path)
        if program is None:
            raise EngineError(
                f"There is no program {wanted!r} on this machine: install it, such as on Debian "
                f"with: apt-get install {self._form.package}"
            )
        pem = self._folder / "proxy.pem"
        certificate, key = self._key_pair.certificate_pem(), self._key_pair.private_key_pem()
        write_atomically(pem, certificate + key)
        changes = {
            "/etc/ssl/engine.example.pem": str(pem),
            "127.0.0.1:8443": f"127.0.0.1:{engine_port}",
            "/var/lib/pkengine/https.crt": str(engine_certificate),
        }
        command = self._form.furnish(self._folder, self.port, changes)
        await self._program.start([program, *command[1:]], lambda: _is_listening(self.port))

    async def stop(self) -> None:
        """End it."""
        await self._program.stop()


def free_port() -> int:
    """Choose a port of the loopback address that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
