"""The ``spake2plus`` mechanism: SPAKE2+ (RFC 9383) in the common handshake.

The initiator is the prover and the acceptor the verifier: an agent that dials in proves
itself to the engine, and a thief of the engine's records cannot pose as the agent.  The
Context of RFC 9383 §3.3 is the hash of both hellos, so that the confirmations, which are
the proofs, cover everything that was said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pkengine.auth.attempts import AttemptLimit, Attempts
from pkengine.auth.folder import TrustFolder, is_yes
from pkengine.auth.handshake import Hello
from pkengine.auth.handshake_authenticator import HandshakeAuthenticator
from pkengine.auth.key_schedule import PROTOCOL
from pkengine.auth.p256 import random_scalar
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import SharedKey
from pkengine.auth.shared_secret import SharedKeys
from pkengine.auth.spake2plus import (
    Binding,
    Prover,
    ProverRecord,
    Verifier,
    VerifierRecord,
    register,
)
from pkengine.errors import AuthenticationError
from pkengine.interfaces import ISharedKeyStore, ITrustStore
from pkengine.keys.key_id import KeyId
from pkengine.keys.secret import Secret

MECHANISM = "spake2plus"

#: How many guesses in a row are allowed on one record, and how long one more then takes.
GUESSES = 5
GUESS_INTERVAL_S = 60.0

_SWEEP_AFTER = 64


def register_pair(
    secret: Secret, *, prover: str, verifier: str, key_id: KeyId | None = None
) -> tuple[SharedKey, SharedKey]:
    """Make the two halves of a new key from a secret; slow on purpose, for a thread.

    Args:
        secret: a password, a join code or a key.
        prover: who proves.
        verifier: who verifies.
        key_id: the public name of the key, where both ends must know it beforehand; else
            it is drawn.

    Returns:
        the prover's half and the verifier's half.
    """
    key_id = key_id or KeyId.random()
    record = register(
        secret,
        id_prover=prover.encode(),
        id_verifier=verifier.encode(),
        salt=key_id.octets,
    )
    return (
        SharedKey(key_id, MECHANISM, prover, verifier, record.encode()),
        SharedKey(key_id, MECHANISM, verifier, prover, record.verifier_record().encode()),
    )


class Spake2PlusAuthenticator(HandshakeAuthenticator):
    """Authenticates with SPAKE2+ records.

    Args:
        keys: the halves that this end keeps, made by `register_pair`.
        trust: which of them are accepted, and for whom.
        attempts: counts guesses, or None for `GUESSES` in a row.
        policy: as for `HandshakeAuthenticator`.
    """

    mechanism = MECHANISM

    def __init__(
        self,
        keys: ISharedKeyStore,
        trust: ITrustStore,
        *,
        attempts: Attempts | None = None,
        **policy: Any,
    ) -> None:
        super().__init__(trust, **policy)
        if attempts is None:
            attempts = AttemptLimit(
                self._policy.monotonic, burst=GUESSES, interval_s=GUESS_INTERVAL_S
            )
        self._nobody = ProverRecord(random_scalar(), random_scalar()).verifier_record()
        self._keys = SharedKeys(MECHANISM, keys, trust, attempts, self._nobody.encode())
        self._prover_records = _Records[ProverRecord](ProverRecord.decode, keys)
        self._verifier_records = _Records[VerifierRecord](VerifierRecord.decode, keys)

    @classmethod
    def from_folder(
        cls, folder: TrustFolder, requireDirect: str = "no"
    ) -> Spake2PlusAuthenticator:
        """Take the secrets and the trust of a folder; `requireDirect` is "yes" or "no"."""
        return cls(folder.secrets, folder.trust, require_direct=is_yes(requireDirect))

    def _dial(self, expected: str | None) -> _ProverParty:
        key, peer = self._keys.for_peer(expected)
        return _ProverParty(self._keys, key, peer, Prover(self._prover_records.of(key)))

    def _choose(self, hello: Hello) -> _VerifierParty:
        key, peer, refusal = self._keys.for_hello(hello)
        # Who names a key that is not there gets a record that is: decoding, and keeping, one
        # for each name that somebody makes up would take time and memory.
        verifier = Verifier(self._verifier_records.of(key) if peer is not None else self._nobody)
        return _VerifierParty(self._keys, key, peer, refusal, verifier)


_Record = TypeVar("_Record", ProverRecord, VerifierRecord)


class _Records(Generic[_Record]):
    """Records that were decoded, because each holds products that every exchange needs."""

    def __init__(self, decode: Callable[[Secret], _Record], keys: ISharedKeyStore) -> None:
        self._decode: Callable[[Secret], _Record] = decode
        self._keys = keys
        self._decoded: dict[KeyId, tuple[Secret, _Record]] = {}
        self._next_sweep = _SWEEP_AFTER

    def of(self, key: SharedKey) -> _Record:
        known = self._decoded.get(key.key_id)
        if known is not None and known[0] == key.secret:
            return known[1]
        try:
            record = self._decode(key.secret)
        except ValueError as error:
            raise AuthenticationError(f"Key {key.key_id} cannot be used: {error}") from error
        self._decoded[key.key_id] = key.secret, record
        self._sweep()
        return record

    def _sweep(self) -> None:
        """Forget the records of keys that are gone, each time that there are twice as many."""
        if len(self._decoded) >= self._next_sweep:
            for key_id in [each for each in self._decoded if self._keys.key(each) is None]:
                del self._decoded[key_id]
            self._next_sweep = max(_SWEEP_AFTER, 2 * len(self._decoded))


class _Party:
    """What both ends have in common."""

    def __init__(self, keys: SharedKeys, key: SharedKey, expected: TrustedPeer | None) -> None:
        self.key_id = key.key_id.octets
        self.identity = key.local
        self.peer = key.peer
        self._keys = keys
        self._key = key
        self._expected = expected
        self._refusal = ""
        self._secret: Secret | None = None

    def judge(self, hello: Hello) -> TrustedPeer:
        if self._expected is None:
            raise AuthenticationError(self._refusal)
        return self._keys.judge(self._key, hello, self._expected)

    def secret(self) -> Secret:
        assert self._secret is not None, "the handshake asks for the secret behind the proofs"
        return self._secret


class _ProverParty(_Party):
    """The initiator."""

    def __init__(
        self, keys: SharedKeys, key: SharedKey, expected: TrustedPeer, prover: Prover
    ) -> None:
        super().__init__(keys, key, expected)
        self._prover = prover
        self.share = prover.share

    def confirm(self, hello: Hello, th2: bytes, proof: bytes, th3: bytes) -> bytes:
        binding = _binding(th2, prover=self.identity, verifier=self.peer)
        answer, self._secret = self._prover.finish(binding, hello.share, proof)
        return answer


class _VerifierParty(_Party):
    """The acceptor."""

    def __init__(
        self,
        keys: SharedKeys,
        key: SharedKey,
        expected: TrustedPeer | None,
        refusal: str,
        verifier: Verifier,
    ) -> None:
        super().__init__(keys, key, expected)
        self._refusal = refusal
        self._verifier = verifier
        self.share = verifier.share

    def answer(self, hello: Hello, th2: bytes) -> bytes:
        binding = _binding(th2, prover=self.peer, verifier=self.identity)
        return self._verifier.respond(binding, hello.share)

    def finish(self, th3: bytes, proof: bytes) -> None:
        try:
            self._secret = self._verifier.finish(proof)
        except AuthenticationError as error:
            raise AuthenticationError(self._refusal or str(error)) from error


def _binding(th2: bytes, *, prover: str, verifier: str) -> Binding:
    context = PROTOCOL + b" P256-SHA256-HKDF-SHA256-HMAC-SHA256 " + th2
    return Binding(context, prover.encode(), verifier.encode())
