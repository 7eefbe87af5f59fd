"""What the mechanisms on shared keys have in common: finding the key of an exchange.

An acceptor that does not know a key, or must not use it, goes on with one that nobody knows,
and says the same words of the same length in the same time: whoever asks cannot tell an
unknown key from a wrong one.
"""

from __future__ import annotations

import hmac
import secrets

from pkengine.auth.attempts import Attempts
from pkengine.auth.handshake import Hello
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import SharedKey
from pkengine.errors import AuthenticationError, InvalidKeyText
from pkengine.interfaces import ISharedKeyStore, ITrustStore
from pkengine.keys.key_id import KeyId
from pkengine.keys.secret import Secret


class SharedKeys:
    """The keys of one mechanism, with the trust in them.

    Args:
        mechanism: the mechanism's name.
        keys: the secrets.
        trust: which of them are accepted, and for whom.
        attempts: the limit on guesses.
        dummy: a secret of the mechanism's form that nobody knows.
    """

    def __init__(
        self,
        mechanism: str,
        keys: ISharedKeyStore,
        trust: ITrustStore,
        attempts: Attempts,
        dummy: Secret,
    ) -> None:
        self.mechanism = mechanism
        self._keys = keys
        self._trust = trust
        self._attempts = attempts
        self._dummy = dummy

    def for_peer(self, expected: str | None) -> tuple[SharedKey, TrustedPeer]:
        """Find the key for the peer that is about to be dialled.

        Raises:
            AuthenticationError: there is none, or, with nobody expected, more than one.
        """
        found: list[tuple[SharedKey, TrustedPeer]] = []
        for peer in self._trust.peers():
            if self.mechanism not in peer.mechanisms or not isinstance(peer.key, KeyId):
                continue
            if expected is not None and peer.name != expected:
                continue
            key = self._keys.key(peer.key)
            if key is not None and key.mechanism == self.mechanism:
                found.append((key, peer))
        if not found or (expected is None and len(found) > 1):
            raise AuthenticationError(
                f"There is no key of mechanism '{self.mechanism}' for "
                f"{expected or 'just one peer'}."
            )
        return found[-1]

    def for_hello(self, hello: Hello) -> tuple[SharedKey, TrustedPeer | None, str]:
        """Find the key that a hello names.

        Returns:
            the key; the peer, or None where the exchange must fail; and then the reason.
        """
        key, peer, refusal = self._find(hello)
        if key is not None and not refusal and not self._attempts.begin(key.key_id):
            refusal = f"Too many attempts on key {key.key_id} failed."
        if key is None or refusal:
            # The answer repeats the names that came, as it does for a key that is known.
            return self._nobodys(hello), None, refusal
        return key, peer, ""

    def judge(self, key: SharedKey, hello: Hello, expected: TrustedPeer) -> TrustedPeer:
        """Check the hello of the peer that was dialled, and that it is trusted still.

        Raises:
            AuthenticationError: the hello is of somebody else, or trust has ended.
        """
        if hello.identity != key.peer or hello.peer != key.local:
            raise AuthenticationError(
                f"Expected an answer of {key.peer!r} to {key.local!r}, and it is of "
                f"{hello.identity[:80]!r} to {hello.peer[:80]!r}."
            )
        return self.still_trusted(key, expected)

    def still_trusted(self, key: SharedKey, peer: TrustedPeer) -> TrustedPeer:
        """Look a peer up again, at the end of an exchange; its proof was right."""
        now = self._trust.lookup(key.key_id)
        if now is None or now.name != peer.name or self.mechanism not in now.mechanisms:
            raise AuthenticationError(f"Key {key.key_id} of {peer.name} is not accepted any more.")
        self._attempts.succeeded(key.key_id)
        return now

    def _find(self, hello: Hello) -> tuple[SharedKey | None, TrustedPeer | None, str]:
        try:
            key_id = KeyId(hello.key_id)
        except InvalidKeyText as error:
            return None, None, str(error)
        key, peer = self._keys.key(key_id), self._trust.lookup(key_id)
        if key is None or peer is None:
            return None, None, f"Key {key_id} is not accepted."
        if key.mechanism != self.mechanism or self.mechanism not in peer.mechanisms:
            return None, None, f"Key {key_id} is not for mechanism '{self.mechanism}'."
        if not (
            hmac.compare_digest(hello.identity.encode(), key.peer.encode())
            and hmac.compare_digest(hello.peer.encode(), key.local.encode())
        ):
            return (
                None,
                None,
                (
                    f"Key {key_id} is shared by {key.peer!r} and {key.local!r}, and the hello is "
                    f"of {hello.identity[:80]!r} to {hello.peer[:80]!r}."
                ),
            )
        return key, peer, ""

    def _nobodys(self, hello: Hello) -> SharedKey:
        key_id = KeyId(hello.key_id) if len(hello.key_id) == 16 else KeyId(secrets.token_bytes(16))
        # The two names must differ in a key, but an attacker may send what it likes.
        local = hello.peer if hello.peer and hello.peer != hello.identity else "nobody"
        peer = hello.identity if hello.identity != local and hello.identity else "anybody"
        return SharedKey(key_id, self.mechanism, local, peer, self._dummy)
