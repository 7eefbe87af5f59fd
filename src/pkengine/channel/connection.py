"""A channel: JSON-RPC both ways between two ends that know each other.

Theory of operation.  The channel is the application's protocol of an authenticated
connection.  Octets become records (`records`), records become messages (`jsonrpc`), and a
message is a call of the peer (`incoming`) or the answer to one of ours (`outgoing`).  What
is to be sent is put together and written once: at the end of the turn in which octets came
in, else in the next turn of the reactor.

A peer that is silent for a heartbeat's time is pinged; a peer that stays silent for two
and a half of them is taken for dead.
"""

from __future__ import annotations

from typing import Any, cast

from msgspec import UNSET
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pkengine.auth.peer import Authenticated
from pkengine.channel.heartbeat import Heartbeats
from pkengine.channel.incoming import IncomingCalls, Verbs
from pkengine.channel.jsonrpc import (
    MalformedMessage,
    decode_message,
    encode_notification,
)
from pkengine.channel.outgoing import OutgoingCalls
from pkengine.channel.records import HEADER, JSONRPC, MAX_PAYLOAD, PING, PONG, RecordReader
from pkengine.errors import ChannelClosed, ChannelError, ProtocolViolation

_log = Logger()

HEARTBEAT_S = 10.0
CALL_TIMEOUT_S = 30.0

#: A peer is dead after this many heartbeats of silence.
_DEAD_AFTER = 2.5


@implementer(IProtocol, IPushProducer)
class Channel:
    """One channel; made by `connect_channel` and `listen_channel`.

    Attributes:
        authenticated: who the peer is and how it was proved.
        closed: fires once, with the ChannelClosed that says why, when the channel has ended;
            it never fails.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_end_reason",
        "_flush_call",
        "_heard_at",
        "_heartbeat_s",
        "_incoming",
        "_is_ended",
        "_is_in_turn",
        "_is_pinged",
        "_out",
        "_outgoing",
        "_reader",
        "_transport",
        "_verbs",
        "authenticated",
        "closed",
    )

    authenticated: Authenticated

    def __init__(
        self, clock: IReactorTime, verbs: Verbs, *, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self.closed: Deferred[ChannelClosed] = Deferred()
        self._clock = clock
        self._verbs = verbs
        self._heartbeat_s = heartbeat_s
        self._heard_at = 0.0
        self._is_pinged = False
        self._reader = RecordReader()
        self._incoming: IncomingCalls
        self._outgoing: OutgoingCalls
        self._transport: Any = None
        self._is_ended = True
        self._end_reason: BaseException | None = None
        self._out: list[bytes] = []
        self._is_in_turn = False
        self._flush_call: IDelayedCall | None = None

    # What others use.

    def call(
        self,
        method: str,
        params: Any = None,
        *,
        result_type: Any = Any,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Deferred[Any]:
        """Call a verb of the peer.

        Cancelling the Deferred cancels the verb on the other side.

        Args:
            method: the verb.
            params: a struct or a mapping, or None for no parameters.
            result_type: what the result is decoded to.
            timeout_s: how long to wait for the answer.

        Returns:
            A Deferred of the result.  It fails with CallRefused, CallTimeout,
            ChannelClosed, or ChannelError where the result does not fit its type.
        """
        if self._is_ended:
            return fail(self._closed_error())
        try:
            return self._outgoing.call(method, params, result_type, timeout_s)
        except ChannelError as error:
            return fail(error)

    def notify(self, method: str, params: Any = None) -> None:
        """Tell the peer something that it does not answer; nothing where the channel has ended."""
        if not self._is_ended:
            self.send_message(encode_notification(method, params))

    def close(self) -> None:
        """Send what there is to send, and end the channel; `closed` fires when it has ended."""
        if not self._is_ended:
            self._flush()
            self._is_ended = True
            self._end_reason = ChannelClosed(f"This end closed the channel to {self.peer_name}.")
            self._transport.unregisterProducer()
            self._transport.loseConnection()

    def abort(self) -> None:
        """End the channel at once."""
        self._abort(ChannelClosed(f"This end cut the channel to {self.peer_name}."))

    @property
    def peer_name(self) -> str:
        """The name that the peer proved to have."""
        return self.authenticated.peer.name

    @property
    def peer_address(self) -> IAddress:
        """Where the peer is, as far as the network shows it."""
        return cast(IAddress, self._transport.getPeer())

    @property
    def own_address(self) -> IAddress:
        """Where this end is, as far as it knows."""
        return cast(IAddress, self._transport.getHost())

    # The face to the connection.

    def makeConnection(self, transport: Any) -> None:
        """Begin; the peer is known already."""
        self._transport = transport
        self.authenticated = transport.authenticated
        self._is_ended = False
        self._incoming = IncomingCalls(self, self._verbs)
        self._outgoing = OutgoingCalls(self, self._clock)
        self._heard_at = self._clock.seconds()
        Heartbeats.of(self._clock, self._heartbeat_s).join(self._look_for_silence)
        transport.registerProducer(self, True)
        self.connectionMade()

    def connectionMade(self) -> None:
        """Nothing is said first: both ends wait to be called."""

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the peer."""
        self._heard_at = self._clock.seconds()
        self._is_pinged = False
        self._is_in_turn = True
        try:
            for record_type, payload in self._reader.feed(data):
                if self._is_ended:
                    return
                if record_type == JSONRPC:
                    self._message(payload)
                else:
                    self._record(record_type, payload)
        except ProtocolViolation as error:
            _log.warn(
                "The channel to {peer} ends: {reason}", peer=self.peer_name, reason=str(error)
            )
            self._abort(error)
        finally:
            self._is_in_turn = False
            self._flush()

    def connectionLost(self, reason: Failure) -> None:
        """Tell everybody who waits that the channel has ended."""
        self._is_ended = True
        if self._end_reason is None:
            self._end_reason = reason.value
        Heartbeats.of(self._clock, self._heartbeat_s).leave(self._look_for_silence)
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        self._out.clear()
        error = self._closed_error()
        self._incoming.close()
        self._outgoing.close(error)
        self.closed.callback(error)

    def _closed_error(self) -> ChannelClosed:
        reason = self._end_reason
        if isinstance(reason, ChannelClosed):
            return reason
        if reason is None or isinstance(reason, ConnectionDone):
            return ChannelClosed(f"{self.peer_name} closed the channel.")
        error = ChannelClosed(f"The channel to {self.peer_name} ended: {reason}")
        error.__cause__ = reason
        return error

    def _abort(self, reason: Exception) -> None:
        if not self._is_ended:
            self._is_ended = True
            self._end_reason = reason
            self._transport.abortConnection()

    # Records.

    def _record(self, record_type: int, payload: bytes) -> None:
        if record_type not in (PING, PONG):
            raise ProtocolViolation(f"A record of the unknown type {record_type} came.")
        if payload:
            raise ProtocolViolation("A ping or pong came with a payload.")
        if record_type == PING:
            self._send(PONG, b"")

    def _message(self, payload: bytes) -> None:
        try:
            message = decode_message(payload)
        except MalformedMessage as error:
            self.send_message(error.answer)
            return
        if message.method is UNSET:
            self._outgoing.answered(message)
        elif not self._incoming.received(message):
            self._transport.pauseProducing()

    def send_message(self, payload: bytes) -> None:
        """Send one JSON-RPC message; nothing where the channel has ended.

        Raises:
            ChannelError: it is longer than the peer takes.
        """
        if len(payload) > MAX_PAYLOAD:
            raise ChannelError(
                f"A message to {self.peer_name} has {len(payload)} octets: at most "
                f"{MAX_PAYLOAD} can be sent."
            )
        self._send(JSONRPC, payload)

    def _send(self, record_type: int, payload: bytes) -> None:
        if self._is_ended:
            return
        self._out += (HEADER.pack(len(payload), record_type), payload)
        if not self._is_in_turn and self._flush_call is None:
            self._flush_call = self._clock.callLater(0, self._flush_in_turn)

    def _flush_in_turn(self) -> None:
        self._flush_call = None
        self._flush()

    def _flush(self) -> None:
        if self._out and not self._is_ended:
            data = b"".join(self._out)
            self._out.clear()
            self._transport.write(data)

    # Back-pressure: the transport paces what is sent.

    def pauseProducing(self) -> None:
        """Begin no more calls of the peer: it does not take our answers."""
        self._incoming.block()

    def resumeProducing(self) -> None:
        """Begin calls again, first those that were kept."""
        if self._is_ended:
            return
        self._is_in_turn = True
        try:
            self._incoming.unblock()
        finally:
            self._is_in_turn = False
            self._flush()
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """Nothing: `connectionLost` follows."""

    # The heartbeat.

    def _look_for_silence(self, now: float) -> None:
        silent_s = now - self._heard_at
        if silent_s < self._heartbeat_s or self._is_ended:
            return
        if not self._is_pinged:
            self._is_pinged = True
            self._send(PING, b"")
        elif silent_s >= _DEAD_AFTER * self._heartbeat_s:
            self._abort(ChannelClosed(f"{self.peer_name} did not answer for {silent_s:.0f} s."))
