"""The network side of a host: deploy its agent, and connect to it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, FailureGroup, TimeoutError, race
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.threads import deferToThread

from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.peer import Role, TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import connect_channel
from pkengine.engine.deployment.bundle import build_bundle
from pkengine.engine.deployment.deployment import (
    DeployedAgent,
    DeploymentPlan,
    Exchange,
    Initialized,
    deploy,
    undeploy,
)
from pkengine.engine.deployment.engine_key import replace_key
from pkengine.engine.deployment.own_upgrade import OwnUpgradePlan, upgrade_itself
from pkengine.engine.deployment.upgrade import reboot, restart, upgrade
from pkengine.engine.hosts.access import LoggedIn, Report, Verify, VerifyVersion
from pkengine.engine.hosts.agent_report import AgentChannel
from pkengine.engine.hosts.arrivals import Arrivals
from pkengine.engine.hosts.dial_in import NOWHERE_TO_DIAL, DialIn
from pkengine.engine.hosts.ssh_ways import SshWays
from pkengine.engine.hosts.trust import AgentKey, HostTrust, peer_name
from pkengine.engine.hosts.way_trial import WayTrial
from pkengine.engine.model import Host, HostConnection, Origin
from pkengine.errors import ChannelError, Conflict, SshAuthenticationFailed
from pkengine.keys import KeyPair, Pin
from pkengine.ssh import SshConnection, SshCredentials, SshIdentity, SshKeyRing, connect_again
from pkengine.ssh.authorized_keys import AuthorizedKey

CONNECT_TIMEOUT_S = 20.0
#: How long an agent that dials in is waited for.
ARRIVAL_TIMEOUT_S = 20.0


class NetworkAccess:
    """`HostAccess` for real.

    Args:
        reactor: the reactor.
        key_pair: what agents know this engine by.
        name: what agents call this engine; unlike that of any other engine.
        ssh_keys: are let in on the hosts.
        trust: the keys of the hosts.
        arrivals: the agents that have dialled in.
        dial_in: what hosts that are installed are told about dialling, or None.
        ways: lead to the agents of hosts that are behind others.
        bundles: the folder for the archives that carry the agent.
        key_limits: the options of this engine's line in ``authorized_keys``; None leaves those
            that the line has on a host.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        key_pair: KeyPair,
        name: str,
        ssh_keys: SshKeyRing,
        trust: HostTrust,
        arrivals: Arrivals,
        ways: SshWays,
        bundles: Path,
        dial_in: DialIn | None = None,
        key_limits: Sequence[str] | None = None,
    ) -> None:
        self._reactor = reactor
        self._key_pair = key_pair
        self._name = name
        self._ssh_keys = ssh_keys
        self._key_limits = key_limits
        self._trust = trust
        self._trusted = PinAuthenticator(key_pair, trust.peers)
        self._arrivals = arrivals
        self._ways = ways
        self._bundles = bundles
        self._dial_in = dial_in

    async def deploy(
        self, connection: Any, host: Host, *, report: Report, verify: Verify
    ) -> DeployedAgent:
        """See `HostAccess`; nothing that goes over the SSH connection is secret."""
        agreement = self._agreement(host)

        @contextlib.asynccontextmanager
        async def expect(agent: Initialized) -> AsyncIterator[Callable[[], Awaitable[None]]]:
            key = _key(agent, agreement)
            async with self.expecting(host, key) as connect:

                async def prove() -> None:
                    channel = await connect()
                    try:
                        await verify(key, channel)
                    finally:
                        channel.close()

                yield prove

        async def prove_key() -> None:
            await self._prove_key(connection, self._ssh_keys.newest)

        return await deploy(
            connection,
            await self._plan(host),
            self._exchange(host, agreement),
            report=report,
            expect=expect,
            prove_key=prove_key,
        )

    def _agreement(self, host: Host) -> KeyAgreement | None:
        """Give this end of a new agreement on a key, where the host's mechanism takes one."""
        if host.mechanism not in SHARED_KEY_MECHANISMS:
            return None
        return KeyAgreement(
            host.mechanism, local=self._name, peer=peer_name(host.id), role=Role.ACCEPTOR
        )

    async def _prove_key(self, connection: SshConnection, identity: SshIdentity) -> None:
        await (await self._log_in_by(connection, identity)).close()

    async def _log_in_by(self, connection: SshConnection, identity: SshIdentity) -> SshConnection:
        credentials = SshCredentials(keys=(identity.private_key,))
        again = await connect_again(
            self._reactor, connection, credentials, timeout_s=CONNECT_TIMEOUT_S
        )
        if again.authenticated_key != identity.public:
            await again.close()
            raise SshAuthenticationFailed(
                f"{connection.target} lets {connection.target.user} in without any proof, so "
                "nobody can tell whether it takes this key."
            )
        return again

    async def replace_ssh_key(self, connection: Any) -> None:
        """See `HostAccess`."""
        new, old = self._ssh_keys.identities
        await replace_key(
            connection,
            self._authorized_key(new),
            old=str(old.public),
            keeps_options=self._key_limits is None,
            log_in=lambda: self._log_in_by(connection, new),
        )

    async def undeploy(self, connection: Any) -> None:
        """See `HostAccess`."""
        lines = [identity.authorized_keys_line for identity in self._ssh_keys.identities]
        await undeploy(connection, report=lambda step: None, authorized_keys=lines)

    async def _plan(self, host: Host) -> DeploymentPlan:
        return DeploymentPlan(
            bundle=await deferToThread(build_bundle, self._bundles),
            authorized_key=self._authorized_key(self._ssh_keys.newest),
            keeps_key_options=self._key_limits is None,
            agent_port=host.port,
            is_reached=host.connection is HostConnection.ENGINE_DIALS,
        )

    def _exchange(self, host: Host, agreement: KeyAgreement | None) -> Exchange:
        """Give what the agent is told of this engine."""
        own = TrustedPeer(self._name, self._key_pair.pin, frozenset({host.mechanism}))
        keys = () if agreement is not None else (own,)
        if host.connection is HostConnection.ENGINE_DIALS:
            return Exchange(keys)
        if self._dial_in is None:
            raise Conflict(NOWHERE_TO_DIAL)
        share = agreement.share if agreement is not None else None
        dial = self._dial_in.settings(
            self._name, host.mechanism, host_id=peer_name(host.id), share=share
        )
        return Exchange(keys, dial)

    def _authorized_key(self, identity: SshIdentity) -> str:
        options = tuple(self._key_limits or ())
        return str(AuthorizedKey(str(identity.public), options, identity.comment))

    async def bundle_hash(self) -> str:
        """See `HostAccess`."""
        return (await deferToThread(build_bundle, self._bundles)).hash

    async def upgrade(
        self, connection: Any, host: Host, *, report: Report, verify: VerifyVersion
    ) -> None:
        """See `HostAccess`."""
        await upgrade(connection, await self._plan(host), report=report, verify=verify)

    async def upgrade_itself(
        self, host: Host, *, report: Report, verify: Callable[[AgentChannel], Awaitable[None]]
    ) -> None:
        """See `HostAccess`."""
        bundle = await deferToThread(build_bundle, self._bundles)
        await upgrade_itself(
            lambda: self.connect(host),
            OwnUpgradePlan(bundle=bundle, agent_port=host.port),
            clock=self._reactor,
            report=report,
            verify=verify,  # type: ignore[arg-type]
        )

    async def restart_agent(self, connection: Any, host: Host) -> None:
        """See `HostAccess`."""
        await restart(connection, await self._plan(host))

    async def reboot(self, connection: Any, host: Host) -> None:
        """See `HostAccess`."""
        await reboot(connection)

    async def connect(self, host: Host) -> AgentChannel:
        """See `HostAccess`; an agent that has dialled in is not dialled, whosever turn it is."""
        arrived = self._arrivals.lease(host.id)
        if arrived is not None:
            return arrived
        if host.connection is HostConnection.AGENT_DIALS:
            return await self._arrival(host)
        return await self._connect(host, self._trusted)

    async def connect_by_either(self, host: Host) -> tuple[HostConnection, AgentChannel]:
        """See `HostAccess`; where the engine may dial, the agent may come meanwhile as well."""
        arriving = Deferred.fromCoroutine(self._arrival(host))
        connections = {host.connection, host.next_way.connection if host.next_way else None}
        if HostConnection.ENGINE_DIALS not in connections:
            return HostConnection.AGENT_DIALS, await arriving
        dialling = Deferred.fromCoroutine(self._connect(host, self._trusted))
        try:
            index, channel = await race([arriving, dialling])
        except FailureGroup as group:
            group.failures[1].raiseException()  # of the attempt to dial
        return (HostConnection.AGENT_DIALS, HostConnection.ENGINE_DIALS)[index], channel

    def trial(self, wanted: Host, living: AgentChannel) -> WayTrial:
        """See `HostAccess`."""
        return WayTrial(
            wanted,
            living,
            engine=self._name,
            engine_pin=self._key_pair.pin,
            dial_in=self._dial_in,
            arrivals=self._arrivals,
            dial=lambda host: self._connect(host, self._trusted),
            clock=self._reactor,
        )

    @contextlib.asynccontextmanager
    async def expecting(
        self, host: Host, key: AgentKey
    ) -> AsyncIterator[Callable[[], Awaitable[AgentChannel]]]:
        """Get ready for the agent of a new host; give what connects to it by that key alone.

        Raises:
            Conflict: an agent that shall dial in has the key of another host.
        """
        if host.connection is HostConnection.AGENT_DIALS:
            with self._trust.trying(host, key):
                yield lambda: self._arrival(host)
        elif isinstance(key, Pin):
            record = TrustedPeer(peer_name(host.id), key)
            only = PinAuthenticator(self._key_pair, MemoryTrustStore([record]))
            yield lambda: self._connect(host, only)
        else:
            raise ValueError("An agent that is dialled proves a pin.")

    async def _arrival(self, host: Host) -> AgentChannel:
        """Wait until the agent of a host has dialled in."""
        arriving = Deferred.fromCoroutine(self._arrivals.awaited(host.id))
        try:
            return await arriving.addTimeout(ARRIVAL_TIMEOUT_S, self._reactor)
        except TimeoutError:
            raise ChannelError(
                f"The agent of Host {host.name} has not dialled in: it does not reach this "
                "engine, or has no key that is accepted. 'pkagent status' there tells which; "
                "installing the host again gives it a key."
            ) from None

    async def _connect(self, host: Host, authenticator: PinAuthenticator) -> AgentChannel:
        through = await self._ways.open(host, Origin())
        try:
            channel = await connect_channel(
                self._reactor,
                self._endpoint(host, through),
                authenticator,
                expected=peer_name(host.id),
                timeout_s=CONNECT_TIMEOUT_S,
            )
        except BaseException as error:
            if through is not None:
                await through.close()
            if isinstance(error, ConnectingCancelledError):
                # To whoever awaits this, a connection that is given up is cancelled like any work.
                raise CancelledError from None
            raise
        if through is not None:
            channel.closed.addBoth(lambda _: _close(through))
        return channel

    def _endpoint(self, host: Host, through: LoggedIn | None) -> IStreamClientEndpoint:
        """Give what dials the agent: directly, or from the last machine on the way."""
        if through is None:
            return HostnameEndpoint(self._reactor, host.address, host.port)
        return through.endpoint(host.address, host.port)


def _close(connection: LoggedIn) -> None:
    connection.close()


def _key(agent: Initialized, agreement: KeyAgreement | None) -> AgentKey:
    if agreement is None:
        return Pin.parse(agent.pin)
    if agent.share is None:
        raise ChannelError("The agent gave no share of the key that it was to agree on.")
    return agreement.agree(agent.share)
