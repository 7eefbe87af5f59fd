"""The calls that the peer makes: finding the verb, running it, and answering.

While the way back to the peer is blocked, calls are kept and not begun, because their
answers would pile up; answers to our own calls still flow, so that two ends that are
blocked at the same time do not wait for each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkengine.channel.jsonrpc import (
    BUSY,
    CANCEL,
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    REFUSED,
    CallId,
    Cancel,
    Message,
    decoder,
    encode_error,
    encode_result,
)
from pkengine.channel.records import MAX_PAYLOAD
from pkengine.errors import CallRefused, PkengineError

if TYPE_CHECKING:
    from pkengine.channel.connection import Channel

_log = Logger()

#: How many calls of the peer are under way or kept at once, and the octets of those kept.
MAX_UNDER_WAY = 256
MAX_KEPT_OCTETS = 4 * MAX_PAYLOAD

Handler = Callable[[Any, "Channel"], Any]

_EMPTY = msgspec.Raw(b"{}")


class Verbs:
    """The verbs that one end answers, by name."""

    def __init__(self) -> None:
        self._verbs: dict[str, tuple[msgspec.json.Decoder[Any], Handler]] = {}

    def add(self, name: str, params_type: Any, handler: Handler) -> None:
        """Answer a verb.

        Args:
            name: the JSON-RPC method.
            params_type: what the parameters are decoded to, such as a msgspec struct; what
                does not fit is refused before the handler is called.
            handler: takes the parameters and the channel; gives the result, or something
                to await for it.  A PkengineError tells the caller its sentence; of any
                other exception the caller learns nothing.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._verbs:
            raise ValueError(f"The verb {name!r} has a handler already.")
        self._verbs[name] = (decoder(params_type), handler)

    def find(self, name: str) -> tuple[msgspec.json.Decoder[Any], Handler] | None:
        """Give a verb's decoder and handler, or None where there is no such verb."""
        return self._verbs.get(name)


class IncomingCalls:
    """The calls that one peer makes.

    Args:
        channel: where they come from, for handlers.
        verbs: what is answered.
    """

    __slots__ = ("_channel", "_is_blocked", "_kept", "_kept_octets", "_running", "_verbs")

    def __init__(self, channel: Channel, verbs: Verbs) -> None:
        self._channel = channel
        self._verbs = verbs
        self._is_blocked = False
        self._running: dict[object, Deferred[Any]] = {}
        self._kept: deque[Message] | None = None
        self._kept_octets = 0

    # What comes in.

    def received(self, message: Message) -> bool:
        """Take a request or a notification.

        Returns:
            False where no more should be read until `unblock`.
        """
        if message.method == CANCEL:
            self._cancel(message)
        elif self._is_blocked:
            return self._keep(message)
        else:
            self._begin(message)
        return True

    def block(self) -> None:
        """Begin no more calls: answers would pile up."""
        self._is_blocked = True

    def unblock(self) -> None:
        """Begin the calls that were kept, in order, unless blocked again meanwhile."""
        self._is_blocked = False
        while self._kept and not self._is_blocked:
            message = self._kept.popleft()
            self._kept_octets -= len(message.params)
            self._begin(message)
        if not self._kept:
            self._kept = None

    def close(self) -> None:
        """Cancel what is under way; the channel has ended."""
        running, self._running, self._kept = list(self._running.values()), {}, None
        for deferred in running:
            deferred.cancel()

    def _keep(self, message: Message) -> bool:
        if self._kept is None:
            self._kept = deque()
        self._kept.append(message)
        self._kept_octets += len(message.params)
        return (
            len(self._kept) + len(self._running) < MAX_UNDER_WAY
            and self._kept_octets < MAX_KEPT_OCTETS
        )

    def _cancel(self, message: Message) -> None:
        try:
            call_id = decoder(Cancel).decode(message.params)
        except msgspec.DecodeError:
            return  # a notification is not answered, whatever is wrong with it
        if self._kept:
            kept = [other for other in self._kept if other.id != call_id.id]
            if len(kept) < len(self._kept):
                self._kept = deque(kept)
                self._kept_octets = sum(len(other.params) for other in kept)
                self._channel.send_message(
                    encode_error(call_id.id, CANCELLED, "The call was cancelled.")
                )
                return
        if (running := self._running.get(call_id.id)) is not None:
            running.cancel()

    # Running a verb.

    def _begin(self, message: Message) -> None:
        call_id, method = message.id, message.method
        assert isinstance(method, str)
        verb = self._verbs.find(method)
        if verb is None:
            self._refuse(message, METHOD_NOT_FOUND, f"There is no verb {method!r}.")
            return
        if call_id in self._running:
            self._refuse(message, INVALID_REQUEST, "A call with this id is under way.")
            return
        if len(self._running) >= MAX_UNDER_WAY:
            self._refuse(message, BUSY, f"{MAX_UNDER_WAY} calls are under way already.")
            return
        params_decoder, handler = verb
        try:
            params = params_decoder.decode(message.params or _EMPTY)
        except (msgspec.DecodeError, RecursionError) as error:
            self._refuse(message, INVALID_PARAMS, f"Invalid parameters of {method}: {error}.")
            return
        try:
            result = handler(params, self._channel)
        except Exception:
            self._failed(Failure(), message)
            return
        if hasattr(result, "__await__"):
            self._await(result, message)
        else:
            self._succeeded(result, message)

    def _await(self, result: Awaitable[Any], message: Message) -> None:
        deferred = (
            result if isinstance(result, Deferred) else Deferred.fromCoroutine(_await(result))
        )
        key: object = message.id
        if isinstance(message.id, msgspec.UnsetType):
            key = deferred  # notifications have no id
        self._running[key] = deferred

        def ended(outcome: Any) -> None:
            self._running.pop(key, None)
            if isinstance(outcome, Failure):
                self._failed(outcome, message)
            else:
                self._succeeded(outcome, message)

        deferred.addBoth(ended)

    # Answers.

    def _succeeded(self, result: Any, message: Message) -> None:
        if isinstance(message.id, msgspec.UnsetType):
            return
        assert message.id is not None
        try:
            answer = encode_result(message.id, result)
        except Exception:
            self._failed(Failure(), message)
            return
        if len(answer) > MAX_PAYLOAD:
            _log.error(
                "The result of {verb} has {octets} octets, at most {limit} can be sent",
                verb=message.method,
                octets=len(answer),
                limit=MAX_PAYLOAD,
            )
            self._refuse(message, INTERNAL_ERROR, "The result is too long to be sent.")
            return
        self._channel.send_message(answer)

    def _failed(self, failure: Failure, message: Message) -> None:
        error = failure.value
        if isinstance(error, CallRefused):
            self._refuse(message, error.code, str(error), error.data)
        elif isinstance(error, PkengineError):
            self._refuse(message, REFUSED, str(error))
        elif isinstance(error, CancelledError):
            self._refuse(message, CANCELLED, "The call was cancelled.")
        else:
            _log.failure("The verb {verb} failed", failure, verb=message.method)
            self._refuse(message, INTERNAL_ERROR, "Internal error: the log of the peer has it.")

    def _refuse(self, message: Message, code: int, reason: str, data: object = None) -> None:
        call_id: CallId | msgspec.UnsetType | None = message.id
        if isinstance(call_id, msgspec.UnsetType):
            _log.debug(
                "The notification {verb} came to nothing: {reason}",
                verb=message.method,
                reason=reason,
            )
        else:
            self._channel.send_message(encode_error(call_id, code, reason, data))


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
