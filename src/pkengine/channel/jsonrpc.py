"""JSON-RPC 2.0 messages: their forms, their codes, and telling them apart, without IO.

A message is a single request, notification or response.  A batch (an array of messages) is
refused as an invalid request: calls are put together on the wire anyway.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from pkengine.errors import ProtocolViolation

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
#: This end has as many calls under way as it takes; the call was not begun.
BUSY = -32000
#: The call was cancelled with `CANCEL`.
CANCELLED = -32001
#: The verb refused; the message is a sentence for a person.
REFUSED = 1

#: A notification: the caller awaits the answer to ``{"id": ID}`` no longer.
CANCEL = "rpc.cancel"

CallId = int | str


class ErrorObject(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a call was refused (JSON-RPC 2.0 §5.1)."""

    code: int
    message: str
    data: Any = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """Any message that comes in; which one it is, its members tell."""

    jsonrpc: Literal["2.0"]
    id: CallId | msgspec.UnsetType | None = UNSET
    method: str | msgspec.UnsetType = UNSET
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: ErrorObject | msgspec.UnsetType = UNSET


class Cancel(msgspec.Struct, frozen=True):
    """The parameters of `CANCEL`."""

    id: CallId


class _Request(msgspec.Struct, frozen=True, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: int | msgspec.UnsetType
    method: str
    params: Any


class _Result(msgspec.Struct, frozen=True, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: CallId
    result: Any


class _Error(msgspec.Struct, frozen=True, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: CallId | None
    error: ErrorObject


class _OnlyId(msgspec.Struct, frozen=True):
    id: CallId | None = None


class MalformedMessage(Exception):
    """A message cannot be taken as one; `answer` is the error response to it."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode
_decode_id = msgspec.json.Decoder(_OnlyId).decode


def encode_request(call_id: int, method: str, params: Any) -> bytes:
    """Encode a call; params None leaves the member out."""
    return _encode(_Request(call_id, method, UNSET if params is None else params))


def encode_notification(method: str, params: Any) -> bytes:
    """Encode a notification, which has no id and gets no answer."""
    return _encode(_Request(UNSET, method, UNSET if params is None else params))


def encode_result(call_id: CallId, result: Any) -> bytes:
    """Encode the answer to a call."""
    return _encode(_Result(call_id, result))


def encode_error(call_id: CallId | None, code: int, message: str, data: Any = None) -> bytes:
    """Encode the refusal of a call."""
    return _encode(_Error(call_id, ErrorObject(code, message, data)))


def decode_message(payload: bytes) -> Message:
    """Decode a message; a response of it has just one of result and error.

    Raises:
        MalformedMessage: it is no request, but can be answered.
        ProtocolViolation: it is neither request nor response.
    """
    try:
        # What is decoded later, such as the parameters, is then UTF-8 as well; msgspec would
        # meet other octets there with an error of another kind.
        payload.decode("utf-8")
        message = _decode(payload)
    except msgspec.ValidationError as error:
        reason = f"Invalid request: {error}"
        raise MalformedMessage(encode_error(_id_of(payload), INVALID_REQUEST, reason)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        answer = encode_error(None, PARSE_ERROR, "Parse error: the payload is not JSON.")
        raise MalformedMessage(answer) from error
    if message.method is UNSET:
        if (message.error is UNSET) is not bool(message.result):
            raise ProtocolViolation("The peer sent a message that is no request and no response.")
    elif message.id is None:
        reason = "Invalid request: an id of null cannot be answered."
        raise MalformedMessage(encode_error(None, INVALID_REQUEST, reason))
    return message


def _id_of(payload: bytes) -> CallId | None:
    try:
        return _decode_id(payload).id
    except (msgspec.DecodeError, RecursionError):
        return None


@functools.lru_cache(maxsize=1024)
def decoder(value_type: Any) -> msgspec.json.Decoder[Any]:
    """Give the decoder of a type, made once."""
    return msgspec.json.Decoder(value_type)
