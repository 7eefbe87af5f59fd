"""The calls that this end makes: their answers, their deadlines, and their number.

A limited number is on the wire; further calls wait in order, with their deadlines running.
One timer, at the earliest deadline, serves them all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pkengine.channel.jsonrpc import (
    CANCEL,
    Message,
    decoder,
    encode_notification,
    encode_request,
)
from pkengine.errors import CallRefused, CallTimeout, ChannelError, ProtocolViolation

#: How many calls are on the wire at once, and how many more may wait.
MAX_ON_WIRE = 128
MAX_WAITING = 8192


class _Call(Deferred[Any]):
    """One call, and the Deferred that its caller awaits."""

    def __init__(
        self, calls: OutgoingCalls, call_id: int, method: str, result_type: Any, deadline: float
    ) -> None:
        super().__init__(calls.cancelled)
        self.call_id = call_id
        self.method = method
        self.result_type = result_type
        self.deadline = deadline
        #: What is to be sent, while the call waits.
        self.request: bytes | None = None


class OutgoingCalls:
    """The calls of one channel.

    Args:
        clock: keeps the deadlines.
        send: sends one JSON-RPC message.
        peer: the name of the peer, for errors.
    """

    __slots__ = ("_clock", "_last_id", "_on_wire", "_peer", "_send", "_timer", "_waiting")

    def __init__(self, clock: IReactorTime, send: Callable[[bytes], None], peer: str) -> None:
        self._clock = clock
        self._send = send
        self._peer = peer
        self._last_id = 0
        self._on_wire: dict[int, _Call] = {}
        self._waiting: deque[_Call] | None = None
        self._timer: IDelayedCall | None = None

    def call(self, method: str, params: Any, result_type: Any, timeout_s: float) -> Deferred[Any]:
        """Make a call; see `Channel.call`."""
        self._last_id += 1
        request = encode_request(self._last_id, method, params)
        deadline = self._clock.seconds() + timeout_s
        call = _Call(self, self._last_id, method, result_type, deadline)
        if len(self._on_wire) < MAX_ON_WIRE and not self._waiting:
            self._on_wire[call.call_id] = call
            self._send(request)
        else:
            if self._waiting is None:
                self._waiting = deque()
            if len(self._waiting) >= MAX_WAITING:
                return fail(
                    ChannelError(
                        f"{MAX_WAITING} calls to {self._peer} wait already: {method} was not sent."
                    )
                )
            call.request = request
            self._waiting.append(call)
        self._keep_deadline(deadline)
        return call

    def answered(self, message: Message) -> None:
        """Take a response.

        Raises:
            ProtocolViolation: it answers no call that was ever made.
        """
        call = self._on_wire.pop(message.id, None)  # type: ignore[arg-type]
        if call is None:
            if isinstance(message.id, int) and 0 < message.id <= self._last_id:
                return  # it was cancelled, or its deadline has passed
            raise ProtocolViolation(f"{self._peer} answered a call that was not made.")
        if self._waiting:
            self._send_waiting()
        if isinstance(message.error, msgspec.UnsetType):
            try:
                result = decoder(call.result_type).decode(message.result)
            except msgspec.DecodeError as error:
                call.errback(
                    ChannelError(
                        f"{self._peer} answered {call.method} with an unexpected result: {error}."
                    )
                )
            else:
                call.callback(result)
        else:
            refusal = message.error
            call.errback(CallRefused(refusal.message, refusal.code, refusal.data))

    def _send_waiting(self) -> None:
        while self._waiting and len(self._on_wire) < MAX_ON_WIRE:
            call = self._waiting.popleft()
            assert call.request is not None
            self._on_wire[call.call_id] = call
            self._send(call.request)
            call.request = None

    def cancelled(self, call: Deferred[Any]) -> None:
        """Forget a call that its caller has cancelled, and tell the peer."""
        assert isinstance(call, _Call)
        self._forget(call)

    def _forget(self, call: _Call) -> None:
        if self._on_wire.pop(call.call_id, None) is not None:
            self._send(encode_notification(CANCEL, {"id": call.call_id}))
            self._send_waiting()
        elif self._waiting:
            self._waiting.remove(call)

    def close(self, reason: ChannelError) -> None:
        """Fail every call that is under way; the channel has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        calls = [*self._on_wire.values(), *(self._waiting or ())]
        self._on_wire, self._waiting = {}, None
        for call in calls:
            call.errback(reason)

    # Deadlines.

    def _keep_deadline(self, deadline: float) -> None:
        if self._timer is not None:
            if self._timer.getTime() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(
            max(0.0, deadline - self._clock.seconds()), self._deadline_passed
        )

    def _deadline_passed(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        calls = [*self._on_wire.values(), *(self._waiting or ())]
        late = [call for call in calls if call.deadline <= now]
        for call in late:
            self._forget(call)
        remaining = [call.deadline for call in calls if call.deadline > now]
        if remaining:
            self._keep_deadline(min(remaining))
        for call in late:
            if not call.called:
                call.errback(
                    CallTimeout(f"{self._peer} did not answer {call.method} before its deadline.")
                )
