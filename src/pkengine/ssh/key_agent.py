"""Sign with the keys of an administrator's ssh-agent (draft-ietf-sshm-ssh-agent)."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from twisted.conch.error import ConchError
from twisted.conch.ssh.agent import (
    AGENT_SIGN_RESPONSE,
    AGENTC_SIGN_REQUEST,
    SSHAgentClient,
)
from twisted.internet.defer import Deferred, TimeoutError, fail
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IReactorTime, IReactorUNIX
from twisted.python.failure import Failure

from pkengine.errors import InvalidKeyText, KeyAgentError
from pkengine.keys import SshFingerprint, SshPublicKey
from pkengine.ssh.login_signature import SessionBinding
from pkengine.ssh.wire import MalformedMessage, Reader, string

#: The longest path of a UNIX socket on Linux.
_MAX_PATH = 107
#: Which hash an RSA key is to sign with.
_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}


class IReactor(IReactorTime, IReactorUNIX):
    """What is needed of a reactor: time and UNIX sockets."""


class Signer(Protocol):
    """Signs logins with keys that stay where they are.

    Attributes:
        keys: those that it has.
    """

    @property
    def keys(self) -> Sequence[SshPublicKey]:
        """Give them, the most wanted first."""

    def sign(
        self, key: SshPublicKey, signed: bytes, algorithm: str, binding: SessionBinding
    ) -> Deferred[bytes]:
        """Sign.

        Args:
            key: one of `keys`.
            signed: what is to be signed, see `LoginRequest`.
            algorithm: the signature algorithm, of which only RSA keys have a choice.
            binding: the proof of the host that it is for.

        Returns:
            A Deferred of the signature in the wire format; it fails with `KeyAgentError`.
        """


class _Client(SSHAgentClient):
    """Conch's client, which by itself lets those wait for ever whose agent went away."""

    transport: Any
    is_lost = False

    def dataReceived(self, data: bytes) -> None:
        """Take what comes, if it is an answer."""
        try:
            super().dataReceived(data)
        except (IndexError, TypeError):  # nobody asked, or a message without a type
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.is_lost = True
        waiting, self.deferreds = list(self.deferreds), []
        for answer in waiting:
            answer.errback(Failure(KeyAgentError("the ssh-agent went away")))


class KeyAgent:
    """An agent to which a connection is open.

    Attributes:
        keys: those that it has, or of them only what was asked for.
    """

    def __init__(self, client: _Client, keys: tuple[SshPublicKey, ...]) -> None:
        self.keys = keys
        self._client = client

    def sign(
        self,
        key: SshPublicKey,
        signed: bytes,
        algorithm: str,
        binding: SessionBinding | None = None,
    ) -> Deferred[bytes]:
        """Let the agent sign, which may ask its owner; see `Signer`."""
        if self._client.is_lost:
            return fail(KeyAgentError("the ssh-agent went away"))
        flags = _FLAGS.get(algorithm.partition("-cert-v01@")[0], 0)
        body = string(key.blob) + string(signed) + struct.pack(">I", flags)
        answer: Deferred[bytes] = self._client.sendRequest(AGENTC_SIGN_REQUEST, body)

        def read(message: bytes) -> bytes:
            if message[:1] != bytes((AGENT_SIGN_RESPONSE,)):
                raise KeyAgentError(f"the ssh-agent does not sign with {key.fingerprint()}")
            return Reader(message[1:]).string()

        def explain(failure: Failure) -> Any:
            failure.trap(ConchError, MalformedMessage)
            raise KeyAgentError(f"the ssh-agent does not sign with {key.fingerprint()}")

        return answer.addCallback(read).addErrback(explain)

    def close(self) -> None:
        """End the connection to the agent."""
        self._client.transport.loseConnection()

    def __repr__(self) -> str:
        return f"<KeyAgent with {len(self.keys)} keys>"


async def connect_key_agent(
    reactor: IReactor,
    path: str | None = None,
    *,
    only: SshFingerprint | None = None,
    timeout_s: float = 5.0,
) -> KeyAgent:
    """Connect to an agent and ask which keys it has.

    Args:
        reactor: gives time and the network.
        path: its socket; None means what ``SSH_AUTH_SOCK`` says.
        only: the one key that is wanted.
        timeout_s: how long its answer is waited for.

    Raises:
        KeyAgentError: there is no agent, it does not answer, or it has no such key.
    """
    path = path or os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise KeyAgentError(
            "There is no ssh-agent: SSH_AUTH_SOCK is not set. Start one with 'ssh-agent', add a "
            "key with 'ssh-add', and try again."
        )
    if len(os.fsencode(path)) > _MAX_PATH:
        raise KeyAgentError(f"The path {path} is too long for the socket of an ssh-agent.")
    client = _Client()
    try:
        await connectProtocol(UNIXClientEndpoint(reactor, path), client)
    except Exception as error:  # what connecting fails with has no common root
        raise KeyAgentError(f"No ssh-agent can be reached at {path}: {error}") from error
    try:
        identities = await client.requestIdentities().addTimeout(timeout_s, reactor)
        keys = tuple(SshPublicKey.from_blob(blob) for blob, _ in identities)
    except TimeoutError:
        client.transport.loseConnection()
        raise KeyAgentError(
            f"The ssh-agent at {path} did not answer within {timeout_s:g} s."
        ) from None
    except (ConchError, InvalidKeyText, KeyAgentError, struct.error, TypeError) as error:
        client.transport.loseConnection()
        raise KeyAgentError(f"What listens at {path} is no ssh-agent.") from error
    if only is not None:
        keys = tuple(key for key in keys if only.matches(key))
    if not keys:
        client.transport.loseConnection()
        wanted = "no key" if only is None else f"no key {only}"
        raise KeyAgentError(f"The ssh-agent at {path} has {wanted}. Add it with 'ssh-add'.")
    return KeyAgent(client, keys)
