"""SSH's binary packets on a network (RFC 4253 §4.2 and §6), and how a connection ends.

What is here knows nothing of what the packets say, save for the few messages that make an end.
Whatever goes wrong ends the connection with one reason, which whoever waits for it is told.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from twisted.conch.ssh.transport import (
    DISCONNECT_BY_APPLICATION,
    MSG_UNIMPLEMENTED,
    SSHClientTransport,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, ISystemHandle, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from pkengine.errors import HostUnreachable, SshConnectionLost, SshError
from pkengine.ssh.packets import PacketStream
from pkengine.ssh.quiet_log import QUIET_LOG
from pkengine.ssh.silence import notice_silence
from pkengine.ssh.version import OUR_VERSION
from pkengine.ssh.wire import MalformedMessage, readable

#: How many messages that nobody understands are answered before the connection is ended.
_MAX_UNIMPLEMENTED = 16
#: How many requests of the host are answered while it does not take in our answers.
_MAX_UNHEARD = 64
#: How much is written before the network is asked whether it takes more.  Twisted's own 64 KiB
#: are two packets of an upload.
_WRITE_BUFFER = 256 * 1024
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


@implementer(IPushProducer)
class PacketTransport(SSHClientTransport):
    """One connection that carries packets.

    Args:
        where: the host as error texts name it.

    Attributes:
        is_secure: the host has proved its key, and encryption is on.
        stage: what the connection waits for, in words.
        ended_by: why the connection ended or is ending; None while it is alive.
        on_writable: is called when the network takes more.
    """

    _log = QUIET_LOG
    ourVersionString = OUR_VERSION

    def __init__(self, where: str) -> None:
        self.where = where
        self.is_secure = False
        self.stage = "its SSH version string"
        self.ended_by: SshError | None = None
        self.on_writable: Callable[[], None] = lambda: None
        self._network: Any = None  # the stream, which conch's type knows too little of
        self._socket: socket.socket | None = None
        self._packets = PacketStream()
        self._unimplemented = 0
        self._unheard = 0
        self._is_paused = False
        self._is_lost = False
        self._lost_waiters: list[Deferred[None]] = []

    # The connection's beginning and end.

    def connectionMade(self) -> None:
        """Say our version, and at once which algorithms we have."""
        self._network = self.transport
        if ITCPTransport.providedBy(self.transport):
            self._network.setTcpNoDelay(True)
            self._socket = self._network.getHandle()
        if ISystemHandle.providedBy(self.transport):
            notice_silence(self._network.getHandle())
        self._network.bufferSize = _WRITE_BUFFER
        self._network.registerProducer(self, True)
        super().connectionMade()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell everybody who waits why there is no connection any more."""
        if self.ended_by is None:
            self.ended_by = self._error(
                "the host closed the connection"
                if reason is None or reason.check(ConnectionDone) or not self.is_secure
                else "the host closed the connection without a word, or is cut off"
            )
        super().connectionLost(reason)
        self._is_lost = True
        waiters, self._lost_waiters = self._lost_waiters, []
        for waiter in waiters:
            if not waiter.called:  # it may have been cancelled
                waiter.callback(None)

    def when_lost(self) -> Deferred[None]:
        """Give a Deferred that fires when the connection is gone."""
        if self._is_lost:
            return succeed(None)
        self._lost_waiters.append(Deferred())
        return self._lost_waiters[-1]

    def end(self, reason: SshError) -> None:
        """Cut the connection off without another word; the first reason is kept."""
        if self.ended_by is None:
            self.ended_by = reason
        self._network.abortConnection()

    def disconnect(self, reason: SshError, code: int = DISCONNECT_BY_APPLICATION) -> None:
        """Say goodbye and close; the first reason is kept."""
        if self.ended_by is None:
            self.ended_by = reason
            super().sendDisconnect(code, b"")

    def _error(self, what: str) -> SshError:
        if self.is_secure:
            return SshConnectionLost(f"The SSH connection to {self.where} was lost: {what}.")
        return HostUnreachable(
            f"No SSH connection to {self.where}: {what} while {self.stage} was awaited. Check "
            "that an SSH server, and nothing else, listens on that port."
        )

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        """Conch calls this where it cannot go on."""
        if self.ended_by is None:
            self.ended_by = self._error(f"the SSH protocol was broken ({readable(desc)})")
            super().sendDisconnect(reason, b"protocol error")

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """Keep the reason that the server gives for ending the connection."""
        if self.ended_by is None:
            self.ended_by = self._error(f"the host says '{readable(description)}'")

    # Octets in: the version string, then packets.

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the network."""
        packets = self._packets
        packets.receive(data)
        try:
            if not self.gotVersion:
                version = packets.version()
                if version is None:
                    return
                self.otherVersionString, self.gotVersion = version, True
                self.stage = "its key exchange"
            while self.ended_by is None and (payload := packets.open()) is not None:
                self.dispatchMessage(payload[0], payload[1:])
        except SshError as error:
            self.end(error)
        except Exception as error:  # conch shows malformed messages by exceptions of many types
            ending = self._error(f"the SSH protocol was broken ({readable(str(error))})")
            ending.__cause__ = error
            self.end(ending)
        self._acknowledge_quickly()

    def _acknowledge_quickly(self) -> None:
        """Acknowledge what was read at once.

        Until a session starts, sshd leaves Nagle's algorithm on, and then waits for our
        acknowledgement, which Linux delays by 40 ms.  The option does not last.
        """
        if _QUICKACK is not None and self._socket is not None and self.ended_by is None:
            with contextlib.suppress(OSError):  # the host may have hung up meanwhile
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def sendUnimplemented(self) -> None:
        """Say that a message was not understood, but not without end."""
        self._unimplemented += 1
        if self._unimplemented > _MAX_UNIMPLEMENTED:
            raise MalformedMessage("too many messages that nobody asked for")
        number = (self._packets.opened - 1) & 0xFFFF_FFFF
        self.sendPacket(MSG_UNIMPLEMENTED, number.to_bytes(4, "big"))

    def receiveUnimplemented(self, seqnum: int) -> None:
        """All that we send is part of every SSH server."""
        raise MalformedMessage("the host does not know a message that every SSH server knows")

    def receiveDebug(self, alwaysDisplay: bool, message: bytes, lang: bytes) -> None:
        """Leave out what a server tells for debugging."""

    # Octets out.

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send a message; conch calls this."""
        self.send(messageType, payload)

    def send(self, message_type: int, *payload: bytes) -> None:
        """Send a message.

        Args:
            message_type: its number.
            payload: what follows, which may come in parts so that nobody has to join them.
        """
        self._network.write(self._packets.seal(bytes((message_type,)), *payload))

    @property
    def is_congested(self) -> bool:
        """Tell whether what is sent now would have to wait."""
        return self._is_paused

    def pauseProducing(self) -> None:
        """The network takes no more for now."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """The network takes more."""
        self._is_paused = False
        self._unheard = 0
        if not self.is_congested:
            self.on_writable()

    def bear_request(self) -> None:
        """Count a request of the host that will be answered.

        Raises:
            MalformedMessage: the host asks on and on without taking the answers in.
        """
        self._unheard += self.is_congested
        if self._unheard > _MAX_UNHEARD:
            raise MalformedMessage("requests without end")

    def stopProducing(self) -> None:
        """The connection is going away; `connectionLost` follows."""
