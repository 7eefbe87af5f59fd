"""OpenSSH's sshd on the loopback interface, as the user who runs the tests.

It runs in inetd mode, one process a connection, so that the port is chosen by the kernel.
Only public keys of the same user can log in: passwords need root.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
from pathlib import Path

from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol

from pkengine.keys import SshPublicKey

SSHD = "/usr/sbin/sshd"
USER = getpass.getuser()


def is_available() -> bool:
    return os.access(SSHD, os.X_OK)


class _SshdProcess(ProcessProtocol):
    def __init__(self, server: OpenSshServer) -> None:
        self.server = server
        self.ended: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.server.processes.add(self)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.server.log += data

    def processEnded(self, reason: object) -> None:
        self.server.processes.discard(self)
        self.ended.callback(None)


class _Handover(Protocol):
    """Give the accepted connection to an sshd of its own."""

    def connectionMade(self) -> None:
        server = self.factory.server
        server.connections += 1
        self.transport.stopReading()
        fd = self.transport.fileno()
        os.set_blocking(fd, True)
        server.reactor.spawnProcess(
            _SshdProcess(server),
            SSHD,
            [SSHD, "-i", "-e", "-f", str(server.configuration)],
            env={"PATH": os.environ["PATH"]},
            childFDs={0: fd, 1: fd, 2: "r"},
        )
        # The child has its own copy of the socket: close ours without a shutdown.
        self.transport.connectionLost = lambda reason: None
        self.transport.socket.detach()
        os.close(fd)


class OpenSshServer:
    """One sshd with its own host keys.

    Args:
        directory: holds its files.
        host_key_types: as ``ssh-keygen -t`` has them.
        options: further lines of ``sshd_config``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        host_key_types: tuple[str, ...] = ("ed25519",),
        options: tuple[str, ...] = (),
        reactor=default_reactor,
    ) -> None:
        self.directory = directory
        self.reactor = reactor
        self.host_key_types = host_key_types
        self.options = options
        self.configuration = directory / "sshd_config"
        self.authorized_keys = directory / "authorized_keys"
        self.home = directory / "home"
        self.processes: set[_SshdProcess] = set()
        self.log = b""
        self.connections = 0
        self.port = 0

    def start(self, *authorized: str) -> OpenSshServer:
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self.home.mkdir(parents=True)
        for key_type in self.host_key_types:
            self.make_host_key(key_type)
        self.authorized_keys.write_text("".join(line + "\n" for line in authorized))
        self.authorized_keys.chmod(0o600)
        lines = [
            *(f"HostKey {self._host_key(key_type)}" for key_type in self.host_key_types),
            f"AuthorizedKeysFile {self.authorized_keys}",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            "PidFile none",
            f"SetEnv HOME={self.home}",
            *self.options,
        ]
        self.configuration.write_text("".join(line + "\n" for line in lines))
        factory = Factory.forProtocol(_Handover)
        factory.server = self
        factory.noisy = False
        self._listening = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.port = self._listening.getHost().port
        return self

    def _host_key(self, key_type: str) -> Path:
        return self.directory / f"ssh_host_{key_type}_key"

    def make_host_key(self, key_type: str) -> None:
        path = self._host_key(key_type)
        path.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", key_type, "-N", "", "-f", str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
        )

    def host_key(self, key_type: str = "ed25519") -> SshPublicKey:
        return SshPublicKey.parse(self._host_key(key_type).with_suffix(".pub").read_text())

    async def stop(self) -> None:
        await self._listening.stopListening()
        processes = list(self.processes)
        for process in processes:
            with contextlib.suppress(ProcessExitedAlready):
                process.transport.signalProcess("KILL")
        await gatherResults([process.ended for process in processes])
