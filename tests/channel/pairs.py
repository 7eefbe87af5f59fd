"""Two channels whose octets a test carries from one to the other."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from pkengine.auth import Authenticated, TrustedPeer
from pkengine.channel import Channel, Verbs
from pkengine.channel.records import JSONRPC, RecordReader, encode_record
from pkengine.keys import Pin


class Wire:
    """The transport of one channel: keeps what is written, as a socket that is full would."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.authenticated = Authenticated(TrustedPeer(name, Pin(b"x" * 32)), "pin")
        self._clock = clock
        self.channel: Channel
        self.written: list[bytes] = []
        self.producer: Any = None
        self.is_reading = True
        self.is_closing = False
        self.is_lost = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        self.is_reading = True

    def loseConnection(self) -> None:
        self.is_closing = True
        self._clock.callLater(0, self.lost, ConnectionDone())

    def abortConnection(self) -> None:
        self._clock.callLater(0, self.lost, ConnectionAborted())

    def lost(self, reason: Exception) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.channel.connectionLost(Failure(reason))

    def take(self) -> bytes:
        data = b"".join(self.written)
        self.written.clear()
        return data

    def messages(self) -> list[bytes]:
        """Take the JSON-RPC messages that were written."""
        return [payload for kind, payload in RecordReader().feed(self.take()) if kind == JSONRPC]


class Pair:
    """An engine's and an agent's end of one channel."""

    def __init__(self, *, heartbeat_s: float = 10.0) -> None:
        self.clock = Clock()
        self.engine_verbs, self.agent_verbs = Verbs(), Verbs()
        self.engine_wire, self.agent_wire = Wire("agent", self.clock), Wire("engine", self.clock)
        self.engine = Channel(self.clock, self.engine_verbs, heartbeat_s=heartbeat_s)
        self.agent = Channel(self.clock, self.agent_verbs, heartbeat_s=heartbeat_s)
        for channel, wire in ((self.engine, self.engine_wire), (self.agent, self.agent_wire)):
            wire.channel = channel
            channel.makeConnection(wire)

    def carry(self) -> None:
        """Let turns of the reactor pass, and carry octets, until both ends are silent."""
        while True:
            self.clock.advance(0)
            to_agent, to_engine = self.engine_wire.take(), self.agent_wire.take()
            if not to_agent and not to_engine:
                return
            if to_agent and not self.agent_wire.is_lost:
                self.agent.dataReceived(to_agent)
            if to_engine and not self.engine_wire.is_lost:
                self.engine.dataReceived(to_engine)

    def to_agent(self, *messages: bytes, kind: int = JSONRPC) -> list[bytes]:
        """Send the agent what a test has written, and give the agent's answers."""
        self.agent_wire.take()
        self.agent.dataReceived(b"".join(encode_record(kind, message) for message in messages))
        self.clock.advance(0)
        return self.agent_wire.messages()

    def end(self) -> None:
        """End both channels."""
        for wire in (self.engine_wire, self.agent_wire):
            wire.lost(ConnectionDone())
        self.clock.advance(0)
