"""What is signed to log in by ``publickey`` (RFC 4252 §7), and for which host; no IO.

Whoever signs for somebody else sees an octet string that begins with a session identifier.  That
tells nothing of the host, unless the signature comes with it by which the host proved in the key
exchange that this is a session of its own (as in OpenSSH's PROTOCOL.agent §1, ``session-bind``).
"""

from __future__ import annotations

from dataclasses import dataclass

from pkengine.errors import InvalidKeyText
from pkengine.keys import SshPublicKey
from pkengine.ssh.certificate import certified_key
from pkengine.ssh.signature import is_genuine
from pkengine.ssh.wire import MalformedMessage, Reader, string

MSG_USERAUTH_REQUEST = 50
_SERVICE = "ssh-connection"
_METHOD = "publickey"


@dataclass(frozen=True, slots=True)
class SessionBinding:
    """A host's proof that a session is one with it.

    Attributes:
        host_key: what the host showed: a plain key or a certificate.
        session_id: the exchange hash of the first key exchange.
        signature: of the session identifier, by the host's key.
    """

    host_key: SshPublicKey
    session_id: bytes
    signature: bytes

    @property
    def key(self) -> SshPublicKey:
        """The host's own key.

        Raises:
            MalformedMessage: what it showed is a broken certificate.
        """
        return certified_key(self.host_key)

    def is_genuine(self) -> bool:
        """Tell whether the host's key made the signature.

        Raises:
            MalformedMessage: key or signature are none.
        """
        return is_genuine(self.key, self.signature, self.session_id)


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """What is signed by a key to log in.

    Attributes:
        session_id: the session that the signature is for; it is worth nothing in another.
        user: who is logged in.
        algorithm: of the signature.
        key: what signs.
    """

    session_id: bytes
    user: str
    algorithm: str
    key: SshPublicKey

    def to_sign(self) -> bytes:
        """Write it."""
        return (
            string(self.session_id)
            + bytes((MSG_USERAUTH_REQUEST,))
            + b"".join(string(text.encode()) for text in (self.user, _SERVICE, _METHOD))
            + b"\1"
            + string(self.algorithm.encode())
            + string(self.key.blob)
        )

    @classmethod
    def parse(cls, signed: bytes) -> LoginRequest:
        """Read what somebody wants to have signed.

        Raises:
            MalformedMessage: it is something else than a login by this method.
        """
        reader = Reader(signed)
        session_id, number = reader.string(), reader.octets(1)
        try:
            user, service, method = (reader.string().decode() for _ in range(3))
            flag = reader.octets(1)
            algorithm = reader.string().decode("ascii")
            key = SshPublicKey.from_blob(reader.string())
        except (UnicodeDecodeError, InvalidKeyText) as error:
            raise MalformedMessage("a login that cannot be read") from error
        request = cls(session_id, user, algorithm, key)
        is_login = (number, flag) == (bytes((MSG_USERAUTH_REQUEST,)), b"\1")
        if not is_login or (service, method) != (_SERVICE, _METHOD) or request.to_sign() != signed:
            raise MalformedMessage("something else than a login by a key")
        return request
