"""Calls the running agent of this host; needs no reactor."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from pkengine.agent.control_socket import connect_control_socket
from pkengine.channel.jsonrpc import Message, decode_message, decoder, encode_request
from pkengine.channel.records import JSONRPC, RecordReader, encode_record
from pkengine.errors import (
    AgentAccessDenied,
    CallRefused,
    CallTimeout,
    ChannelClosed,
    ChannelError,
    ProtocolViolation,
)

TIMEOUT_S = 30.0
_READ = 65536


class ControlClient:
    """A connection to the control socket of an agent; a context manager that closes it.

    Args:
        path: the socket.
        timeout_s: how long connecting, and each call, may wait for the agent.

    Raises:
        AgentNotRunning: nobody answers there.
        AgentAccessDenied: this user may not.
    """

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = connect_control_socket(path, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._reader = RecordReader()
        self._last_id = 0

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, method: str, params: Any = None, *, result_type: Any = Any) -> Any:
        """Call a verb and wait for its answer.

        Raises:
            CallRefused: the agent refuses.
            AgentAccessDenied: this user may not.
            CallTimeout: no answer came in time.
            ChannelError: the connection broke, or the answer is not of the type.
        """
        self._last_id += 1
        request = encode_record(JSONRPC, encode_request(self._last_id, method, params))
        # An agent that has closed already has said why, which is read below.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request)
        answer = self._answer(method)
        if answer.id is None and not isinstance(answer.error, msgspec.UnsetType):
            raise AgentAccessDenied(answer.error.message)
        if answer.id != self._last_id:
            raise ProtocolViolation(
                f"The agent answers call {answer.id!r}: expected {self._last_id}."
            )
        if not isinstance(answer.error, msgspec.UnsetType):
            raise CallRefused(answer.error.message, answer.error.code, answer.error.data)
        try:
            return decoder(result_type).decode(answer.result)
        except msgspec.ValidationError as error:
            raise ChannelError(
                f"The agent's answer to {method} has another form than expected ({error}): "
                "is the agent that runs of another version than this command?"
            ) from error

    def _answer(self, method: str) -> Message:
        while True:
            try:
                data = self._socket.recv(_READ)
            except TimeoutError as error:
                raise CallTimeout(
                    f"The agent did not answer {method} within {self._timeout_s:g} s."
                ) from error
            except ConnectionResetError as error:
                raise ChannelClosed(f"The agent closed the connection during {method}.") from error
            if not data:
                raise ChannelClosed(f"The agent closed the connection during {method}.")
            for record_type, payload in self._reader.feed(data):
                if record_type == JSONRPC:
                    return decode_message(payload)
