"""The way to a host by SSH: the machines on it, and what each key is compared with.

What an administrator gave for a host, or what is stored with it, comes from the caller.  To
that comes what is known beside it: imported keys, authorities, revoked keys; and DNS, where
all else says nothing.  The machines on the way are judged in the same manner, one after the
other, each before a credential is sent to it.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from pkengine.engine.hosts import request
from pkengine.engine.hosts.access import LoggedIn, SshAccess
from pkengine.engine.hosts.agent_relays import AgentRelays
from pkengine.engine.hosts.known_keys import KnownKeys
from pkengine.engine.model import (
    Host,
    HostKeySource,
    JumpLogin,
    KeyStanding,
    Origin,
    ShownKey,
    SshLogin,
)
from pkengine.errors import HostKeyRefused, SshError
from pkengine.keys import SshPublicKey
from pkengine.ssh import HostKeyPolicy, SshTarget
from pkengine.ssh.key_agent import Signer


class SshWays:
    """Leads to hosts.

    Args:
        access: connects to one SSH server.
        known: which keys are known, and which are revoked.
        relays: to the ssh-agents of administrators.
    """

    def __init__(self, access: SshAccess, known: KnownKeys, relays: AgentRelays) -> None:
        self._access = access
        self._relays = relays
        self._known = known

    async def log_in(self, host: Host, login: SshLogin, origin: Origin) -> LoggedIn:
        """Go the way to a host, judge its key, and only then log in.

        Args:
            host: as it is stored, or as a request wants it to be.
            login: what a request says.
            origin: who asks.

        Raises:
            BadRequest: a password is needed and missing.
            NotFound: the relay that is to sign is not there.
            SshError: a machine on the way, or the host, cannot be reached, shows a key that
                must not be trusted, or refuses the login.
        """
        agent = self._relays.get(login.key_agent, origin) if login.key_agent else None
        use_key = agent is None and request.uses_key(login)
        policy = await self.policy(host)
        async with self._through(request.way(host.ssh, login), origin, agent) as way:
            connection = await self._access.log_in(
                SshTarget(host.address, host.ssh.port, login.user or host.ssh.user),
                policy,
                password=login.password,
                use_key=use_key,
                agent=agent,
                through=way.end,
            )
            way.keep()
        return connection

    async def open(self, host: Host, origin: Origin) -> LoggedIn | None:
        """Go the way to a host without going to it; None where it is the direct one.

        Raises:
            SshError: as for `log_in`.
        """
        async with self._through(request.way(host.ssh, SshLogin()), origin) as way:
            return way.keep()

    async def host_keys(
        self, address: str, port: int, jumps: Sequence[JumpLogin], origin: Origin
    ) -> list[SshPublicKey]:
        """Fetch the keys that an SSH server shows; none is trusted by that.

        Raises:
            SshError: as for `log_in`.
        """
        async with self._through(jumps, origin) as way:
            return await self._access.host_keys(address, port, through=way.end)

    async def shown_keys(
        self, address: str, port: int, jumps: Sequence[JumpLogin], origin: Origin
    ) -> list[ShownKey]:
        """Fetch the keys that an SSH server shows, with what is known of each.

        Raises:
            SshError: as for `log_in`.
        """
        policy = await self._policy(address, port, HostKeyPolicy())
        async with self._through(jumps, origin) as way:
            keys = await self._access.host_keys(address, port, through=way.end)
            certified: SshPublicKey | None = None
            if policy.authorities:
                with contextlib.suppress(HostKeyRefused):
                    target = SshTarget(address, port)
                    judgement = await self._access.judge(target, policy, through=way.end)
                    certified = judgement.key if judgement.certificate else None
        return _with_standing(keys, policy, certified)

    async def policy(self, host: Host) -> HostKeyPolicy:
        """Tell what a host's key is compared with.

        Raises:
            DnsError: DNS was to be asked, and did not answer.
        """
        own = request.host_key_policy(host.ssh)
        return await self._policy(host.address, host.ssh.port, own)

    async def revoked(self, host: Host) -> tuple[SshPublicKey, ...]:
        """Tell which keys a host must not have."""
        known = await self._known.about(host.address)
        return known.policy(host.address, host.ssh.port).revoked

    async def _policy(self, address: str, port: int, own: HostKeyPolicy) -> HostKeyPolicy:
        known = (await self._known.about(address)).policy(address, port)
        policy = replace(
            own,
            stored=own.stored or known.stored,
            authorities=known.authorities,
            revoked=known.revoked,
        )
        if policy.source != "first_use" or _is_ip_address(address):
            return policy
        return replace(policy, published=await self._access.published(address))

    @contextlib.asynccontextmanager
    async def _through(
        self, jumps: Sequence[JumpLogin], origin: Origin, agent: Signer | None = None
    ) -> AsyncIterator[_Way]:
        way = _Way()
        try:
            for jump in jumps:
                way.end = await self._jump(jump, way.end, origin, agent)
            yield way
        finally:
            await way.close()

    async def _jump(
        self, jump: JumpLogin, through: LoggedIn | None, origin: Origin, agent: Signer | None
    ) -> LoggedIn:
        at = jump.host
        try:
            own = HostKeyPolicy(given=jump.public_key or jump.fingerprint)
            policy = await self._policy(at.address, at.port, own)
            connection = await self._access.log_in(
                SshTarget(at.address, at.port, at.user),
                policy,
                password=jump.password,
                use_key=jump.password is None,
                agent=agent if jump.password is None else None,
                through=through,
            )
        except SshError as error:
            error.jump = str(at)
            raise
        try:
            await self._known.learn_jump(at, connection.judgement, origin)
        except BaseException:
            await connection.close()
            raise
        return connection


class _Way:
    """The connection to the last machine on the way, which closes those before it."""

    def __init__(self) -> None:
        self.end: LoggedIn | None = None

    def keep(self) -> LoggedIn | None:
        """Hand it over."""
        end, self.end = self.end, None
        return end

    async def close(self) -> None:
        """Close it, unless it was handed over."""
        if self.end is not None:
            await self.end.close()


def _with_standing(
    keys: Sequence[SshPublicKey], policy: HostKeyPolicy, certified: SshPublicKey | None
) -> list[ShownKey]:
    shown = []
    for key in dict.fromkeys([*keys, *([certified] if certified else [])]):
        source: HostKeySource | None = None
        if key == certified:
            source = HostKeySource.CERTIFICATE
        elif policy.source != "first_use" and policy.judge(key) is not None:
            source = request.source_of(policy.source)
        if key in policy.revoked:
            shown.append(ShownKey(key=key, standing=KeyStanding.REVOKED))
        elif source is not None:
            shown.append(ShownKey(key=key, standing=KeyStanding.KNOWN, source=source))
        else:
            shown.append(ShownKey(key=key))
    is_known = any(each.standing is KeyStanding.KNOWN for each in shown)
    if policy.source == "first_use" or is_known:
        return shown
    return [
        replace(each, standing=KeyStanding.MISMATCH)
        if each.standing is KeyStanding.UNKNOWN
        else each
        for each in shown
    ]


def _is_ip_address(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
