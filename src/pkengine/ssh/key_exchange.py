"""The key exchanges of SSH, seen from the client; no IO.

All of them have the same shape (RFC 4253 §8, RFC 5656 §4, RFC 8731): the client sends one
value, the server answers with one, both go into the exchange hash as strings, and there is a
shared secret *K*.  They differ in what the values are and in how *K* is written.

* ``mlkem768x25519-sha256`` (draft-ietf-sshm-mlkem-hybrid-kex): ML-KEM-768 and X25519 side by
  side.  A recording of the connection stays closed also to a quantum computer, and as long as
  one of the two holds, so does the exchange.
* ``curve25519-sha256`` (RFC 8731) and ``ecdh-sha2-nistp…`` (RFC 5656).
* ``diffie-hellman-group…-sha2`` over the fixed groups of RFC 3526 (RFC 8268), for hosts that
  offer nothing else.  OpenSSL takes short exponents there, so it is a matter of milliseconds.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import Any, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning

from pkengine.ssh.modp_groups import modp_prime
from pkengine.ssh.wire import MalformedMessage, mpint, string

try:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
except ImportError:  # cryptography before 47
    MLKEM768PrivateKey = None  # type: ignore[assignment, misc]

# cryptography wants nobody to choose finite fields any more, and will drop them one day.  Here it
# is the host that has nothing else: they stand last in the list, and may be missing.
try:
    from cryptography.hazmat.primitives.asymmetric import dh
except ImportError:
    dh = None  # type: ignore[assignment]
warnings.filterwarnings("ignore", category=CryptographyDeprecationWarning, module=__name__)

_X25519_LENGTH = 32
_MLKEM768_CIPHERTEXT_LENGTH = 1088


class KeyExchange(Protocol):
    """One key exchange that is under way.

    Attributes:
        init: what the client sends.
    """

    init: bytes

    def shared_secret(self, reply: bytes) -> bytes:
        """Take what the server sent.

        Returns:
            *K*, written as it goes into the exchange hash and the derivation of keys.

        Raises:
            ValueError: the server's value is none, or makes a secret that anybody knows.
        """


class _X25519:
    def __init__(self) -> None:
        self._private_key = X25519PrivateKey.generate()
        self.init = self._private_key.public_key().public_bytes_raw()

    def agree(self, public: bytes) -> bytes:
        if len(public) != _X25519_LENGTH:
            raise MalformedMessage("the host's X25519 key has the wrong length")
        # cryptography refuses a secret of zeros only (RFC 8731 §3).
        return self._private_key.exchange(X25519PublicKey.from_public_bytes(public))

    def shared_secret(self, reply: bytes) -> bytes:
        return mpint(int.from_bytes(self.agree(reply), "big"))


class _MlKem768X25519:
    """The ML-KEM part always comes first; *K* is a hash, written as a string."""

    def __init__(self) -> None:
        self._mlkem = MLKEM768PrivateKey.generate()
        self._x25519 = _X25519()
        self.init = self._mlkem.public_key().public_bytes_raw() + self._x25519.init

    def shared_secret(self, reply: bytes) -> bytes:
        if len(reply) != _MLKEM768_CIPHERTEXT_LENGTH + _X25519_LENGTH:
            raise MalformedMessage("the host's ML-KEM ciphertext has the wrong length")
        post_quantum = self._mlkem.decapsulate(reply[:_MLKEM768_CIPHERTEXT_LENGTH])
        classical = self._x25519.agree(reply[_MLKEM768_CIPHERTEXT_LENGTH:])
        return string(hashlib.sha256(post_quantum + classical).digest())


class _Ecdh:
    def __init__(self, curve: ec.EllipticCurve) -> None:
        self._private_key = ec.generate_private_key(curve)
        self.init = self._private_key.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )

    def shared_secret(self, reply: bytes) -> bytes:
        public = ec.EllipticCurvePublicKey.from_encoded_point(self._private_key.curve, reply)
        return mpint(int.from_bytes(self._private_key.exchange(ec.ECDH(), public), "big"))


class _FiniteField:
    def __init__(self, group: int) -> None:
        self._numbers = dh.DHParameterNumbers(modp_prime(group), 2)
        self._private_key = self._numbers.parameters().generate_private_key()
        self.init = mpint(self._private_key.public_key().public_numbers().y)[4:]

    def shared_secret(self, reply: bytes) -> bytes:
        value = int.from_bytes(reply, "big", signed=True)
        if not 1 < value < self._numbers.p - 1 or mpint(value)[4:] != reply:  # RFC 4253 §8
            raise MalformedMessage("the host's Diffie-Hellman value is out of range")
        public = dh.DHPublicNumbers(value, self._numbers).public_key()
        return mpint(int.from_bytes(self._private_key.exchange(public), "big"))


#: What a method hashes with, and what begins it; the most wanted first.
METHODS: dict[str, tuple[Callable[..., Any], Callable[[], KeyExchange]]] = {
    "mlkem768x25519-sha256": (hashlib.sha256, _MlKem768X25519),
    "curve25519-sha256": (hashlib.sha256, _X25519),
    "curve25519-sha256@libssh.org": (hashlib.sha256, _X25519),
    "ecdh-sha2-nistp256": (hashlib.sha256, lambda: _Ecdh(ec.SECP256R1())),
    "ecdh-sha2-nistp384": (hashlib.sha384, lambda: _Ecdh(ec.SECP384R1())),
    "ecdh-sha2-nistp521": (hashlib.sha512, lambda: _Ecdh(ec.SECP521R1())),
    "diffie-hellman-group16-sha512": (hashlib.sha512, lambda: _FiniteField(16)),
    "diffie-hellman-group18-sha512": (hashlib.sha512, lambda: _FiniteField(18)),
    "diffie-hellman-group14-sha256": (hashlib.sha256, lambda: _FiniteField(14)),
}


def _has_mlkem() -> bool:
    """Tell whether the installed `cryptography` and its OpenSSL have ML-KEM."""
    try:
        return MLKEM768PrivateKey is not None and bool(MLKEM768PrivateKey.generate())
    except UnsupportedAlgorithm:
        return False


#: Those that also a quantum computer would not undo.
HYBRIDS = frozenset(("mlkem768x25519-sha256",))

if not _has_mlkem():
    for _name in HYBRIDS:
        del METHODS[_name]
if dh is None:
    METHODS = {name: method for name, method in METHODS.items() if not name.startswith("diffie-")}
