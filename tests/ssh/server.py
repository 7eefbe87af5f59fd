"""An SSH server for tests: runs real commands, records what it is sent, misbehaves on demand."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha512
from math import prod
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol

from pkengine.keys import SshPublicKey
from pkengine.ssh.wire import mpint

PASSWORD = "correct horse & 'battery'"
USER = "admin"

# Messages of RFC 4253, 4252 and 4254, as a client sends them.
KEXINIT, ECDH_INIT, NEWKEYS, SERVICE_REQUEST = 20, 30, 21, 5
USERAUTH_REQUEST, INFO_RESPONSE, CHANNEL_OPEN, CHANNEL_REQUEST = 50, 61, 90, 98
CHANNEL_DATA = 94


@cache
def host_key(key_type: str, number: int = 0) -> Key:
    """Give a key of that type; the same one for the same number."""
    if key_type == "ssh-ed25519":
        return Key(ed25519.Ed25519PrivateKey.generate())
    if key_type == "ssh-rsa":
        return Key(rsa.generate_private_key(65537, 2048))
    return Key(ec.generate_private_key(ec.SECP256R1()))


class LongRsaKey:
    """An RSA key of any length, which `cryptography` would take minutes to make.

    Its modulus has as many prime factors as it has kibibits.  It signs as conch's keys do.
    """

    def __init__(self, kibibits: int) -> None:
        made = [
            rsa.generate_private_key(65537, 2048).private_numbers()
            for _ in range(kibibits // 2 + 1)
        ]
        self._primes = [prime for key in made for prime in (key.p, key.q)][:kibibits]
        self._modulus = prod(self._primes)

    def sshType(self) -> bytes:
        return b"ssh-rsa"

    def supportedSignatureAlgorithms(self) -> list[bytes]:
        return [b"rsa-sha2-512"]

    def public(self) -> LongRsaKey:
        return self

    def blob(self) -> bytes:
        return NS(b"ssh-rsa") + mpint(65537) + mpint(self._modulus)

    def sign(self, data: bytes, signatureType: bytes) -> bytes:
        length = (self._modulus.bit_length() + 7) // 8
        info = bytes.fromhex("3051300d060960864801650304020305000440") + sha512(data).digest()
        padded = b"\0\1" + b"\xff" * (length - len(info) - 3) + b"\0" + info
        message, signature = int.from_bytes(padded, "big"), 0
        for prime in self._primes:
            rest = self._modulus // prime
            part = pow(message % prime, pow(65537, -1, prime - 1), prime)
            signature += part * rest * pow(rest, -1, prime)
        value = (signature % self._modulus).to_bytes(length, "big")
        assert signatureType == b"rsa-sha2-512"
        return NS(signatureType) + NS(value)


def public(key: Key) -> SshPublicKey:
    return SshPublicKey.from_blob(key.public().blob())


@dataclass
class Login:
    """Which logins the server accepts, and what it says about them.

    Args:
        methods: what it names when it refuses.
        partial: methods that are accepted as one part only; `methods` shrinks by each.
        prompts: what keyboard-interactive asks, with echo or not, one round after the other.
    """

    methods: list[str] = field(default_factory=lambda: ["publickey", "password"])
    user: str = USER
    password: str = PASSWORD
    authorized: tuple[SshPublicKey, ...] = ()
    accepts_everything: bool = False
    partial: tuple[str, ...] = ()
    password_expired: bool = False
    banner: bytes = b""
    banners: int = 1
    prompts: tuple[tuple[tuple[str, bool], ...], ...] = ((("Password: ", False),),)
    instruction: str = ""


class _UserAuthServer(SSHService):
    name = b"ssh-userauth"

    def serviceStarted(self) -> None:
        self.server = self.transport.server
        self.login = self.server.login
        self.methods = list(self.login.methods)
        self.answers: list[str] = []
        for _ in range(self.login.banners if self.login.banner else 0):
            self.transport.sendPacket(53, NS(self.login.banner) + NS(b""))

    def packetReceived(self, number: int, packet: bytes) -> None:
        if number == USERAUTH_REQUEST:
            user, _, method, rest = getNS(packet, 3)
            self.user = user.decode()
            self.request = packet
            getattr(self, "auth_" + method.decode().replace("-", "_"))(rest)
        elif number == INFO_RESPONSE:
            (count,) = struct.unpack(">L", packet[:4])
            self._answered([a.decode() for a in getNS(packet[4:], count)[:-1]])

    def _decide(self, method: str, accepted: bool) -> None:
        if self.login.accepts_everything:
            accepted = True
        elif method != "none":
            accepted = accepted and self.user == self.login.user and method in self.methods
        if accepted and method in self.login.partial:
            self.methods.remove(method)
        elif accepted:
            self.transport.sendPacket(52, b"")
            self.transport.setService(_ConnectionServer())
            return
        self.transport.sendPacket(
            51, NS(",".join(self.methods).encode()) + (b"\1" if accepted else b"\0")
        )

    def auth_none(self, rest: bytes) -> None:
        self._decide("none", False)

    def auth_password(self, rest: bytes) -> None:
        password = getNS(rest[1:])[0].decode()
        self.server.passwords.append(password)
        if self.login.password_expired:
            self.transport.sendPacket(60, NS(b"New password:") + NS(b""))
        else:
            self._decide("password", password == self.login.password)

    def auth_publickey(self, rest: bytes) -> None:
        assert rest[:1] == b"\1", "the client signs at once"
        algorithm, blob, signature, _ = getNS(rest[1:], 3)
        self.server.key_algorithms.append(algorithm.decode())
        signed = self.request[: -len(NS(signature))]
        data = NS(self.transport.sessionID) + bytes((USERAUTH_REQUEST,)) + signed
        genuine = getNS(signature)[0] == algorithm and Key.fromString(blob).verify(signature, data)
        known = SshPublicKey.from_blob(blob) in self.login.authorized
        self._decide("publickey", genuine and known)

    def auth_keyboard_interactive(self, rest: bytes) -> None:
        self.rounds = list(self.login.prompts)
        self._ask()

    def _ask(self) -> None:
        prompts = self.rounds.pop(0)
        body = NS(b"") + NS(self.login.instruction.encode()) + NS(b"")
        body += struct.pack(">L", len(prompts))
        for prompt, echo in prompts:
            body += NS(prompt.encode()) + (b"\1" if echo else b"\0")
        self.transport.sendPacket(60, body)

    def _answered(self, answers: list[str]) -> None:
        self.server.passwords += answers
        self.answers += answers
        if self.rounds:
            self._ask()
        else:
            self._decide("keyboard-interactive", self.login.password in self.answers)


class _Process(ProcessProtocol):
    """A command that runs; its outputs go to the channel."""

    def __init__(self, channel: _SessionChannel) -> None:
        self.channel = channel
        self.ended: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.group = self.transport.pid

    def kill(self) -> None:
        """End the command and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
            return
        with contextlib.suppress(ProcessExitedAlready):  # too early for it to have a group
            self.transport.signalProcess("KILL")

    def outReceived(self, data: bytes) -> None:
        self.channel.write(data)

    def errReceived(self, data: bytes) -> None:
        self.channel.writeExtended(1, data)

    def processEnded(self, reason) -> None:
        self.channel.server.running.discard(self)
        self.channel.command_ended(reason.value)
        self.ended.callback(None)


class _SessionChannel(SSHChannel):
    """Runs one command."""

    name = b"session"
    process = None

    def request_exec(self, data: bytes) -> bool:
        self.server = self.conn.transport.server
        command = getNS(data)[0]
        self.server.commands.append(os.fsdecode(command))
        if self.server.refuses_commands:
            return False
        self.process = _Process(self)
        self.server.running.add(self.process)
        arguments = ["setsid", "/bin/sh", "-c", command]  # a process group of its own
        self.server.reactor.spawnProcess(
            self.process, "/usr/bin/setsid", arguments, env=self.server.environment
        )
        return True

    def request_signal(self, data: bytes) -> bool:
        self.server.signals.append(getNS(data)[0].decode())
        return True

    def dataReceived(self, data: bytes) -> None:
        self.server.received += len(data)
        self.process.transport.write(data)

    def eofReceived(self) -> None:
        if self.process is not None:
            self.process.transport.closeStdin()

    def command_ended(self, how) -> None:
        if self.localClosed:
            return
        if how.signal is None:
            status = struct.pack(">L", how.exitCode)
            self.conn.sendRequest(self, b"exit-status", status)
        else:
            name = signal.Signals(how.signal).name.removeprefix("SIG").encode()
            self.conn.sendRequest(self, b"exit-signal", NS(name) + b"\0" + NS(b"") + NS(b""))
        self.conn.sendEOF(self)
        if not self.server.keeps_channels_open:
            self.loseConnection()

    def closed(self) -> None:
        if self.process in self.conn.transport.server.running:
            self.process.kill()


class _ConnectionServer(SSHConnection):
    def getChannel(self, channelType, windowSize, maxPacket, data):
        channel = _SessionChannel(remoteWindow=windowSize, remoteMaxPacket=maxPacket, conn=self)
        if self.transport.server.window:
            channel.localWindowSize = channel.localWindowLeft = self.transport.server.window
        return channel

    def gotGlobalRequest(self, requestType, data):
        return 0


class RecordingTransport(SSHServerTransport):
    """Records every message that the client sends, in the clear."""

    def connectionMade(self) -> None:
        self.server: SshServer = self.factory.server
        self.messages: list[tuple[int, bytes]] = []
        self.is_stalled = False
        self.lost: Deferred[None] = Deferred()
        self.server.connections.append(self)
        super().connectionMade()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        self.messages.append((messageNum, payload))
        behaviour = self.server.behaviours.get(messageNum)
        if not self.is_stalled and (behaviour is None or behaviour(self)):
            super().dispatchMessage(messageNum, payload)

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.messages]

    def connectionLost(self, reason) -> None:
        super().connectionLost(reason)
        self.lost.callback(None)


class SshServer(SSHFactory):
    """A server on the loopback interface.

    Attributes:
        login: who may log in.
        behaviours: what to do when a message with that number comes, before it is handled;
            it is handled only where that returns True.
        connections: every connection so far, with the messages that came on it.
        passwords: every password and answer that came, in order.
    """

    noisy = False
    protocol = RecordingTransport
    services: ClassVar[dict] = {b"ssh-userauth": _UserAuthServer}

    def __init__(
        self, *keys: Key, login: Login | None = None, path: str = "", reactor=default_reactor
    ) -> None:
        self.reactor = reactor
        self.server = self
        self.login = login or Login()
        self.environment = {"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"}
        self.behaviours: dict[int, Callable[[RecordingTransport], bool]] = {}
        self.connections: list[RecordingTransport] = []
        self.passwords: list[str] = []
        self.key_algorithms: list[str] = []
        self.commands: list[str] = []
        self.signals: list[str] = []
        self.running: set[_Process] = set()
        self.received = 0
        self.window = 0
        self.refuses_commands = False
        self.keeps_channels_open = False
        self.use_keys(*(keys or (host_key("ssh-ed25519"),)))

    def use_keys(self, *keys: Key) -> None:
        """Show these host keys from the next connection on."""
        self.privateKeys = {key.sshType(): key for key in keys}
        self.publicKeys = {key.sshType(): key.public() for key in keys}

    def getService(self, transport, service):
        return self.services[service]

    def listen(self, interface: str = "127.0.0.1") -> SshServer:
        self._listening = self.reactor.listenTCP(0, self, interface=interface)
        self.port = self._listening.getHost().port
        return self

    async def stop(self) -> None:
        await self._listening.stopListening()
        running = list(self.running)
        for process in running:
            process.kill()
        for connection in self.connections:
            connection.transport.abortConnection()
        await gatherResults([process.ended for process in running])
        await gatherResults([connection.lost for connection in self.connections])

    # Behaviours.

    def stall_at(self, message: int) -> Deferred[RecordingTransport]:
        """Say nothing more once such a message came."""
        came: Deferred[RecordingTransport] = Deferred()

        def behave(transport: RecordingTransport) -> bool:
            transport.is_stalled = True
            came.callback(transport)
            return False

        self.behaviours[message] = behave
        return came

    def close_at(self, message: int) -> None:
        """Cut the connection off when such a message comes."""

        def behave(transport: RecordingTransport) -> bool:
            transport.transport.abortConnection()
            return False

        self.behaviours[message] = behave
