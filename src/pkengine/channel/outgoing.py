"""The calls that this end makes: their answers, their deadlines, and their number.

A limited number is on the wire; further calls wait in order, with their deadlines running.
One timer, at the earliest deadline, serves them all.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pkengine.channel.jsonrpc import CANCEL, Message, decoder, encode_notification, encode_request
from pkengine.errors import CallRefused, CallTimeout, ChannelError, ProtocolViolation

if TYPE_CHECKING:
    from pkengine.channel.connection import Channel

#: How many calls are on the wire at once, and how many more may wait.
MAX_ON_WIRE = 128
MAX_WAITING = 8192


class _Call(NamedTuple):
    """A call that is under way."""

    answer: Deferred[Any]
    method: str
    result_type: Any
    deadline: float


class OutgoingCalls:
    """The calls of one channel.

    Args:
        channel: what they are sent on.
        clock: keeps the deadlines.
    """

    __slots__ = ("_calls", "_channel", "_clock", "_last_id", "_timer", "_timer_at", "_waiting")

    def __init__(self, channel: Channel, clock: IReactorTime) -> None:
        self._channel = channel
        self._clock = clock
        self._last_id = 0
        #: Every call that is under way, by its id.
        self._calls: dict[int, _Call] = {}
        #: The requests, with their ids, that are not on the wire yet.
        self._waiting: deque[tuple[int, bytes]] | None = None
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0

    def call(self, method: str, params: Any, result_type: Any, timeout_s: float) -> Deferred[Any]:
        """Make a call; see `Channel.call`."""
        call_id = self._last_id + 1
        request = encode_request(call_id, method, params)
        if len(self._calls) < MAX_ON_WIRE:
            self._channel.send_message(request)
        else:
            self._wait(call_id, request, method)
        self._last_id = call_id
        deadline = self._clock.seconds() + timeout_s
        answer: Deferred[Any] = Deferred(self._cancelled)
        self._calls[call_id] = _Call(answer, method, result_type, deadline)
        if self._timer is None or deadline < self._timer_at:
            self._set_timer(deadline)
        return answer

    def _wait(self, call_id: int, request: bytes, method: str) -> None:
        if self._waiting is None:
            self._waiting = deque()
        if len(self._waiting) >= MAX_WAITING:
            raise ChannelError(
                f"{MAX_WAITING} calls to {self._channel.peer_name} wait already: "
                f"{method} was not sent."
            )
        self._waiting.append((call_id, request))

    def answered(self, message: Message) -> None:
        """Take a response.

        Raises:
            ProtocolViolation: it answers no call that was ever made.
        """
        call = self._calls.pop(message.id, None)  # type: ignore[arg-type]
        if call is None:
            if isinstance(message.id, int) and 0 < message.id <= self._last_id:
                return  # it was cancelled, or its deadline has passed
            raise ProtocolViolation(
                f"{self._channel.peer_name} answered a call that was not made."
            )
        if self._waiting:
            self._send_waiting()
        if message.error is UNSET:
            try:
                result = decoder(call.result_type).decode(message.result)
            except msgspec.DecodeError as error:
                call.answer.errback(
                    ChannelError(
                        f"{self._channel.peer_name} answered {call.method} with an unexpected "
                        f"result: {error}."
                    )
                )
                return
            call.answer.callback(result)
        else:
            refusal = message.error
            assert not isinstance(refusal, msgspec.UnsetType)
            call.answer.errback(CallRefused(refusal.message, refusal.code, refusal.data))

    def _send_waiting(self) -> None:
        """Put calls on the wire for those that have left it."""
        while self._waiting and len(self._calls) - len(self._waiting) < MAX_ON_WIRE:
            self._channel.send_message(self._waiting.popleft()[1])

    def _cancelled(self, answer: Deferred[Any]) -> None:
        """Forget a call that its caller has cancelled, and tell the peer."""
        self._forget(
            next(call_id for call_id, call in self._calls.items() if call.answer is answer)
        )

    def _forget(self, call_id: int) -> None:
        del self._calls[call_id]
        if self._waiting and call_id >= self._waiting[0][0]:
            self._waiting = deque(each for each in self._waiting if each[0] != call_id)
        else:
            self._channel.send_message(encode_notification(CANCEL, {"id": call_id}))
            self._send_waiting()

    def close(self, reason: ChannelError) -> None:
        """Fail every call that is under way; the channel has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        calls, self._calls, self._waiting = self._calls, {}, None
        for call in calls.values():
            call.answer.errback(reason)

    # Deadlines.

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        after = max(0.0, deadline - self._clock.seconds())
        self._timer = self._clock.callLater(after, self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        late = [(call_id, call) for call_id, call in self._calls.items() if call.deadline <= now]
        for call_id, _ in late:
            self._forget(call_id)
        if self._calls:
            self._set_timer(min(call.deadline for call in self._calls.values()))
        for _, call in late:
            call.answer.errback(
                CallTimeout(
                    f"{self._channel.peer_name} did not answer {call.method} before its deadline."
                )
            )
