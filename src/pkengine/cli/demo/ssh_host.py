"""A throw-away host: an SSH server that runs real commands below a temporary folder.

It needs neither root nor a package of the system.  Commands run through ``/bin/sh`` as the
current user, with HOME in the folder and with the current interpreter as ``python3``, so the
agent that an engine deploys here is the real one.  It also remembers what each client did,
because the server's side is where one sees that a refused host key cost no password.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import IAuthorizedKeysDB, SSHPublicKeyChecker, readAuthorizedKeyFile
from twisted.conch.error import ConchError
from twisted.conch.interfaces import IConchUser, ISession
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession, SSHSessionProcessProtocol
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.conch.ssh.userauth import SSHUserAuthServer
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IListeningPort, IProcessTransport, IReactorProcess
from twisted.python.components import registerAdapter
from zope.interface import implementer

from pkengine.keys import Secret, SshPublicKey

#: The host's one user; a name that no system gives a meaning to.
USER = "demo"


@dataclass(slots=True)
class Visit:
    """What one client did on one connection.

    Attributes:
        methods: the authentication methods that it tried, in order; a client that left after
            it saw the host key tried none.
        commands: how many commands it ran.
    """

    methods: list[str] = field(default_factory=list)
    commands: int = 0


class ThrowAwayHost:
    """The host: a folder, a key, a user with a password, and the SSH server over them.

    Args:
        reactor: listens and runs the commands.
        folder: an empty folder; everything the host has stays below it.
    """

    def __init__(self, reactor: Any, folder: Path) -> None:
        self._reactor = reactor
        self.home = folder / "home"
        self.password = Secret(secrets.token_urlsafe(18))
        self.visits: list[Visit] = []
        self._key = Key(ed25519.Ed25519PrivateKey.generate())
        self._listening: IListeningPort | None = None
        self._environment = _furnish(folder)

    @property
    def public_key(self) -> SshPublicKey:
        """The host key."""
        return SshPublicKey.from_blob(self._key.public().blob())

    @property
    def port(self) -> int:
        """The port that the SSH server listens on."""
        assert self._listening is not None, "the host is listening"
        address = self._listening.getHost()
        assert isinstance(address, IPv4Address)
        return address.port

    def listen(self) -> None:
        """Start the SSH server on a free port of the loopback interface."""
        self._listening = self._reactor.listenTCP(0, _Server(self), interface="127.0.0.1")

    async def stop(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)

    def portal(self) -> Portal:
        """Give what decides who may log in."""
        return Portal(
            _Realm(self),
            [_PasswordChecker(self.password), SSHPublicKeyChecker(_AuthorizedKeys(self.home))],
        )

    def spawn(self, protocol: SSHSessionProcessProtocol, command: bytes) -> IProcessTransport:
        """Run a command as `/bin/sh -c` in the host's home."""
        reactor: IReactorProcess = self._reactor
        return reactor.spawnProcess(
            protocol, "/bin/sh", ["sh", "-c", command], self._environment, str(self.home)
        )


def _furnish(folder: Path) -> dict[str, str]:
    """Make the host's folders and commands; give the environment of its user."""
    home, programs, temporary = folder / "home", folder / "bin", folder / "tmp"
    # Where the agent's own folder exists below the home, a deployment goes there, even for
    # the superuser and where systemd runs.
    for directory in (home, programs, temporary, home / ".local/share/pkagent"):
        directory.mkdir(mode=0o700, parents=True)
    # The interpreter without its virtual environment: what a host has is not what we have.
    interpreter = os.path.realpath(sys.executable)
    _program(programs / "python3", f'exec {shlex.quote(interpreter)} "$@"')
    # Whatever the person who runs this may do with sudo: their machine is not to be changed.
    _program(programs / "sudo", f"echo 'sudo: {USER} may not run sudo on this host.' >&2; exit 1")
    return {
        "HOME": str(home),
        "USER": USER,
        "LOGNAME": USER,
        "SHELL": "/bin/sh",
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
    }


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)


class _Transport(SSHServerTransport):
    visit: Visit


class _Server(SSHFactory):
    noisy = False
    protocol = _Transport

    def __init__(self, host: ThrowAwayHost) -> None:
        self.host = host
        self.portal = host.portal()
        self.services = {
            b"ssh-userauth": _RecordingAuthentication,
            b"ssh-connection": SSHConnection,
        }
        self._keys = {host._key.sshType(): host._key}

    def buildProtocol(self, address: Any) -> SSHServerTransport:
        transport = super().buildProtocol(address)
        assert isinstance(transport, _Transport)
        transport.visit = Visit()
        self.host.visits.append(transport.visit)
        return transport

    def getPublicKeys(self) -> dict[bytes, Key]:
        return {kind: key.public() for kind, key in self._keys.items()}

    def getPrivateKeys(self) -> dict[bytes, Key]:
        return self._keys


class _RecordingAuthentication(SSHUserAuthServer):
    """Notes each method that a client tries, before it is judged."""

    transport: _Transport

    def tryAuth(self, kind: bytes, user: bytes, data: bytes) -> Any:
        self.transport.visit.methods.append(kind.decode("ascii", "replace"))
        return super().tryAuth(kind, user, data)


@implementer(ICredentialsChecker)
class _PasswordChecker:
    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, password: Secret) -> None:
        self._password = password

    async def _check(self, credentials: Any) -> bytes:
        if (
            credentials.username == USER.encode()
            and Secret(credentials.password) == self._password
        ):
            return USER.encode()
        raise UnauthorizedLogin("The user or the password is wrong.")

    def requestAvatarId(self, credentials: Any) -> Any:

        return Deferred.fromCoroutine(self._check(credentials))


@implementer(IAuthorizedKeysDB)
class _AuthorizedKeys:
    """The keys in ``~/.ssh/authorized_keys``, read anew for each login."""

    def __init__(self, home: Path) -> None:
        self._path = home / ".ssh" / "authorized_keys"

    def getAuthorizedKeys(self, username: bytes) -> Iterator[Key]:
        if username == USER.encode():
            with contextlib.suppress(FileNotFoundError), self._path.open("rb") as lines:
                yield from readAuthorizedKeyFile(lines)


@implementer(IRealm)
class _Realm:
    def __init__(self, host: ThrowAwayHost) -> None:
        self._host = host

    def requestAvatar(self, name: Any, mind: object, *interfaces: Any) -> Any:
        return IConchUser, _User(self._host), lambda: None


class _User(ConchUser):
    def __init__(self, host: ThrowAwayHost) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.host = host
        self.channelLookup[b"session"] = SSHSession


@implementer(ISession)
class _CommandSession:
    """Runs one command; this host has no terminals to give."""

    def __init__(self, user: _User) -> None:
        self._user = user
        self._process: IProcessTransport | None = None

    def execCommand(self, protocol: SSHSessionProcessProtocol, command: bytes) -> None:
        self._user.conn.transport.visit.commands += 1
        self._process = self._user.host.spawn(protocol, command)

    def eofReceived(self) -> None:
        if self._process is not None:
            self._process.closeStdin()

    def closed(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self._process.signalProcess("HUP")

    def getPty(self, term: bytes, windowSize: Any, modes: Any) -> None:
        raise ConchError("This host has no terminals.")

    def openShell(self, protocol: SSHSessionProcessProtocol) -> None:
        raise ConchError("This host runs single commands only.")

    def windowChanged(self, newWindowSize: Any) -> None:
        raise ConchError("This host has no terminals.")


registerAdapter(_CommandSession, _User, ISession)
