"""The control socket of the agent: JSON-RPC for root and the agent's own user."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkengine.agent.accepted_keys import AcceptedKeys
from pkengine.agent.control_socket import Credentials, short_name
from pkengine.agent.control_verbs import GET_STATUS, Status
from pkengine.agent.listening import cannot_listen
from pkengine.agent.state import StateFolder
from pkengine.channel.incoming import IncomingCalls, Verbs
from pkengine.channel.jsonrpc import REFUSED, MalformedMessage, decode_message, encode_error
from pkengine.channel.records import JSONRPC, RecordReader, encode_record
from pkengine.channel.verbs import (
    KEYS_ADD,
    KEYS_LIST,
    KEYS_REMOVE,
    AddKey,
    Nothing,
    RemoveKey,
)
from pkengine.errors import ProtocolViolation

if TYPE_CHECKING:
    from pkengine.channel import Channel

T = TypeVar("T")


def control_verbs(status: Callable[[], Status], keys: AcceptedKeys, by: str) -> Verbs:
    """Give the verbs that a process of this host may call.

    Args:
        status: tells how the agent is doing.
        keys: the keys of engines.
        by: who calls, for the log.
    """
    verbs = Verbs()
    verbs.add(GET_STATUS, Nothing, lambda _, __: status())
    verbs.add(KEYS_LIST, Nothing, lambda _, __: keys.list())
    verbs.add(KEYS_ADD, AddKey, lambda request, _: keys.add(request, by=by))
    verbs.add(
        KEYS_REMOVE, RemoveKey, lambda request, _: keys.remove(request, by=by, may_be_last=True)
    )
    return verbs


class ControlConnection(Protocol):
    """One process of this host; the kernel says whose it is.

    Records and messages are those of a channel.  What a channel does against a slow or a
    hostile peer is left out: whoever may connect may as well stop the agent.

    Args:
        verbs: gives what is answered to a process with such credentials.
    """

    _log = Logger()

    def __init__(self, verbs: Callable[[Credentials], Verbs]) -> None:
        self._verbs = verbs
        self._reader = RecordReader()
        self._incoming: IncomingCalls | None = None

    def connectionMade(self) -> None:
        """Ask the kernel who this is."""
        credentials = Credentials.of(cast(Any, self.transport).getHandle())
        if credentials.may_control():
            # Verbs of this socket know their caller and look at no channel: all that is
            # asked of it is to send messages.
            caller = cast("Channel", self)
            self._incoming = IncomingCalls(caller, self._verbs(credentials))
            return
        self._log.warn(
            "Process {pid} of uid {uid} is refused on the control socket",
            pid=credentials.pid,
            uid=credentials.uid,
        )
        reason = "Only root and the agent's own user may use the control socket."
        self.send_message(encode_error(None, REFUSED, reason))
        self._close()

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the process."""
        if self._incoming is None:
            return
        try:
            for record_type, payload in self._reader.feed(data):
                if record_type != JSONRPC:
                    raise ProtocolViolation(f"A record of type {record_type} came.")
                self._message(self._incoming, payload)
        except ProtocolViolation as error:
            self._log.warn("The control connection ends: {reason}", reason=str(error))
            self._close()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Cancel what is under way."""
        if self._incoming is not None:
            self._incoming.close()

    def _message(self, incoming: IncomingCalls, payload: bytes) -> None:
        try:
            message = decode_message(payload)
        except MalformedMessage as error:
            self.send_message(error.answer)
            return
        if not isinstance(message.method, str):
            raise ProtocolViolation("An answer came, though nothing was asked.")
        incoming.received(message)

    def send_message(self, payload: bytes) -> None:
        """Send one JSON-RPC message."""
        cast(Any, self.transport).write(encode_record(JSONRPC, payload))

    def _close(self) -> None:
        cast(Any, self.transport).loseConnection()


class ControlService(Service):
    """Listens on the control socket while it runs.

    The caller has locked the state folder, so a socket that is there is one that a dead
    agent has left.

    Args:
        reactor: does the listening.
        state: where the socket is.
        verbs: gives what is answered to a process with such credentials.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, state: StateFolder, verbs: Callable[[Credentials], Verbs]
    ) -> None:
        self._reactor = reactor
        self._path = state.control_socket
        self._factory = Factory.forProtocol(lambda: ControlConnection(verbs))
        self._factory.noisy = False
        self._name = contextlib.ExitStack()
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Listen.

        Raises:
            AgentError: the socket cannot be made.
        """
        try:
            self._path.unlink(missing_ok=True)
            name = self._name.enter_context(short_name(self._path))
            self._port = self._reactor.listenUNIX(name, self._factory, mode=0o600)
        except (OSError, CannotListenError) as error:
            self._name.close()
            raise cannot_listen(str(self._path), error) from error
        Service.startService(self)
        self._log.info("Answering commands on {path}", path=self._path)

    def stopService(self) -> Deferred[None] | None:
        """Listen no more; the socket is removed."""
        Service.stopService(self)
        port, self._port = self._port, None
        if port is None:
            return None
        stopping = port.stopListening()
        if stopping is None:
            self._name.close()
            return None
        return stopping.addBoth(self._stopped)

    def _stopped(self, outcome: T) -> T:
        self._name.close()
        return outcome
