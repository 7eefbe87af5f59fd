"""Makes a host ready for its engines: the agent's key, and the keys of the engines."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

import pkengine
from pkengine.agent.state import StateFolder
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.trust import FileTrustStore
from pkengine.errors import AgentError


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


def initialize(state: StateFolder, engines: Sequence[TrustedPeer]) -> Initialized:
    """Make the agent's key where there is none, and accept the keys of the engines.

    The keys given for a name are all the keys that the engine of this name has: others
    that stand under the same name are removed.  Other engines keep theirs.  New keys are
    written before old ones go, and each change is atomic, so whatever interrupts this
    leaves a file that works, and a second call completes it.

    Raises:
        AgentError: a key is the agent's own.
        KeyFileError: something in the state folder cannot be made or read.
        TrustFileError: the file of accepted keys is malformed or too open.
    """
    key_pair = state.prepare()
    given = {peer.key: peer for peer in engines}
    if key_pair.pin in given:
        raise AgentError(f"{key_pair.pin} is this agent's own key: give the key of an engine.")
    trust = FileTrustStore(state.authorized_engines)
    for peer in given.values():
        if trust.lookup(peer.key) != peer:
            trust.add(peer)
    names = {peer.name for peer in given.values()}
    old = [peer.key for peer in trust.peers() if peer.name in names and peer.key not in given]
    for pin in old:
        trust.remove(pin)
    return Initialized(
        pin=str(key_pair.pin),
        uuid=state.host_uuid(),
        version=pkengine.__version__,
        state=str(state.directory),
        engines=[str(peer.key) for peer in trust.peers()],
        removed=[str(pin) for pin in old],
    )
