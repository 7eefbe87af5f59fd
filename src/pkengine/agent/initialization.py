"""Makes a host ready for its engines: the agent's key, and the keys of the engines."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

import pkengine
from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.agent.state import StateFolder
from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.peer import PeerKey, Role, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, SharedKeyFolder
from pkengine.auth.trust import FileTrustStore
from pkengine.errors import AgentError, PkengineError
from pkengine.keys.key_id import KeyId


class Dial(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An engine that the agent shall dial; one JSON object, and nothing in it is secret.

    Attributes:
        name: what the lines of its keys call the engine.
        engine: how to reach it.
        host_id: what the engine calls this host, where the mechanism proves a shared key.
        share: the engine's share of that key, see `KeyAgreement`.
    """

    name: str
    engine: DialledEngine
    host_id: str = ""
    share: str | None = None

    def check(self) -> None:
        """Refuse what cannot be used.

        Raises:
            AgentError: the mechanism needs a share, and there is none, or the other way round.
            PkengineError: one of the texts is malformed.
        """
        self.engine.check()
        needs_share = self.engine.mechanism in SHARED_KEY_MECHANISMS
        if needs_share != (self.share is not None) or needs_share != bool(self.host_id):
            raise AgentError(
                f"The mechanism '{self.engine.mechanism}' "
                + ("needs" if needs_share else "has no use for")
                + " the engine's share of a new key and the id that it has given this host."
            )


def read_dial(encoded: bytes) -> Dial:
    """Read what ``pkagent init --dial`` gets.

    Raises:
        AgentError: it is anything else.
    """
    try:
        dial = msgspec.json.decode(encoded, type=Dial)
        dial.check()
    except (msgspec.DecodeError, UnicodeDecodeError, PkengineError) as error:
        raise AgentError(f"What shall be dialled is malformed: {error}") from None
    return dial


class Initialized(msgspec.Struct, frozen=True, rename="camel"):
    """What an engine has to know about the agent that it has set up.

    Attributes:
        pin: the agent's key.
        uuid: the host's own identity.
        version: of the software.
        state: the path of the state folder.
        engines: the pins that are accepted now, of all engines.
        removed: the pins that this call took away.
        share: the agent's share of the new key that it has in common with the engine to
            dial, or None where the mechanism has none.
    """

    pin: str
    uuid: str
    version: str
    state: str
    engines: list[str]
    removed: list[str] = []
    share: str | None = None


def initialize(
    state: StateFolder,
    engines: Sequence[TrustedPeer],
    dial: Dial | None = None,
) -> Initialized:
    """Make the agent's key where there is none, and accept the keys of the engines.

    The keys given for a name are all the keys that the engine of this name has: others
    that stand under the same name are removed.  Other engines keep theirs.  New keys are
    written before old ones go, and each change is atomic, so whatever interrupts this
    leaves a file that works, and a second call completes it.

    Of the engines whose keys are given, just the one in `dial` is dialled.  A key that is
    shared with it is made anew each time; whoever reads all that is said here does not
    know it.

    Raises:
        AgentError: a key is the agent's own, or no key is given of the engine to dial.
        InvalidKeyText: the engine's share is malformed.
        KeyFileError: something in the state folder cannot be made or read.
        TrustFileError: the file of accepted keys is malformed or too open.
    """
    key_pair = state.prepare()
    given: dict[PeerKey, TrustedPeer] = {peer.key: peer for peer in engines}
    if key_pair.pin in given:
        raise AgentError(f"{key_pair.pin} is this agent's own key: give the key of an engine.")
    trust = FileTrustStore(state.authorized_engines)
    secrets = SharedKeyFolder(state.secrets)
    share = None
    if dial is not None and dial.share is not None:
        mechanism = dial.engine.mechanism
        agreement = KeyAgreement(
            mechanism, local=dial.host_id, peer=dial.name, role=Role.INITIATOR
        )
        shared, share = agreement.agree(dial.share), agreement.share
        given[shared.key_id] = TrustedPeer(dial.name, shared.key_id, frozenset({mechanism}))
        secrets.add(shared)
    elif dial is not None:
        _check_is_given(dial, given.values())
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
        if dial is not None and dial.name == name:
            dialled.put(name, dial.engine)
        else:
            dialled.remove(name)
    return Initialized(
        pin=str(key_pair.pin),
        uuid=state.host_uuid(),
        version=pkengine.__version__,
        state=str(state.directory),
        engines=[str(peer.key) for peer in trust.peers()],
        removed=[str(key) for key in old],
        share=share,
    )


def _check_is_given(dial: Dial, given: Collection[TrustedPeer]) -> None:
    """Refuse to dial an engine that could not prove itself."""
    if not any(
        peer.name == dial.name and dial.engine.mechanism in peer.mechanisms for peer in given
    ):
        raise AgentError(
            f"The engine {dial.name!r} cannot be dialled: among the keys that are given with it, "
            f"none is of it and for the mechanism '{dial.engine.mechanism}'."
        )
