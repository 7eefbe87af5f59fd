"""What the engine does to hosts over the network, as its other parts see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from pkengine.engine.hosts.agent_report import AgentChannel
from pkengine.engine.hosts.trust import AgentKey
from pkengine.engine.model import Host, HostConnection
from pkengine.keys import Secret, SshFingerprint, SshPublicKey
from pkengine.ssh import HostKeyJudgement, HostKeyPolicy, HostKeyUpdate, SshTarget
from pkengine.ssh.key_agent import Signer

if TYPE_CHECKING:
    from pkengine.engine.deployment.deployment import DeployedAgent, StepReport
    from pkengine.engine.hosts.way_trial import WayTrial

Report = Callable[["StepReport"], None]
#: Examines a new agent, which has proved that key; when it returns, the key is trusted.
Verify = Callable[[AgentKey, AgentChannel], Awaitable[None]]
#: Connects to the agent, which must be of the version with that hash.
VerifyVersion = Callable[[str], Awaitable[None]]


class LoggedIn(Protocol):
    """A connection to a host whose key was judged and on which the user is logged in."""

    @property
    def judgement(self) -> HostKeyJudgement:
        """The host's key, and why it was accepted."""

    @property
    def authenticated_by(self) -> str:
        """The method that the host accepted."""

    async def prove_host_keys(self, *, timeout_s: float) -> HostKeyUpdate | None:
        """Learn which keys the host has, by its proof; None where it does not tell.

        Raises:
            SshError: it does not answer, or proves nothing.
        """

    def endpoint(self, address: str, port: int) -> IStreamClientEndpoint:
        """Give what connects to an address from there."""

    def close(self) -> Deferred[None]:
        """Close the connection."""


class SshAccess(Protocol):
    """What the engine does with one SSH server, wherever that is.

    Each way may lead through the connection to another one.
    """

    async def log_in(
        self,
        target: SshTarget,
        policy: HostKeyPolicy,
        *,
        password: Secret | None,
        use_key: bool,
        agent: Signer | None = None,
        through: Any = None,
    ) -> LoggedIn:
        """Judge the server's key, and only then log in.

        Args:
            target: where to, and as whom.
            policy: what the key is compared with.
            password: logs in; beside a key or an agent it is for sudo.
            use_key: log in by the engine's own key.
            agent: has further keys to log in by.
            through: the connection to the machine on the way.

        Raises:
            SshError: see `pkengine.ssh.connect_ssh`.
        """

    async def host_keys(
        self, address: str, port: int, *, through: Any = None
    ) -> list[SshPublicKey]:
        """Fetch the server's keys, without logging in."""

    async def judge(
        self, target: SshTarget, policy: HostKeyPolicy, *, through: Any = None
    ) -> HostKeyJudgement:
        """Judge the server's key, without logging in.

        Raises:
            SshError: as for `log_in`.
        """

    async def published(self, name: str) -> tuple[SshFingerprint, ...]:
        """Look up the fingerprints that DNSSEC vouches for; none where that is not wanted.

        Raises:
            DnsError: the resolver does not answer, or not with an answer.
        """


class HostAccess(Protocol):
    """What the engine does to hosts over the network, apart from logging in."""

    async def deploy(
        self, connection: Any, host: Host, *, report: Report, verify: Verify
    ) -> DeployedAgent:
        """Bring the agent to the host, and connect to it in the way that the host has.

        Args:
            connection: as `log_in` gave it.
            host: as it is stored; no key of it is trusted.
            report: is called with each change of a step.
            verify: is called with the channel, which is closed afterwards.

        Raises:
            DeploymentError: a step failed, and nothing is trusted.
        """

    async def undeploy(self, connection: Any) -> None:
        """Remove the agent from the host, and the SSH key of this engine.

        Raises:
            DeploymentError: a step failed; doing it again completes it.
        """

    async def replace_ssh_key(self, connection: Any) -> None:
        """Bring the new SSH key of this engine to a host; then the old one gets in no more.

        Raises:
            DeploymentError: the host refuses; the old one gets in as before.
        """

    async def bundle_hash(self) -> str:
        """Tell which version of the agent `deploy` and `upgrade` would bring."""

    async def upgrade(
        self, connection: Any, host: Host, *, report: Report, verify: VerifyVersion
    ) -> None:
        """Bring that version to a host which has another one, or put back the other one.

        Raises:
            DeploymentError: a step failed.
        """

    async def upgrade_itself(
        self, host: Host, *, report: Report, verify: Callable[[AgentChannel], Awaitable[None]]
    ) -> None:
        """Let the agent of a host replace itself by that version, or run on as it was.

        Args:
            host: as it is stored.
            report: is called with each change of a step.
            verify: examines the new agent, on a channel to it.

        Raises:
            DeploymentError: a step failed.
        """

    async def restart_agent(self, connection: Any, host: Host) -> None:
        """Start the version that is in use anew.

        Raises:
            DeploymentError: it did not start.
        """

    async def reboot(self, connection: Any, host: Host) -> None:
        """Let the host shut down and start again.

        Raises:
            SshError: it refuses.
        """

    async def connect(self, host: Host) -> AgentChannel:
        """Give a channel to the agent of a host, which has proved a key that is trusted.

        Raises:
            PkengineError: it cannot be reached, or has not dialled in, before a deadline.
        """

    async def connect_by_either(self, host: Host) -> tuple[HostConnection, AgentChannel]:
        """Connect to the agent of a host that changes its way; tell which end has dialled.

        Raises:
            AuthenticationError, ChannelError: there is no connection yet.
        """

    def trial(self, wanted: Host, living: AgentChannel) -> WayTrial:
        """Give what lets a host connect as is wanted, over a channel to its agent."""
