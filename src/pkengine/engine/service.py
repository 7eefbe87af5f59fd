"""The engine as a service: what it is made of, how it starts and how it stops.

Theory of operation.  What can fail because of how the engine was called, fails before the
reactor runs and ends the process with a sentence: the state folder and the keys when the
service is made, the port while the process may still bind any, the database when it starts.
The rest of the start takes a running reactor.  Requests that arrive meanwhile are asked to
come back.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any, TextIO

from sqlalchemy import Connection
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

import pkengine
from pkengine.auth.mechanisms import OWN_MECHANISMS, IdentityParts
from pkengine.auth.shared_key import MemorySharedKeys
from pkengine.auth.trust import MemoryTrustStore
from pkengine.engine.accounts import Accounts
from pkengine.engine.clusters import Clusters
from pkengine.engine.events import EventCode, Events
from pkengine.engine.hosts.agent_relays import AgentRelays
from pkengine.engine.hosts.agent_ways import AgentWays
from pkengine.engine.hosts.arrivals import Arrivals
from pkengine.engine.hosts.batches import HostBatches
from pkengine.engine.hosts.dial_in import DialIn
from pkengine.engine.hosts.direct_paths import DirectPaths
from pkengine.engine.hosts.entrance import Entrance
from pkengine.engine.hosts.known_keys import KnownKeys
from pkengine.engine.hosts.monitor import Monitor
from pkengine.engine.hosts.network import NetworkAccess
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.hosts.ssh_key_rotation import SshKeyRotation
from pkengine.engine.hosts.ssh_logins import SshLogins
from pkengine.engine.hosts.ssh_ways import SshWays
from pkengine.engine.hosts.trust import HostTrust
from pkengine.engine.hosts.watch import Patience
from pkengine.engine.https import listen_https, origin_of
from pkengine.engine.jobs import Jobs
from pkengine.engine.joining.entrance import JoinEntrance
from pkengine.engine.joining.host_joining import HostJoining, LastingWay
from pkengine.engine.joining.invitations import Invitations
from pkengine.engine.model import Severity, WayChoice
from pkengine.engine.rest import HttpServer, site
from pkengine.engine.rest.application import Folder
from pkengine.engine.retention import Keep, Retention
from pkengine.engine.state import StateFolder
from pkengine.engine.store import Seal, Store, open_database
from pkengine.engine.store.database import transaction
from pkengine.engine.store.hosts import has_sealed
from pkengine.engine.store.invitations import has_invitations
from pkengine.engine.trusted_proxies import TrustedProxies
from pkengine.engine.user_administration import UserAdministration
from pkengine.errors import PkengineError
from pkengine.keys import KeyPair
from pkengine.keys.files import write_atomically
from pkengine.ssh.authorized_keys import MARKER
from pkengine.ssh.key_limits import parse_limits
from pkengine.ssh.sshfp import ValidatingResolver

API_PATH = "/ovirt-engine/api"


class Engine(Service):
    """One engine.

    Args:
        reactor: runs everything.
        state: the state folder; what is missing in it is made.
        https: a port, or an endpoint of Twisted; see `listen_https`.
        trusted_proxies: who is believed about where requests come from; see
            `TrustedProxies.parse`.
        database_url: SQLAlchemy's, or None for SQLite in the state folder.
        patience: how long hosts are waited for, or None for the usual.
        terminal: where a person sits who is shown the first password, once; never a log.
        ssh_agent: the socket of an ssh-agent whose keys are offered to hosts, too.
        sshfp_resolver: the resolver that is believed about SSH keys, see
            `ValidatingResolver.parse`; None does not ask DNS.
        agent_url: where agents reach this engine; None where none dials it.
        agent_server: how they know the HTTPS server there; see `DialIn.parse`.
        authorized_keys_options: what limits the engine's key on hosts; see `parse_limits`.
        way: how hosts connect of which nothing else is said.
        require_direct: refuse every agent that dials in through a proxy that ends TLS.

        keep: how long events and jobs are kept, or None for the usual.

    Attributes:
        clock: the reactor, as what tells the time.
        state: the state folder.
        key_pair: what agents know this engine by.
        https_key_pair: what clients of the API see.
        ssh_keys: what it logs in to hosts with.
        url: the root of the API while it listens, such as
            ``https://localhost:8443/ovirt-engine/api``.
        started: fires once, when the start is complete; fails with the reason if it is not.

    Once `startService` was called it also has a `store`, `events`, `clusters`, `jobs`,
    `accounts`, `user_administration`, `hosts`, `host_batches`, `invitations` and
    `ssh_key_rotation`.

    Raises:
        EngineError: another engine has the state folder.
        KeyFileError: the state folder, or a key in it, cannot be used.
        InvalidTrustedProxies: they are malformed.
        BadRequest: there is no such way, or not without `agent_url`.
        InvalidEngineUrl, InvalidKeyText: what hosts shall be told about dialling is malformed.
        InvalidResolver: the resolver is malformed, or cannot be believed.
        InvalidKeyLimits: what limits the engine's key is malformed.
    """

    _log = Logger()

    store: Store
    events: Events
    clusters: Clusters
    jobs: Jobs
    accounts: Accounts
    user_administration: UserAdministration
    hosts: Hosts
    agent_relays: AgentRelays
    ssh_key_rotation: SshKeyRotation
    host_batches: HostBatches
    invitations: Invitations

    def __init__(
        self,
        reactor: Any,
        state: StateFolder,
        *,
        https: str,
        trusted_proxies: str = "",
        database_url: str | None = None,
        patience: Patience | None = None,
        terminal: TextIO | None = None,
        ssh_agent: str | None = None,
        sshfp_resolver: str | None = None,
        agent_url: str | None = None,
        agent_server: str | None = None,
        authorized_keys_options: str | None = None,
        keep: Keep | None = None,
        way: WayChoice | None = None,
        require_direct: bool = False,
    ) -> None:
        self._require_direct = require_direct
        self._keep = keep
        self._terminal = terminal
        self.clock = self._reactor = reactor
        self.state = state
        self.url = ""
        self.started: Deferred[None] = Deferred()
        self._https = https
        self._database_url = database_url or state.default_database_url
        self._patience = patience
        self._ssh_agent = ssh_agent
        self._port: IListeningPort | None = None
        self._starting: Deferred[None] | None = None
        self._trusted_proxies = TrustedProxies.parse(trusted_proxies)
        self._server = HttpServer(_Starting(), reactor, self._trusted_proxies)  # type: ignore[no-untyped-call]
        state.prepare()
        self._lock = state.lock()
        try:
            self.key_pair: KeyPair = state.key_pair()
            self.https_key_pair: KeyPair = state.https_key_pair()
            self.ssh_keys = state.ssh_keys(f"{MARKER}@{self.name_at_agents}")
            self._key_limits = (
                parse_limits(authorized_keys_options)
                if authorized_keys_options is not None
                else None
            )
            self._resolver = (
                ValidatingResolver.parse(sshfp_resolver) if sshfp_resolver is not None else None
            )
            self._dial_in = (
                DialIn.parse(agent_url, agent_server, own=self.https_key_pair.pin)
                if agent_url is not None
                else None
            )
            self._agent_ways = AgentWays(way or WayChoice(), is_dialled=self._dial_in is not None)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def name_at_agents(self) -> str:
        """What agents call this engine: other engines on this machine have other keys."""
        return f"{socket.gethostname()}-{self.key_pair.pin.digest[:4].hex()}"

    @property
    def agent_url(self) -> str:
        """Where agents find this engine, or empty where nobody has said."""
        return self._dial_in.url if self._dial_in is not None else ""

    def privilegedStartService(self) -> None:
        """Listen, while the process may still bind any port.

        Raises:
            EngineError: that is not possible.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        with self._logging_refusals():
            self._listen()

    def startService(self) -> None:
        """Open the database, and begin the part of the start that takes a running reactor.

        Raises:
            StoreError: the database cannot be used.
            KeyFileError: nor can the file with the key of the secrets in it.
            EngineError: the port cannot be listened on.
        """
        with self._logging_refusals():
            if self._port is None:
                self._listen()
            database = open_database(self._database_url)
            seal = self.state.seal(is_in_use=transaction(database, False, _holds_secrets))
            self._assemble(Store(self._reactor, database), seal)
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._begin)

    @contextlib.contextmanager
    def _logging_refusals(self) -> Iterator[None]:
        """Log what ends the start, for a daemon has no other way to tell; let all go."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, PkengineError):
                self._log.critical("The engine cannot start: {reason}", reason=str(error))
            if self._port is not None:
                self._port.stopListening()
            os.close(self._lock)
            raise

    def _listen(self) -> None:
        self._port = listen_https(
            self._reactor,
            self._https,
            self.https_key_pair,
            self._server,
            trusted_proxies=self._trusted_proxies,
        )
        self.url = origin_of(self._port.getHost()) + API_PATH

    def _assemble(self, store: Store, seal: Seal) -> None:
        reactor = self._reactor
        self.store = store
        self.events = Events(store, reactor)
        self.clusters = Clusters(store)
        self.jobs = Jobs(store, reactor)
        self._retention = Retention(store, reactor, self._keep)
        self.accounts = Accounts(store, reactor)
        self.user_administration = UserAdministration(store, self.accounts, self.events, reactor)
        trust = HostTrust(MemoryTrustStore(), MemorySharedKeys(), seal)
        identity = IdentityParts(self.key_pair, trust.peers, trust.secrets)
        registry = HostRegistry(store, self.events, trust, reactor)
        arrivals = Arrivals()
        known_keys = KnownKeys(store, self.events, reactor)
        self.agent_relays = AgentRelays(reactor)
        logins = SshLogins(reactor, self.ssh_keys, self._resolver, self._ssh_agent)
        ways = SshWays(logins, known_keys, self.agent_relays)
        access = NetworkAccess(
            reactor,
            key_pair=self.key_pair,
            name=self.name_at_agents,
            ssh_keys=self.ssh_keys,
            key_limits=self._key_limits,
            trust=trust,
            arrivals=arrivals,
            ways=ways,
            bundles=self.state.bundles,
            dial_in=self._dial_in,
        )
        monitor = Monitor(registry, access.connect, reactor, patience=self._patience)
        self._direct_paths = DirectPaths(registry, arrivals, is_required=self._require_direct)
        self._entrance = Entrance(
            reactor,
            [identity.authenticator(each) for each in OWN_MECHANISMS],
            arrivals,
            arrived=monitor.retry,
            paths=self._direct_paths,
            registry=registry,
            events=self.events,
        )
        self.invitations = Invitations(
            reactor, store=store, events=self.events, registry=registry, seal=seal
        )
        self._joining = HostJoining(
            invitations=self.invitations,
            registry=registry,
            clusters=self.clusters,
            events=self.events,
            expecting=access.expecting,
            way=LastingWay(
                engine=self.name_at_agents,
                pin=self.key_pair.pin,
                mechanism=self._agent_ways.mechanism,
                dial_in=self._dial_in,
                https_pin=self.https_key_pair.pin,
            ),
            clock=reactor,
        )
        self._join_entrance = JoinEntrance(
            reactor, self.invitations.authenticator, self._joining.verbs()
        )
        self.hosts = Hosts(
            OperationContext(
                registry=registry,
                clusters=self.clusters,
                events=self.events,
                jobs=self.jobs,
                access=access,
                ways=ways,
                monitor=monitor,
                agent_ways=self._agent_ways,
                own_pin=self.key_pair.pin,
                clock=reactor,
            ),
            known_keys,
        )

        self.host_batches = HostBatches(
            hosts=self.hosts,
            clusters=self.clusters,
            store=store,
            jobs=self.jobs,
            clock=reactor,
        )
        self.ssh_key_rotation = SshKeyRotation(
            ring=self.ssh_keys,
            hosts=self.hosts,
            registry=registry,
            access=access,
            store=store,
            events=self.events,
            jobs=self.jobs,
            clock=reactor,
        )

    # The part that takes a running reactor.

    def _begin(self) -> None:
        if self.running:
            self._starting = Deferred.fromCoroutine(self._start())
            self._starting.addErrback(self._not_started)

    async def _start(self) -> None:
        password = await self.accounts.ensure_admin(self.state.initial_admin_password)
        if password is not None:
            if self._terminal is not None:
                shown = password.reveal_text()
                print(f"The password of admin@internal is {shown}", file=self._terminal)
            self._log.info(
                "The password of admin@internal is in {path}",
                path=str(self.state.initial_admin_password),
            )
        await self.accounts.start()
        self._retention.start()
        await self.jobs.abort_unfinished()
        await self.events.add(
            EventCode.ENGINE_STARTED,
            Severity.NORMAL,
            f"Starting pkengine {pkengine.__version__}.",
        )
        await self.hosts.start()
        await self.ssh_key_rotation.start()
        await self.host_batches.start()
        await self.invitations.start()
        root = Folder()
        root.putChild(b"ovirt-engine", site(self))
        root.putChild(b"pkengine", own := Folder())
        own.putChild(b"agent", agents := Folder())
        for entrance in (self._entrance, self._join_entrance):
            entrance.put_into(agents)
            await entrance.open()
        self._server.resource = root
        write_atomically(self.state.https_url, f"{self.url}\n".encode(), mode=0o644)
        self._log.info(
            "pkengine {version} with key {pin}, state folder {state}, serves {url}",
            version=pkengine.__version__,
            pin=self.key_pair.pin,
            state=str(self.state.directory),
            url=self.url,
        )
        self.started.callback(None)

    def _not_started(self, failure: Any) -> None:
        if not self.running:
            return
        if failure.check(PkengineError):
            self._log.critical("The engine cannot start: {reason}", reason=str(failure.value))
        else:
            self._log.failure("The engine cannot start", failure)
        self.started.errback(failure)

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await self._starting
        with contextlib.suppress(FileNotFoundError):
            self.state.https_url.unlink()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
            self._port = None
        try:
            await self._join_entrance.close()
            await self._joining.stop()
            await self.invitations.stop()
            await self.host_batches.stop()
            await self.ssh_key_rotation.stop()
            self.agent_relays.stop()
            await self.hosts.stop()
            await self._entrance.close()
            await self._direct_paths.stop()
            await self._retention.stop()
            await self.user_administration.stop()
            await self.accounts.stop()
            await self.events.add(EventCode.ENGINE_STOPPED, Severity.NORMAL, "Stopping pkengine.")
        finally:
            await self.store.close()
            os.close(self._lock)

    def stopService(self) -> Deferred[None]:
        """End what is under way, and let everything go."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())


def _holds_secrets(connection: Connection) -> bool:
    return has_sealed(connection) or has_invitations(connection)


class _Starting(Resource):
    """Asks clients to come back when the engine has started."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        """Answer without a body: a client must not take it for the API's."""
        request.setResponseCode(503)
        request.setHeader(b"Retry-After", b"1")
        return b""
