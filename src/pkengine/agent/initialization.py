"""Makes a host ready for its engines: the agent's key, and the keys of the engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

import pkengine
from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.agent.state import StateFolder
from pkengine.auth.peer import PeerKey, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, SharedKey, SharedKeyFolder
from pkengine.auth.trust import FileTrustStore
from pkengine.errors import AgentError, PkengineError
from pkengine.keys.key_id import KeyId


class Dial(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An engine that the agent shall dial; one JSON object, which may hold a secret.

    Attributes:
        name: what the lines of its keys call the engine.
        engine: how to reach it.
        shared_key: the agent's half of what it shares with the engine, in the form in which
            `SharedKey.encode` writes it, or None where the mechanism needs none.
    """

    name: str
    engine: DialledEngine
    shared_key: dict[str, str] | None = None


def read_dial(encoded: bytes) -> tuple[Dial, SharedKey | None]:
    """Read what ``pkagent init --dial`` gets.

    Raises:
        AgentError: it is anything else; the text shows none of it.
    """
    try:
        dial = msgspec.json.decode(encoded, type=Dial)
        dial.engine.check()
        given = dial.shared_key
        key = None if given is None else SharedKey.decode(msgspec.json.encode(given))
    except (msgspec.DecodeError, PkengineError) as error:
        raise AgentError(f"What shall be dialled is malformed: {error}") from None
    if (key is None) == (dial.engine.mechanism in SHARED_KEY_MECHANISMS):
        raise AgentError(
            f"The mechanism '{dial.engine.mechanism}' "
            + ("needs a shared key, and none is given." if key is None else "has no shared key.")
        )
    if key is not None and (key.peer, key.mechanism) != (dial.name, dial.engine.mechanism):
        raise AgentError("The shared key is for another engine or mechanism than the one to dial.")
    return dial, key


class Initialized(msgspec.Struct, frozen=True, rename="camel"):
    """What an engine has to know about the agent that it has set up.

    Attributes:
        pin: the agent's key.
        uuid: the host's own identity.
        version: of the software.
        state: the path of the state folder.
        engines: the pins that are accepted now, of all engines.
        removed: the pins that this call took away.
    """

    pin: str
    uuid: str
    version: str
    state: str
    engines: list[str]
    removed: list[str] = []


def initialize(
    state: StateFolder,
    engines: Sequence[TrustedPeer],
    dial: tuple[Dial, SharedKey | None] | None = None,
) -> Initialized:
    """Make the agent's key where there is none, and accept the keys of the engines.

    The keys given for a name are all the keys that the engine of this name has: others
    that stand under the same name are removed.  Other engines keep theirs.  New keys are
    written before old ones go, and each change is atomic, so whatever interrupts this
    leaves a file that works, and a second call completes it.

    Of the engines whose keys are given, just the one in `dial` is dialled.

    Raises:
        AgentError: a key is the agent's own, or no key is given of the engine to dial.
        KeyFileError: something in the state folder cannot be made or read.
        TrustFileError: the file of accepted keys is malformed or too open.
    """
    key_pair = state.prepare()
    given = {peer.key: peer for peer in engines}
    if key_pair.pin in given:
        raise AgentError(f"{key_pair.pin} is this agent's own key: give the key of an engine.")
    if dial is not None:
        _check_dial(given, *dial)
    trust = FileTrustStore(state.authorized_engines)
    secrets = SharedKeyFolder(state.secrets)
    if dial is not None and dial[1] is not None:
        secrets.add(dial[1])
    for peer in given.values():
        if trust.lookup(peer.key) != peer:
            trust.add(peer)
    names = {peer.name for peer in given.values()}
    old = [peer.key for peer in trust.peers() if peer.name in names and peer.key not in given]
    for key in old:
        trust.remove(key)
        if isinstance(key, KeyId) and secrets.key(key) is not None:
            secrets.remove(key)
    dialled = DialledEngines(state.dialled_engines)
    for name in names:
        if dial is not None and dial[0].name == name:
            dialled.put(name, dial[0].engine)
        else:
            dialled.remove(name)
    return Initialized(
        pin=str(key_pair.pin),
        uuid=state.host_uuid(),
        version=pkengine.__version__,
        state=str(state.directory),
        engines=[str(peer.key) for peer in trust.peers()],
        removed=[str(key) for key in old],
    )


def _check_dial(given: Mapping[PeerKey, TrustedPeer], dial: Dial, key: SharedKey | None) -> None:
    if not any(
        peer.name == dial.name
        and dial.engine.mechanism in peer.mechanisms
        and (key is None or peer.key == key.key_id)
        for peer in given.values()
    ):
        raise AgentError(
            f"The engine {dial.name!r} cannot be dialled: among the keys that are given with it, "
            f"none is of it and for the mechanism '{dial.engine.mechanism}'."
        )
