"""`SshAccess` for real: SSH connections with the engine's own key, or a password."""

from __future__ import annotations

from typing import Any

from pkengine.keys import Secret, SshFingerprint, SshPublicKey
from pkengine.ssh import (
    HostKeyJudgement,
    HostKeyPolicy,
    SshConnection,
    SshCredentials,
    SshKeyRing,
    SshTarget,
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
    """

    def __init__(
        self, reactor: Any, keys: SshKeyRing, resolver: ValidatingResolver | None = None
    ) -> None:
        self._reactor = reactor
        self._keys = keys
        self._resolver = resolver

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
        keys = self._keys.private_keys if use_key else ()
        credentials = (
            SshCredentials(keys=keys, agent=agent, sudo_password=password)
            if use_key or agent is not None
            else SshCredentials(password=password)
        )
        return await connect_ssh(
            self._reactor,
            target,
            policy,
            credentials,
            through=through,
            timeout_s=CONNECT_TIMEOUT_S,
        )

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
