"""Run one command on a host: a session channel (RFC 4254 §6)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from twisted.conch.error import ConchError
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.connection import (
    EXTENDED_DATA_STDERR,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_OPEN_FAILURE,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    SSHConnection,
)
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pkengine.errors import SshCommandFailed, SshConnectionLost, SshError
from pkengine.keys import SshPublicKey
from pkengine.ssh.host_key_rotation import ANNOUNCEMENT, announced_keys
from pkengine.ssh.quiet_log import QUIET_LOG
from pkengine.ssh.sudo import SudoDialogue, SudoState
from pkengine.ssh.transport import SshTransport
from pkengine.ssh.wire import MalformedMessage, Reader, readable, string

#: The most that is written in one message, whatever the host would take.
_MAX_CHUNK = 32 * 1024


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of a command.

    Attributes:
        exit_status: None where a signal ended it.
        exit_signal: the signal's name without "SIG" (RFC 4254 §6.10), or empty.
    """

    exit_status: int | None
    stdout: bytes
    stderr: bytes
    exit_signal: str = ""

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if self.exit_status is None:
            return f"was ended by signal {self.exit_signal or 'unknown'}"
        return f"ended with exit status {self.exit_status}"


class ConnectionService(SSHConnection):
    """The client's end of ``ssh-connection``, which multiplexes the channels."""

    _log = QUIET_LOG
    transport: SshTransport

    #: The host keys that the host named last, or None where it named none yet.
    announced_host_keys: tuple[SshPublicKey, ...] | None = None

    def ssh_GLOBAL_REQUEST(self, packet: bytes) -> None:
        """Hear which keys the host has; answer to all else that nothing of the kind is known."""
        self.transport.bear_request()
        reader = Reader(packet)
        if reader.string() == ANNOUNCEMENT:
            reader.boolean()
            self.announced_host_keys = announced_keys(reader.rest)
        super().ssh_GLOBAL_REQUEST(packet)

    async def ask(self, request: bytes, payload: bytes = b"") -> bytes | None:
        """Send a global request (RFC 4254 §4).

        Returns:
            What the host answers, or None where it refuses.

        Raises:
            SshConnectionLost: the connection ended before the answer.
        """
        try:
            answer: bytes = await self.sendGlobalRequest(request, payload, wantReply=1)
        except ConchError as refusal:
            if self.transport.ended_by is not None:
                raise SshConnectionLost(
                    f"A question was cut off: {self.transport.ended_by}"
                ) from (refusal)
            return None
        return answer

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """Refuse: a host has no business with channels to this side."""
        self.transport.bear_request()
        reader = Reader(packet)
        reader.string()
        sender = reader.octets(4)
        answer = sender + struct.pack(">I", OPEN_ADMINISTRATIVELY_PROHIBITED)
        self.transport.sendPacket(MSG_CHANNEL_OPEN_FAILURE, answer + string(b"") + string(b""))

    def serviceStarted(self) -> None:
        """Go on writing whenever the network takes more."""
        super().serviceStarted()
        self.transport.on_writable = self._writable

    def openChannel(self, channel: FlowingChannel, extra: bytes = b"") -> None:
        """Ask the host for a channel."""
        channel.conn = self
        super().openChannel(channel, extra)

    def adjustWindow(self, channel: FlowingChannel, bytesToAdd: int) -> None:
        """Let the host send more, unless nobody reads there now."""
        if not channel.is_reading_paused:
            super().adjustWindow(channel, bytesToAdd)

    def sendData(self, channel: SSHChannel, data: bytes) -> None:
        """Send data on a channel, without joining it to what stands before it."""
        if not channel.localClosed:
            number = self.channelsToRemoteChannel[channel]
            self.transport.send(MSG_CHANNEL_DATA, struct.pack(">II", number, len(data)), data)

    def _writable(self) -> None:
        for channel in list(self.channels.values()):
            channel.pump()


class FlowingChannel(SSHChannel):
    """A channel that keeps what host and network do not take yet, and sends it later.

    Attributes:
        is_reading_paused: the host gets no room to send more.
    """

    _log = QUIET_LOG
    conn: ConnectionService
    is_reading_paused = False

    def addWindowBytes(self, data: int) -> None:
        """The host takes more."""
        self.remoteWindowLeft += data
        self.pump()

    def pump(self) -> None:
        """Send as much as host and network take now."""
        raise NotImplementedError


class CommandChannel(FlowingChannel):
    """Runs one command, feeds its standard input, and collects what it writes.

    Nothing is written to the channel that the host's window does not take, and nothing while
    the network is congested: what waits stays in the source.

    Args:
        command_line: what the user's shell on the host runs.
        where: the host, and `what` the command, as error texts name them.
        source: its standard input; at its end the command sees the end of its input.
        size: how many octets the source must give, or None for what it has.
        dialogue: precedes the command where sudo starts it.
        max_output: the most that the command may write, on both outputs together.
        progress: called with the number of octets sent so far.
        heard: called with each piece of its standard output.

    Attributes:
        result: fires with a `CommandResult`, or fails with an `SshError`.
        sent: how many octets of the source were sent.
    """

    name = b"session"

    def __init__(
        self,
        command_line: str,
        *,
        where: str,
        what: str,
        source: BinaryIO | None,
        size: int | None = None,
        dialogue: SudoDialogue | None = None,
        max_output: int,
        progress: Callable[[int], None] | None = None,
        heard: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__()
        self.result: Deferred[CommandResult] = Deferred()
        self.sent = 0
        self._command_line = _shell_text(command_line)
        self._where = where
        self._what = what
        self._source = source
        self._size = size
        self._dialogue = dialogue
        self._output_left = max_output
        self._max_output = max_output
        self._progress = progress
        self._heard = heard
        self._stdout: list[bytes] = []
        self._stderr: list[bytes] = []
        self._exit_status: int | None = None
        self._exit_signal: str | None = None
        self._may_feed = False
        self._at_end = False
        self._is_open = False

    # From the host.

    def channelOpen(self, specificData: bytes) -> None:
        """Ask for the command, now that there is a channel."""
        if self.remoteMaxPacket < 1:
            raise MalformedMessage("a channel that takes no data")
        self._is_open = True
        if self.result.called:  # given up meanwhile
            self.loseConnection()
            return
        request = self.conn.sendRequest(self, b"exec", string(self._command_line), True)
        request.addCallbacks(self._exec_accepted, self._exec_refused)
        if self._source is None and self._dialogue is None:
            self._may_feed = True
            self.pump()

    def openFailed(self, reason: Any) -> None:
        """Tell why there is no channel."""
        if isinstance(reason, ConchError):
            words = readable(reason.value or b"")
            self._fail(
                SshError(
                    f"{self._where} opens no channel for {self._what}: '{words}'. Its sshd may "
                    "limit the sessions on a connection (MaxSessions)."
                )
            )
        else:
            self._fail(self._lost())

    def _exec_accepted(self, _: object) -> None:
        if self._dialogue is None:
            self._may_feed = True
            self.pump()

    def _exec_refused(self, failure: Failure) -> None:
        if self.conn.transport.ended_by is None and not self.localClosed:
            self.give_up(SshCommandFailed(f"{self._where} refuses to run {self._what}."))

    def dataReceived(self, data: bytes) -> None:
        """Collect standard output."""
        self._collect(self._stdout, data)
        if self._heard is not None and not self.result.called:
            try:
                self._heard(data)
            except Exception as error:  # the caller's business
                self.give_up(error)

    def extReceived(self, dataType: int, data: bytes) -> None:
        """Collect standard error, behind what sudo has to say."""
        if dataType != EXTENDED_DATA_STDERR or self.result.called:
            return
        if self._dialogue is not None and not self._may_feed:
            try:
                answer, data = self._dialogue.receive(data)
            except SshError as refusal:
                self.give_up(refusal)
                return
            if answer:
                self.remoteWindowLeft -= len(answer)
                self.conn.sendData(self, answer)
            if self._dialogue.state is SudoState.STARTED:
                self._may_feed = True
                self.pump()
        self._collect(self._stderr, data)

    def _collect(self, output: list[bytes], data: bytes) -> None:
        if self.result.called or not data:
            return
        self._output_left -= len(data)
        if self._output_left < 0:
            self.give_up(
                SshCommandFailed(
                    f"{self._what} on {self._where} wrote more than {self._max_output} octets "
                    "and was ended."
                )
            )
        else:
            output.append(data)

    def request_exit_status(self, data: bytes) -> bool:
        """Hear how the command ended."""
        self._exit_status = Reader(data).uint32()
        return True

    def request_exit_signal(self, data: bytes) -> bool:
        """Hear that a signal ended the command."""
        self._exit_signal = readable(Reader(data).string(), 40)
        return True

    def eofReceived(self) -> None:
        """The command writes no more; the exit status is still to come."""

    def closed(self) -> None:
        """Both sides closed the channel, or the connection is gone."""
        if self.result.called:
            return
        if self._exit_status is None and self._exit_signal is None:
            if self.conn.transport.ended_by is not None:
                self._fail(self._lost())
                return
            if self._dialogue is None or self._may_feed:
                self._fail(
                    SshCommandFailed(f"{self._what} on {self._where} ended without exit status.")
                )
                return
        stdout, stderr = b"".join(self._stdout), b"".join(self._stderr)
        result = CommandResult(self._exit_status, stdout, stderr, self._exit_signal or "")
        if self._dialogue is not None and not self._may_feed:
            self._fail(self._dialogue.refusal(f"it {result.ending}"))
        else:
            self.result.callback(result)

    # To the host.

    def pump(self) -> None:
        """Send as much of the source as host and network take now."""
        if not self._may_feed or self._at_end or self.localClosed or self.result.called:
            return
        before = self.sent
        try:
            while self.remoteWindowLeft > 0 and not self.conn.transport.is_congested:
                chunk = self._read(min(self.remoteWindowLeft, self.remoteMaxPacket, _MAX_CHUNK))
                if not chunk:
                    self._at_end = True
                    self.conn.sendEOF(self)
                    break
                self.remoteWindowLeft -= len(chunk)
                self.sent += len(chunk)
                self.conn.sendData(self, chunk)
            if self._progress is not None and self.sent > before:
                self._progress(self.sent)
        except Exception as error:  # from the source, or from progress: the caller's business
            self.give_up(error)

    def _read(self, limit: int) -> bytes:
        if self._source is None:
            return b""
        if self._size is None:
            return self._source.read(limit)
        wanted = min(limit, self._size - self.sent)
        chunk = self._source.read(wanted) if wanted else b""
        if wanted and not chunk:
            raise SshError(
                f"What is sent to {self._what} on {self._where} ends after {self.sent} of "
                f"{self._size} octets."
            )
        return chunk

    # Endings.

    def give_up(self, error: Exception) -> None:
        """Fail with that error, ask the host to end the command, and close the channel."""
        self._fail(error)
        if self._is_open and not self.localClosed:
            self.conn.sendRequest(self, b"signal", string(b"TERM"))
            self.loseConnection()

    def timed_out(self, timeout_s: float) -> SshError:
        """Compose the error for a command that does not end."""
        if not self._is_open:
            return SshError(
                f"{self._where} opened no channel for {self._what} within {timeout_s:g} s."
            )
        if self._dialogue is not None and not self._may_feed:
            return self._dialogue.refusal(f"it started nothing within {timeout_s:g} s")
        if self._exit_status is not None:
            return SshCommandFailed(
                f"{self._what} on {self._where} ended with exit status {self._exit_status}, but "
                f"something that it left behind held its output open for {timeout_s:g} s.",
                self._exit_status,
            )
        return SshCommandFailed(
            f"{self._what} on {self._where} did not end within {timeout_s:g} s."
        )

    def _lost(self) -> SshError:
        return SshConnectionLost(f"{self._what} was cut off: {self.conn.transport.ended_by}")

    def _fail(self, error: Exception) -> None:
        if not self.result.called:
            self.result.errback(Failure(error))


def _shell_text(command_line: str) -> bytes:
    if "\0" in command_line:
        raise ValueError("A command cannot have a NUL character: the host would cut it off there.")
    return command_line.encode("utf-8", "surrogateescape")
