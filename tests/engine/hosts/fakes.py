"""The engine's hosts without a network: everything answers when the test says so."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.peer import Authenticated, TrustedPeer
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel.verbs import (
    GET_CAPABILITIES,
    GET_HARDWARE_INFO,
    GET_STATS,
    GET_VERSION,
    KEYS_REMOVE,
    HardwareInfo,
)
from pkengine.engine.clusters import Clusters
from pkengine.engine.deployment.steps import StepReport
from pkengine.engine.events import Events
from pkengine.engine.hosts.agent_relays import AgentRelays
from pkengine.engine.hosts.agent_ways import AgentWays
from pkengine.engine.hosts.known_keys import KnownKeys
from pkengine.engine.hosts.monitor import Monitor
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.hosts.ssh_ways import SshWays
from pkengine.engine.hosts.watch import Patience
from pkengine.engine.jobs import Jobs
from pkengine.engine.model import (
    Host,
    HostStatus,
    NewHost,
    Origin,
    SshLogin,
    StepStatus,
    WayChoice,
)
from pkengine.engine.store import Store
from pkengine.errors import ChannelClosed, HostKeyMismatch
from pkengine.keys import Pin, Secret, SshFingerprint, SshPublicKey
from pkengine.ssh import HostKeyJudgement, HostKeyPolicy, SshTarget
from tests.engine.hosts.agent_answers import CAPABILITIES, STATS
from tests.engine.hosts.keys import host_trust
from tests.engine.store.inline import InlineReactor, InlineThreads

HOST_KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
)
OTHER_KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"
)
OWN_PIN = Pin(b"\x01" * 32)
AGENT_PIN = Pin(b"\x02" * 32)
PASSWORD = "correct horse battery staple"
ADMIN = Origin(user="admin@internal", address="192.0.2.9", correlation_id="c-1")
EPOCH = 1_767_225_600.0


class FakeSsh:
    """An SSH connection whose host key was judged."""

    authenticated_by = "password"

    def __init__(self, judgement: HostKeyJudgement, through: FakeSsh | None = None) -> None:
        self.judgement = judgement
        self.through = through
        self.is_open = True
        self.proved: Any = None

    async def prove_host_keys(self, *, timeout_s: float) -> Any:
        await _go(self.proved)
        return self.proved

    async def close(self) -> None:
        self.is_open = False
        if self.through is not None:
            await self.through.close()


class FakeChannel:
    """A channel to an agent; `answers` maps a verb to a value, an error or a Deferred."""

    def __init__(self, peer: TrustedPeer) -> None:
        self.authenticated = Authenticated(peer, "pin", facts={"tls_version": "TLSv1.3"})
        self.closed: Deferred[object] = Deferred()
        self.calls: list[str] = []
        self.is_open = True
        self.answers: dict[str, Any] = {
            GET_CAPABILITIES: CAPABILITIES,
            GET_HARDWARE_INFO: HardwareInfo(system_uuid="u"),
            GET_VERSION: SimpleNamespace(version="0.1"),
            GET_STATS: STATS,
            KEYS_REMOVE: None,
        }

    async def call(self, method: str, params: Any = None, **options: Any) -> Any:
        self.calls.append(method)
        if not self.is_open:
            raise ChannelClosed("The agent closed the channel.")
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return await answer if isinstance(answer, Deferred) else answer

    def lose(self) -> None:
        """End it, from whichever side."""
        if self.is_open:
            self.is_open = False
            self.closed.callback(ChannelClosed("The agent closed the channel."))

    close = abort = lose


def upload(status: StepStatus, progress: int) -> StepReport:
    return StepReport(name="upload", description="Send", status=status, progress=progress)


@dataclass
class FakeAccess:
    """A network on which each thing goes as the attribute of its name says.

    An attribute may be an error, which is raised, or a Deferred, which is waited for.
    """

    log_in_outcome: Any = None
    deploy_outcome: Any = None
    connect_outcome: Any = None
    connect_to_new_outcome: Any = None
    host_keys_outcome: Any = None
    undeploy_outcome: Any = None
    undeployed: list[Any] = field(default_factory=list)
    shown: SshPublicKey = HOST_KEY
    proved: Any = None
    offered: list[SshPublicKey] = field(default_factory=lambda: [HOST_KEY])
    fingerprints: tuple[SshFingerprint, ...] = ()
    pin: Pin = AGENT_PIN
    judged_as: Any = None
    next_log_in_outcome: Any = None
    published_outcome: Any = None
    logins: list[tuple[SshTarget, HostKeyPolicy, Secret | None, bool]] = field(
        default_factory=list
    )
    agents: list[Any] = field(default_factory=list)
    connections: list[FakeSsh] = field(default_factory=list)
    channels: list[FakeChannel] = field(default_factory=list)
    new_channels: list[FakeChannel] = field(default_factory=list)
    dials: int = 0
    dialled: list[tuple[str, int]] = field(default_factory=list)
    dialling: int = 0
    most_dialling: int = 0

    async def log_in(
        self,
        target: SshTarget,
        policy: HostKeyPolicy,
        *,
        password: Secret | None,
        use_key: bool,
        agent: Any = None,
        through: Any = None,
    ) -> FakeSsh:
        self.logins.append((target, policy, password, use_key))
        self.agents.append(agent)
        await _go(self.log_in_outcome)
        if self.next_log_in_outcome is not None:
            await _go(self.next_log_in_outcome())
        judgement = HostKeyJudgement(self.shown, self.judged_as or policy.source)
        connection = FakeSsh(judgement, through)
        connection.proved = self.proved
        self.connections.append(connection)
        return connection

    async def judge(
        self, target: SshTarget, policy: HostKeyPolicy, *, through: Any = None
    ) -> HostKeyJudgement:
        raise HostKeyMismatch("There is no certificate.")

    async def published(self, name: str) -> tuple[SshFingerprint, ...]:
        await _go(self.published_outcome)
        return self.fingerprints

    async def host_keys(
        self, address: str, port: int, *, through: Any = None
    ) -> list[SshPublicKey]:
        await _go(self.host_keys_outcome)
        return self.offered

    async def deploy(self, connection: Any, host: Host, *, report: Any, verify: Any) -> Any:
        report(upload(StepStatus.STARTED, 50))
        await _go(self.deploy_outcome)
        await _go(self.connect_to_new_outcome)
        channel = FakeChannel(TrustedPeer(str(host.id), self.pin))
        self.new_channels.append(channel)
        try:
            await verify(self.pin, channel)
        finally:
            channel.close()
        report(upload(StepStatus.FINISHED, 100))
        return SimpleNamespace(pin=self.pin, key_refusal="")

    async def undeploy(self, connection: Any) -> None:
        await _go(self.undeploy_outcome)
        self.undeployed.append(connection)

    async def connect(self, host: Host) -> FakeChannel:
        self.dials += 1
        self.dialled.append((host.address, host.port))
        self.dialling += 1
        self.most_dialling = max(self.dialling, self.most_dialling)
        try:
            await _go(self.connect_outcome)
        finally:
            self.dialling -= 1
        channel = FakeChannel(TrustedPeer(str(host.id), self.pin))
        self.channels.append(channel)
        return channel


async def _go(outcome: Any) -> None:
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, Deferred):
        await outcome


class HostsTestCase(SynchronousTestCase):
    """Has an engine's hosts on a database of its own, in no time."""

    patience = Patience(poll_s=10.0, grace_s=60.0, first_pause_s=1.0, longest_pause_s=16.0)
    dials_at_once = 64
    default_way = WayChoice()
    is_dialled = True

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.clock = Clock()
        self.clock.advance(EPOCH)
        self.access = FakeAccess()
        self.start()

    def start(self) -> None:
        """Start an engine on the database."""
        self.store = self.now(
            Store.open(InlineReactor(), f"sqlite:///{self.path}", threads=InlineThreads())
        )
        self.events = Events(self.store, self.clock)
        self.jobs = Jobs(self.store, self.clock)
        self.trust = MemoryTrustStore()
        self.registry = HostRegistry(self.store, self.events, host_trust(self.trust), self.clock)
        self.monitor = Monitor(
            self.registry,
            self.access.connect,
            self.clock,
            patience=self.patience,
            dials_at_once=self.dials_at_once,
            uniform=lambda: 1.0,
        )
        self.relays = AgentRelays(self.clock)
        known_keys = KnownKeys(self.store, self.events, self.clock)
        self.hosts = Hosts(
            OperationContext(
                registry=self.registry,
                clusters=Clusters(self.store),
                events=self.events,
                jobs=self.jobs,
                access=self.access,
                ways=SshWays(self.access, known_keys, self.relays),
                monitor=self.monitor,
                agent_ways=AgentWays(self.default_way, is_dialled=self.is_dialled),
                own_pin=OWN_PIN,
                clock=self.clock,
            ),
            known_keys,
        )
        self.now(self.jobs.abort_unfinished())
        self.now(self.hosts.start())
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop the engine in order."""
        self.now(self.hosts.stop())
        self.now(self.store.close())

    def crash(self) -> None:
        """Let go of everything, as a process does that is killed, and start again."""
        self.now(self.store.close())
        self.access = FakeAccess()
        self.start()

    def now(self, work: Any) -> Any:
        """Give the result of a coroutine that is over by now."""
        return self.successResultOf(Deferred.fromCoroutine(work))

    def refusal(self, work: Any, error: type[Exception]) -> str:
        """Give the text with which a coroutine has failed by now."""
        return str(self.failureResultOf(Deferred.fromCoroutine(work), error).value)

    def add(self, name: str = "h1", *, activate: bool = True, **changes: Any) -> Host:
        """Add a host with a password, and wait for the request's answer."""
        login = changes.pop("ssh", SshLogin(password=Secret(PASSWORD)))
        address = changes.pop("address", f"{name}.example.org")
        new = NewHost(name=name, address=address, ssh=login, activate=activate, **changes)
        host, _ = self.now(self.hosts.admission.add(new, ADMIN))
        return host

    def status(self, host_id: uuid.UUID) -> HostStatus:
        return self.now(self.hosts.get(host_id)).status

    def log(self) -> list[tuple[int, str]]:
        """Give the codes and texts of all events, the oldest first."""
        events = self.now(self.events.list(newest_first=False, limit=None))
        return [(event.code, event.description) for event in events]

    def codes(self) -> list[int]:
        return [code for code, _ in self.log()]
