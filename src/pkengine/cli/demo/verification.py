"""What the demo verifies, each fact where it lies: at the engine, on the host, on the wire."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint

from pkengine.auth import MemoryTrustStore, PinAuthenticator, TrustedPeer, parse_trust_line
from pkengine.auth.shared_key import SharedKey
from pkengine.channel import connect_channel
from pkengine.channel.verbs import GET_CAPABILITIES, Capabilities, Nothing
from pkengine.cli.demo.ssh_host import ThrowAwayHost, Visit
from pkengine.cli.rest_client import Entity
from pkengine.errors import AuthenticationError
from pkengine.keys import KeyPair, Secret, SshFingerprint


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what should be so.
        is_right: whether it is.
        found: the fact that shows it.
    """

    name: str
    is_right: bool
    found: str


def check_host_key(entity: Entity, host: ThrowAwayHost) -> Check:
    """The engine's record of the SSH host key against the key itself."""
    ssh = entity["ssh"]
    recorded = SshFingerprint.parse(ssh["fingerprint"])
    return Check(
        "SSH host key is the one whose fingerprint was given",
        recorded.matches(host.public_key) and ssh["key_source"] == "given_fingerprint",
        str(recorded),
    )


def check_keys(entity: Entity, engine_state: Path, agent_state: Path) -> Iterator[Check]:
    """What each side trusts against the keys that the other side has on its disk."""
    trusted = [key["value"] for key in entity["trust"]["keys"]["key"]]
    lines = (agent_state / "authorized_engines").read_text("utf-8").splitlines()
    accepted = [str(peer.key) for peer in map(parse_trust_line, lines) if peer is not None]
    shared = [str(key.key_id) for key in shared_keys(agent_state)]
    if shared:
        yield Check(
            "Engine trusts the key that it shares with this agent, and no other",
            trusted == shared,
            " ".join(trusted),
        )
        yield Check(
            "Agent trusts the same key, and no other", accepted == shared, " ".join(accepted)
        )
        return
    agent = str(KeyPair.load(agent_state, "agent").pin)
    engine = str(KeyPair.load(engine_state, "engine").pin)
    yield Check(
        "Engine trusts the key of this agent, and no other",
        trusted == [agent],
        " ".join(trusted),
    )
    yield Check(
        "Agent trusts the key of this engine, and no other",
        accepted == [engine],
        " ".join(accepted),
    )


def shared_keys(agent_state: Path) -> list[SharedKey]:
    """Give what an agent shares with engines."""
    return [SharedKey.decode(path.read_bytes()) for path in sorted(agent_state.glob("secrets/*"))]


async def check_connection(
    reactor: Any, entity: Entity, engine_state: Path, agent_state: Path
) -> list[Check]:
    """Connect to the agent with the engine's key, and ask it something."""
    key_pair = KeyPair.load(engine_state, "engine")
    pin = KeyPair.load(agent_state, "agent").pin
    trust = MemoryTrustStore([TrustedPeer(entity["name"], pin)])
    channel = await connect_channel(
        reactor,
        _endpoint(reactor, entity),
        PinAuthenticator(key_pair, trust),
        expected=entity["name"],
    )
    try:
        authenticated = channel.authenticated
        capabilities: Capabilities = await channel.call(
            GET_CAPABILITIES, Nothing(), result_type=Capabilities
        )
    finally:
        channel.close()
    facts = authenticated.facts
    system = capabilities.operating_system
    return [
        Check(
            "Mechanism is pin: both keys proved, no CA",
            authenticated.mechanism == "pin",
            authenticated.mechanism,
        ),
        Check(
            "TLS is of version 1.3",
            facts["tls_version"] == "TLSv1.3",
            f"{facts['tls_version']}, group {facts['tls_group']}",
        ),
        Check(
            "Agent tells the capabilities of this machine",
            capabilities.hostname == socket.gethostname(),
            f"{capabilities.hostname}: {system.pretty_name or system.name}, "
            f"{capabilities.cpu_threads} CPUs, {capabilities.mem_size} MiB",
        ),
    ]


async def check_stranger(reactor: Any, entity: Entity, agent_state: Path) -> Check:
    """Connect to the agent with a key that nobody gave it."""
    stranger = KeyPair.generate("stranger")
    trust = MemoryTrustStore([TrustedPeer(entity["name"], KeyPair.load(agent_state, "agent").pin)])
    try:
        channel = await connect_channel(
            reactor,
            _endpoint(reactor, entity),
            PinAuthenticator(stranger, trust),
            expected=entity["name"],
        )
    except AuthenticationError:
        return Check("Agent refuses a key that it was not given", True, str(stranger.pin))
    channel.close()
    return Check("Agent refuses a key that it was not given", False, "it was let in")


def check_secrets(
    password: Secret | None, engine_state: Path, agent_state: Path, log: Path
) -> Check:
    """Look for what must not be there in every file that the engine wrote."""
    secrets = [(agent_state / "agent.key").read_bytes().splitlines()[1]]
    if password is not None:
        secrets.append(password.reveal())
    for key in shared_keys(agent_state):
        secrets += [key.secret.reveal(), base64.b64encode(key.secret.reveal())]
    found = [
        path.name
        for path in (*_files(engine_state), log)
        if any(secret in path.read_bytes() for secret in secrets)
    ]
    names = ["the agent's private key"]
    if password is not None:
        names.insert(0, "the SSH password")
    if shared_keys(agent_state):
        names.append("the shared key in clear")
    return Check(
        f"The engine's files have none of: {', '.join(names)}",
        not found,
        ", ".join(found) or "looked into each of them",
    )


def check_refusal(
    reason: str | None, visits: Iterable[Visit], hosts: Iterable[Entity]
) -> Iterator[Check]:
    """What came of the attempt with a wrong fingerprint, on both sides."""
    yield Check("A wrong fingerprint is refused", reason is not None, reason or "it was accepted")
    seen = list(visits)
    tried = [method for visit in seen for method in visit.methods]
    yield Check(
        "No credential reached the host",
        bool(seen) and not tried,
        f"connections that the host saw: {len(seen)}; logins tried: {', '.join(tried) or 'none'}",
    )
    names = [str(each["name"]) for each in hosts]
    yield Check("No second host was made", len(names) == 1, ", ".join(names))


def _endpoint(reactor: Any, entity: Entity) -> TCP4ClientEndpoint:
    return TCP4ClientEndpoint(reactor, entity["address"], int(entity["port"]), timeout=10)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
