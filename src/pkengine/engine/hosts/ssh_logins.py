"""`SshAccess` for real: SSH connections with the engine's own key, or a password."""

from __future__ import annotations

from typing import Any

from pkengine.errors import KeyAgentError, SshAuthenticationFailed
from pkengine.keys import Secret, SshFingerprint, SshPublicKey
from pkengine.ssh import (
    HostKeyJudgement,
    HostKeyPolicy,
    SshConnection,
    SshCredentials,
    SshKeyRing,
    SshTarget,
    connect_key_agent,
    connect_ssh,
    fetch_host_keys,
    judge_host_key,
)
from pkengine.ssh.key_agent import Signer
from pkengine.ssh.sshfp import ValidatingResolver, published_fingerprints

CONNECT_TIMEOUT_S = 20.0


class SshLogins:
    """Opens SSH connections.

    Args:
        reactor: the reactor.
        keys: log in where no password is given.
        resolver: tells the fingerprints in DNS; None leaves DNS out.
        agent_socket: of an ssh-agent whose keys are offered behind those; or None.
    """

    def __init__(
        self,
        reactor: Any,
        keys: SshKeyRing,
        resolver: ValidatingResolver | None = None,
        agent_socket: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._keys = keys
        self._resolver = resolver
        self._agent_socket = agent_socket

    async def log_in(
        self,
        target: SshTarget,
        policy: HostKeyPolicy,
        *,
        password: Secret | None,
        use_key: bool,
        agent: Signer | None = None,
        through: SshConnection | None = None,
    ) -> SshConnection:
        """See `SshAccess`."""

        async def connect(credentials: SshCredentials) -> SshConnection:
            return await connect_ssh(
                self._reactor,
                target,
                policy,
                credentials,
                through=through,
                timeout_s=CONNECT_TIMEOUT_S,
            )

        if not use_key and agent is None:
            return await connect(SshCredentials(password=password))
        keys = self._keys.private_keys if use_key else ()
        if agent is not None or self._agent_socket is None:
            return await connect(SshCredentials(keys=keys, agent=agent, sudo_password=password))
        try:
            own = await connect_key_agent(self._reactor, self._agent_socket)
        except KeyAgentError as missing:
            # The key in the state folder may do.
            try:
                return await connect(SshCredentials(keys=keys, sudo_password=password))
            except SshAuthenticationFailed as refusal:
                raise SshAuthenticationFailed(f"{refusal} Also, {missing}") from missing
        try:
            return await connect(SshCredentials(keys=keys, agent=own, sudo_password=password))
        finally:
            own.close()

    async def host_keys(
        self, address: str, port: int, *, through: SshConnection | None = None
    ) -> list[SshPublicKey]:
        """See `SshAccess`."""
        return await fetch_host_keys(self._reactor, address, port, through=through)

    async def judge(
        self, target: SshTarget, policy: HostKeyPolicy, *, through: SshConnection | None = None
    ) -> HostKeyJudgement:
        """See `SshAccess`."""
        return await judge_host_key(self._reactor, target, policy, through=through)

    async def published(self, name: str) -> tuple[SshFingerprint, ...]:
        """See `SshAccess`."""
        if self._resolver is None:
            return ()
        return await published_fingerprints(self._reactor, self._resolver, name)
