"""The engine's hosts over real TLS: what a live connection does when trust ends."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from unittest import skipIf

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.trial.unittest import TestCase

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.shared_key import MemorySharedKeys
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import Channel, ChannelListener, Verbs, listen_channel
from pkengine.channel.verbs import (
    GET_CAPABILITIES,
    GET_HARDWARE_INFO,
    GET_STATS,
    GET_VERSION,
    KEYS_REMOVE,
    AgentVersion,
    HardwareInfo,
    HostStats,
    Nothing,
    RemoveKey,
)
from pkengine.engine.clusters import Clusters
from pkengine.engine.events import Events
from pkengine.engine.hosts.agent_relays import AgentRelays
from pkengine.engine.hosts.agent_ways import AgentWays
from pkengine.engine.hosts.arrivals import Arrivals
from pkengine.engine.hosts.dial_in import DialIn
from pkengine.engine.hosts.known_keys import KnownKeys
from pkengine.engine.hosts.monitor import Monitor
from pkengine.engine.hosts.network import NetworkAccess
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.hosts.ssh_logins import SshLogins
from pkengine.engine.hosts.ssh_ways import SshWays
from pkengine.engine.hosts.watch import Patience
from pkengine.engine.jobs import Jobs
from pkengine.engine.model import Host, HostSsh, HostStatus, JumpHost, WayChoice
from pkengine.engine.store import Store
from pkengine.errors import AuthenticationError, ChannelError
from pkengine.keys import KeyPair, Pin
from pkengine.ssh import SshKeyRing
from tests.engine.hosts.agent_answers import CAPABILITIES, STATS
from tests.engine.hosts.fakes import ADMIN
from tests.engine.hosts.keys import host_trust, pinned
from tests.ssh.openssh import USER, OpenSshServer, is_available

ENGINE_KEY = KeyPair.generate("engine")
AGENT_KEY = KeyPair.generate("agent")


class Agent:
    """The agent of a host: the real channel, and answers that are always the same."""

    def __init__(self) -> None:
        self.trust = MemoryTrustStore([TrustedPeer("engine", ENGINE_KEY.pin)])
        self.channels: list[Channel] = []
        self.verbs = Verbs()
        for verb, answer in {
            GET_CAPABILITIES: CAPABILITIES,
            GET_HARDWARE_INFO: HardwareInfo(),
            GET_VERSION: AgentVersion("0.1", "3.11", "", 0.0, 1),
        }.items():
            self.verbs.add(verb, Nothing, lambda params, channel, answer=answer: answer)
        self.asked: DeferredQueue[Channel] = DeferredQueue()
        self.verbs.add(GET_STATS, Nothing, self.statistics)
        self.verbs.add(KEYS_REMOVE, RemoveKey, self.remove_key)

    async def listen(self, port: int = 0) -> ChannelListener:
        return await listen_channel(
            reactor,
            TCP4ServerEndpoint(reactor, port, interface="127.0.0.1"),
            PinAuthenticator(AGENT_KEY, self.trust),
            verbs=self.verbs,
            on_channel=self.channels.append,
        )

    def statistics(self, params: Nothing, channel: Channel) -> HostStats:
        self.asked.put(channel)
        return STATS

    def remove_key(self, params: RemoveKey, channel: Channel) -> None:
        self.trust.remove(Pin.parse(params.pin))


class HostsTestCase(TestCase):
    """Has the engine's hosts, on the real network, and one agent that listens."""

    dial_in: DialIn | None = None

    async def setUp(self) -> None:
        state = Path(self.mktemp())
        state.mkdir(mode=0o700)
        self.agent = Agent()
        self.listener = await self.agent.listen()
        self.port = self.listener.getHost().port
        self.store = await Store.open(reactor, f"sqlite:///{state / 'engine.db'}")
        self.events = Events(self.store, reactor)
        self.trust, self.secrets = MemoryTrustStore(), MemorySharedKeys()
        self.host_trust = host_trust(self.trust, self.secrets)
        self.registry = HostRegistry(self.store, self.events, self.host_trust, reactor)
        self.arrivals = Arrivals()
        self.ssh_keys = SshKeyRing(state / "ssh")
        known_keys = KnownKeys(self.store, self.events, reactor)
        ways = SshWays(SshLogins(reactor, self.ssh_keys), known_keys, AgentRelays(reactor))
        self.access = NetworkAccess(
            reactor,
            key_pair=ENGINE_KEY,
            name="engine",
            ssh_keys=self.ssh_keys,
            trust=self.host_trust,
            arrivals=self.arrivals,
            ways=ways,
            bundles=state / "bundles",
            dial_in=self.dial_in,
        )
        self.monitor = Monitor(
            self.registry,
            self.access.connect,
            reactor,
            patience=Patience(first_pause_s=0.05, longest_pause_s=0.1, grace_s=0.2),
        )
        self.jobs = Jobs(self.store, reactor)
        self.hosts = Hosts(
            OperationContext(
                registry=self.registry,
                clusters=Clusters(self.store),
                events=self.events,
                jobs=self.jobs,
                access=self.access,
                ways=ways,
                monitor=self.monitor,
                agent_ways=AgentWays(WayChoice(), is_dialled=True),
                own_pin=ENGINE_KEY.pin,
                clock=reactor,
            ),
            known_keys,
        )
        self.waiting: list[tuple[HostStatus, Deferred[Host]]] = []
        self.registry.subscribe(self.changed, lambda host: None)
        await self.hosts.start()

    async def tearDown(self) -> None:
        await self.hosts.stop()
        await self.store.close()
        await self.listener.stopListening()

    def changed(self, host: Host) -> None:
        for entry in list(self.waiting):
            if entry[0] is host.status:
                self.waiting.remove(entry)
                entry[1].callback(host)

    def becomes(self, status: HostStatus) -> Deferred[Host]:
        reached: Deferred[Host] = Deferred()
        self.waiting.append((status, reached))
        return reached

    async def know(self, status: HostStatus, **changes: Any) -> Host:
        """Put a host with the agent's key into the database, as after an installation."""
        host = Host(
            cluster_id=(await Clusters(self.store).default()).id,
            status=status,
            port=self.port,
            **{"id": uuid.uuid4(), "name": "h1", "address": changes.get("name", "127.0.0.1")}
            | {"keys": pinned(AGENT_KEY.pin)}
            | changes,
        )
        return await self.registry.insert(host, lambda host: [], also=lambda connection: None)

    async def up(self) -> Host:
        up = self.becomes(HostStatus.UP)
        await self.know(HostStatus.INITIALIZING)
        return await up


class NetworkTests(HostsTestCase):
    async def test_a_host_is_up_by_mutual_tls_1_3_and_its_key(self) -> None:
        host = await self.up()
        self.assertEqual(host.capabilities, CAPABILITIES)
        authenticated = self.hosts.authenticated(host.id)
        self.assertEqual(authenticated.peer.key, AGENT_KEY.pin)
        self.assertEqual(authenticated.peer.name, str(host.id))
        self.assertEqual(authenticated.facts["tls_version"], "TLSv1.3")

    async def test_a_pin_that_is_taken_away_ends_the_live_connection(self) -> None:
        host = await self.up()
        lost = self.becomes(HostStatus.CONNECTING)
        self.trust.remove(AGENT_KEY.pin)
        await lost
        self.assertIsNone(self.hosts.authenticated(host.id))

    async def test_a_restarted_agent_is_found_again(self) -> None:
        await self.up()
        port = self.listener.getHost().port
        lost, back = self.becomes(HostStatus.CONNECTING), self.becomes(HostStatus.UP)
        await self.listener.stopListening()
        host = await lost
        self.assertIn("h1", host.status_detail)
        self.listener = await self.agent.listen(port)
        await back

    async def test_an_agent_that_stays_away_is_non_responsive_with_the_reason(self) -> None:
        await self.up()
        gone = self.becomes(HostStatus.NON_RESPONSIVE)
        await self.listener.stopListening()
        host = await gone
        self.assertIn("h1", host.status_detail)
        self.assertNotIn(str(host.id), host.status_detail)

    async def test_an_agent_with_another_key_is_not_the_host(self) -> None:
        gone = self.becomes(HostStatus.NON_RESPONSIVE)
        await self.know(HostStatus.INITIALIZING, keys=pinned(KeyPair.generate("other").pin))
        await gone
        self.assertEqual(self.agent.channels, [])

    async def test_an_unproved_key_is_accepted_for_the_proof_only(self) -> None:
        host = await self.know(HostStatus.INSTALLING, keys=())
        async with self.access.expecting(host, AGENT_KEY.pin) as connect:
            channel = await connect()
            stats = await channel.call(GET_STATS, Nothing(), result_type=type(STATS))
            self.assertEqual(stats, STATS)
            with self.assertRaises((AuthenticationError, ChannelError)):
                await self.access.connect(host)
            channel.close()

    async def behind(self, *options: str) -> tuple[OpenSshServer, HostSsh]:
        """Give a jump host, and how a host is reached that is behind it."""
        bastion = OpenSshServer(Path(self.mktemp()).absolute(), options=options)
        bastion.start(self.ssh_keys.newest.authorized_keys_line)
        self.addCleanup(lambda: Deferred.fromCoroutine(bastion.stop()))
        return bastion, HostSsh(jumps=(JumpHost("127.0.0.1", bastion.port, USER),))

    @skipIf(not is_available(), "OpenSSH's sshd is not installed (Debian: openssh-server)")
    async def test_an_agent_behind_a_jump_host_is_reached_through_it(self) -> None:
        bastion, ssh = await self.behind("LogLevel DEBUG1")
        up = self.becomes(HostStatus.UP)
        host = await self.know(HostStatus.INITIALIZING, ssh=ssh)
        await up
        self.assertEqual(self.hosts.authenticated(host.id).peer.key, AGENT_KEY.pin)
        self.assertIn(b"direct-tcpip", bastion.log)
        (known,) = await self.hosts.known_keys.list()
        self.assertEqual(known.line.key, bastion.host_key())
        # The connection to the jump host goes with the channel.
        (process,) = bastion.processes
        await self.hosts.maintenance.deactivate(host.id, ADMIN)
        await process.ended

    @skipIf(not is_available(), "OpenSSH's sshd is not installed (Debian: openssh-server)")
    async def test_a_jump_host_that_refuses_says_so_in_the_status(self) -> None:
        _, ssh = await self.behind("AllowTcpForwarding no")
        gone = self.becomes(HostStatus.NON_RESPONSIVE)
        await self.know(HostStatus.INITIALIZING, ssh=ssh)
        host = await gone
        self.assertIn("on the way, does not allow that", host.status_detail)

    async def test_a_removed_host_has_dropped_the_engines_key(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        await self.hosts.maintenance.remove(host.id, ADMIN)
        self.assertEqual(list(self.agent.trust.peers()), [])
        self.assertEqual(list(self.trust.peers()), [])
        (event,) = await self.events.list()
        self.assertIn("no longer", event.description)
