"""What the demo verifies of an agent that dials the engine."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.threads import deferToThread

from pkengine.agent.control_client import ControlClient
from pkengine.agent.control_verbs import GET_STATUS, Status
from pkengine.agent.dialled_engines import NO_PROXY, DialledEngine
from pkengine.agent.engine_dialling import EngineDialling
from pkengine.agent.state import StateFolder
from pkengine.auth import MemoryTrustStore, TrustedPeer
from pkengine.auth.mechanisms import IdentityParts
from pkengine.auth.pake import register_pair
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.channel import Verbs
from pkengine.cli.demo.stage import Stage
from pkengine.cli.demo.verification import Check
from pkengine.cli.rest_client import Entity
from pkengine.errors import AuthenticationError
from pkengine.keys import KeyPair, Pin, Secret


async def agent_status(agent_state: Path) -> Status:
    """Ask the agent itself how it is doing."""

    def ask() -> Status:
        with ControlClient(StateFolder(agent_state).control_socket) as agent:
            status: Status = agent.call(GET_STATUS, result_type=Status)
        return status

    return await deferToThread(ask)


def check_way(entity: Entity, status: Status, stage: Stage) -> Iterator[Check]:
    """What both ends say of the connection between them."""
    url, mechanism = stage.agent_url, stage.mechanism
    is_proxied = stage.proxy is not None
    dialled = [(line.url, line.state) for line in status.dialled]
    listening = ", ".join(map(str, status.listening))
    yield Check(
        "Agent dials the engine, and listens on nothing",
        dialled == [(url, "connected")] and not listening,
        f"{url}; listening: {listening or 'nothing'}",
    )
    used = sorted({line.mechanism for line in status.connections})
    yield Check(
        f"Mechanism is {mechanism}, and both ends say so",
        used == [mechanism] and entity["mechanism"] == mechanism,
        ", ".join(used),
    )
    path = str(entity["trust"].get("tls_path"))
    yield Check(
        "A proxy ends TLS on the way, and the two ends have found that out"
        if is_proxied
        else "Nobody ends TLS on the way",
        path == ("proxied" if is_proxied else "direct"),
        f"path: {path}",
    )


async def check_strange_agent(reactor: Any, status: Status, stage: Stage) -> Check:
    """Dial the engine as the agent does, with a key that the engine was not given."""
    line = status.dialled[0]
    key_pair = KeyPair.generate("stranger")
    trusted, shared = await deferToThread(_strange_keys, status)
    parts = IdentityParts(key_pair, MemoryTrustStore(trusted), MemorySharedKeys(shared))
    dialling = EngineDialling(reactor, parts, Verbs(), {})
    engine = msgspec.convert(
        {
            "url": line.url,
            "mechanism": line.mechanism,
            "server": str(stage.server_pin()),
            "proxy": NO_PROXY,
        },
        DialledEngine,
    )
    shown = str(shared[0].key_id if shared else key_pair.pin)
    name = "Engine refuses an agent with a key that it was not given"
    try:
        channel = await dialling.connect(line.name, engine)
    except AuthenticationError:
        return Check(name, True, shown)
    channel.abort()
    return Check(name, False, "it was let in")


def _strange_keys(status: Status) -> tuple[list[TrustedPeer], list[SharedKey]]:
    """Make what somebody would have who knows all about the engine but no key of an agent."""
    line, host = status.dialled[0], str(uuid.uuid4())
    if line.mechanism == "hmac":
        shared = [SharedKey.generate("hmac", local=host, peer=line.name)]
    elif line.mechanism == "spake2plus":
        secret = Secret(secrets.token_bytes(32))
        shared = [register_pair(secret, prover=host, verifier=line.name)[0]]
    else:
        pins = [Pin.parse(accepted.pin) for accepted in status.engines]
        return [TrustedPeer(line.name, pin, frozenset({line.mechanism})) for pin in pins], []
    return [
        TrustedPeer(line.name, key.key_id, frozenset({line.mechanism})) for key in shared
    ], shared
