"""Pairs of ends of the ``pin`` mechanism, and ways to run them against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL

from pkengine.auth import MemoryTrustStore, PinAuthenticator, TrustedPeer
from pkengine.auth.tls import pinned_context
from pkengine.interfaces import IExchange
from pkengine.keys import KeyPair, KeyType

#: Keys cost time, and which they are matters to no test.
ENGINE, AGENT, STRANGER = (KeyPair.generate(name) for name in ("engine", "agent", "stranger"))
ED25519 = KeyPair.generate("ed25519", key_type=KeyType.ED25519)


@dataclass
class Ends:
    """An engine, which dials, and an agent, which is dialled; they trust each other."""

    engine: PinAuthenticator
    agent: PinAuthenticator
    engine_trust: MemoryTrustStore
    agent_trust: MemoryTrustStore

    def dial(self) -> tuple[IExchange, IExchange]:
        return self.engine.initiator("agent"), self.agent.acceptor()


def ends(engine: KeyPair = ENGINE, agent: KeyPair = AGENT, **options: Any) -> Ends:
    engine_trust = MemoryTrustStore([TrustedPeer("agent", agent.pin)])
    agent_trust = MemoryTrustStore([TrustedPeer("engine", engine.pin)])
    return Ends(
        PinAuthenticator(engine, engine_trust, **options),
        PinAuthenticator(agent, agent_trust, **options),
        engine_trust,
        agent_trust,
    )


def whole(data: bytes) -> list[bytes]:
    """Split nothing."""
    return [data] if data else []


def octets(data: bytes) -> list[bytes]:
    """Split everywhere."""
    return [data[at : at + 1] for at in range(len(data))]


def run(
    initiator: IExchange,
    acceptor: IExchange,
    split: Callable[[bytes], list[bytes]] = whole,
) -> tuple[bytes, bytes]:
    """Carry octets between two exchanges until both are silent.

    Returns:
        What came to the initiator, and to the acceptor, behind the end of its exchange.
    """
    to_acceptor, to_initiator = initiator.start(), acceptor.start()
    behind = {initiator: b"", acceptor: b""}
    while to_acceptor or to_initiator:
        sent, to_acceptor = to_acceptor, b""
        to_initiator += _feed(acceptor, split(sent), behind)
        sent, to_initiator = to_initiator, b""
        to_acceptor += _feed(initiator, split(sent), behind)
    return behind[initiator], behind[acceptor]


def _feed(exchange: IExchange, pieces: list[bytes], behind: dict[IExchange, bytes]) -> bytes:
    out = b""
    for piece in pieces:
        if exchange.outcome is None:
            out += exchange.receive(piece)
        else:
            behind[exchange] += piece
    return out


def hostile_context(
    key_pair: KeyPair,
    *,
    change: Callable[[SSL.Context], None] = lambda _: None,
) -> SSL.Context:
    """Make a TLS context that accepts any peer."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_privatekey(key_pair.private_key)
    context.use_certificate(key_pair.certificate)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    change(context)
    return context


class RawTls:
    """A TLS end that does what a test tells it, whatever the other end thinks of it."""

    def __init__(self, context: SSL.Context, *, is_client: bool) -> None:
        self.connection = SSL.Connection(context, None)
        if is_client:
            self.connection.set_connect_state()
        else:
            self.connection.set_accept_state()
        self.is_done = False
        self.plain = b""
        self.error: SSL.Error | None = None

    def feed(self, data: bytes = b"") -> bytes:
        """Take octets; give octets to send."""
        if data:
            self.connection.bio_write(data)
        try:
            if not self.is_done:
                self.connection.do_handshake()
                self.is_done = True
            while True:
                self.plain += self.connection.recv(16384)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.error = error
        return self.out()

    def send(self, data: bytes) -> bytes:
        self.connection.sendall(data)
        return self.out()

    def out(self) -> bytes:
        try:
            return self.connection.bio_read(65536)
        except SSL.WantReadError:
            return b""


__all__ = [
    "AGENT",
    "ED25519",
    "ENGINE",
    "STRANGER",
    "Ends",
    "RawTls",
    "ends",
    "hostile_context",
    "octets",
    "pinned_context",
    "run",
    "whole",
]
