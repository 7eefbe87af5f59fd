"""The ``hmac`` mechanism: a key that two ends share, proved by both without showing it.

The flow is that of AKEP2 (Bellare and Rogaway, 1993) and of the three-pass mutual
authentication of ISO/IEC 9798-4: two fresh nonces, three messages, both identities under
each MAC.  The MACs are Finished MACs in the manner of TLS 1.3 (RFC 8446 §4.4.4), so they
cover all that was said.  It gives no forward secrecy: nothing it protects is secret from a
proxy anyway.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any

from pkengine.auth.attempts import AttemptLimit
from pkengine.auth.folder import TrustFolder, is_yes
from pkengine.auth.handshake import Hello
from pkengine.auth.handshake_authenticator import HandshakeAuthenticator
from pkengine.auth.key_schedule import KeySchedule
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import SECRET_SIZE, SharedKey
from pkengine.auth.shared_secret import SharedKeys
from pkengine.errors import AuthenticationError
from pkengine.interfaces import ISharedKeyStore, ITrustStore
from pkengine.keys.secret import Secret

MECHANISM = "hmac"
NONCE_SIZE = 32


class HmacAuthenticator(HandshakeAuthenticator):
    """Authenticates with shared keys.

    Args:
        keys: the secrets.
        trust: which of them are accepted, and for whom.
        policy: as for `HandshakeAuthenticator`.
    """

    mechanism = MECHANISM

    def __init__(self, keys: ISharedKeyStore, trust: ITrustStore, **policy: Any) -> None:
        super().__init__(trust, **policy)
        dummy = Secret(secrets.token_bytes(SECRET_SIZE))
        attempts = AttemptLimit(self._policy.monotonic)
        self._keys = SharedKeys(MECHANISM, keys, trust, attempts, dummy)

    @classmethod
    def from_folder(cls, folder: TrustFolder, requireDirect: str = "no") -> HmacAuthenticator:
        """Take the secrets and the trust of a folder; `requireDirect` is "yes" or "no"."""
        return cls(folder.secrets, folder.trust, require_direct=is_yes(requireDirect))

    def _dial(self, expected: str | None) -> _Party:
        return _Party(self._keys, *self._keys.for_peer(expected))

    def _choose(self, hello: Hello) -> _Party:
        return _Party(self._keys, *self._keys.for_hello(hello))


class _Party:
    """One end of one exchange, in either role."""

    def __init__(
        self, keys: SharedKeys, key: SharedKey, expected: TrustedPeer | None, refusal: str = ""
    ) -> None:
        self.key_id = key.key_id.octets
        self.identity = key.local
        self.peer = key.peer
        self.share = secrets.token_bytes(NONCE_SIZE)
        self._keys = keys
        self._key = key
        self._expected = expected
        self._refusal = refusal
        self._schedule = KeySchedule(MECHANISM, key.secret)

    def answer(self, hello: Hello, th2: bytes) -> bytes:
        return self._schedule.finished(b"acceptor finished", th2)

    def confirm(self, hello: Hello, th2: bytes, proof: bytes, th3: bytes) -> bytes:
        self._check(b"acceptor finished", th2, proof)
        return self._schedule.finished(b"initiator finished", th3)

    def finish(self, th3: bytes, proof: bytes) -> None:
        self._check(b"initiator finished", th3, proof)

    def judge(self, hello: Hello) -> TrustedPeer:
        if self._expected is None:
            raise AuthenticationError(self._refusal)
        return self._keys.judge(self._key, hello, self._expected)

    def secret(self) -> Secret:
        return self._key.secret

    def _check(self, purpose: bytes, th: bytes, proof: bytes) -> None:
        if not hmac.compare_digest(self._schedule.finished(purpose, th), proof):
            raise AuthenticationError(
                self._refusal
                or f"The MAC under key {self._key.key_id} is wrong: the peer does not have that "
                "key, or accepts it no longer."
            )
