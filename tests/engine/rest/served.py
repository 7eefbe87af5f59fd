"""The API over the real services of the engine and a database; only the network is acted."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

from argon2 import PasswordHasher
from treq.testing import StubTreq
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from pkengine.auth.peer import Authenticated, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, SharedKey
from pkengine.channel.verbs import (
    GET_CAPABILITIES,
    GET_HARDWARE_INFO,
    GET_STATS,
    GET_VERSION,
    KEYS_LIST,
    AcceptedKey,
    AgentVersion,
)
from pkengine.engine.accounts import ADMIN, Accounts
from pkengine.engine.clusters import Clusters
from pkengine.engine.deployment.deployment import DeployedAgent, StepReport
from pkengine.engine.events import EventCode, Events
from pkengine.engine.hosts.agent_relays import AgentRelays
from pkengine.engine.hosts.agent_ways import AgentWays
from pkengine.engine.hosts.batches import HostBatches
from pkengine.engine.hosts.known_keys import KnownKeys
from pkengine.engine.hosts.monitor import Monitor
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.hosts.ssh_key_rotation import SshKeyRotation
from pkengine.engine.hosts.ssh_ways import SshWays
from pkengine.engine.jobs import Jobs
from pkengine.engine.joining.invitations import Invitations
from pkengine.engine.model import Host, Severity, StepStatus, WayChoice
from pkengine.engine.rest import site
from pkengine.engine.rest.application import Folder
from pkengine.engine.store import Store
from pkengine.engine.user_administration import UserAdministration
from pkengine.errors import ChannelClosed, HostKeyMismatch
from pkengine.keys import KeyPair, Pin, Secret, SshFingerprint, SshPublicKey
from pkengine.ssh import HostKeyJudgement, HostKeyPolicy, SshKeyRing, SshTarget
from tests.engine.hosts.agent_answers import CAPABILITIES, HARDWARE, STATS
from tests.engine.hosts.keys import host_trust, seal
from tests.engine.joining.codes import register
from tests.engine.store.inline import InlineReactor, InlineThreads

API = "https://engine.example:8443/ovirt-engine/api"
ORIGIN = "https://engine.example:8443"

HOST_KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
)
PIN = Pin(bytes(range(32)))


class ActedLogin:
    authenticated_by = "password"

    def __init__(self, judgement: HostKeyJudgement) -> None:
        self.judgement = judgement

    async def prove_host_keys(self, *, timeout_s: float) -> None:
        return None

    def close(self) -> Deferred[None]:
        return succeed(None)


class ActedAgent:
    """A connection to an agent that answers at once."""

    def __init__(
        self, host: Host, pin: Pin, *, bundle: str, accepted: list[str], is_silent: bool
    ) -> None:
        self.bundle = bundle
        self.accepted = accepted
        self.is_silent = is_silent
        self.authenticated = Authenticated(TrustedPeer(str(host.id), pin), "pin")
        self.closed: Deferred[Any] = Deferred()

    def call(self, method: str, params: Any = None, **options: Any) -> Deferred[Any]:
        if self.is_silent:
            return fail(ChannelClosed("The agent closed the connection."))
        answers = {
            KEYS_LIST: [AcceptedKey(pin=pin, name="engine") for pin in self.accepted],
            GET_CAPABILITIES: CAPABILITIES,
            GET_HARDWARE_INFO: HARDWARE,
            GET_STATS: STATS,
            GET_VERSION: AgentVersion(
                version="1.0", python_version="3.11.7", bundle=self.bundle, started=0.0, pid=1
            ),
        }
        return succeed(answers.get(method))

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closed.called:
            self.closed.callback(None)


def _step(status: StepStatus, progress: int) -> StepReport:
    return StepReport(
        name="upload", description="Send the agent", status=status, progress=progress
    )


class ActedTrial:
    """Another way to connect, which works unless the test says why not."""

    def __init__(self, wanted: Host, living: ActedAgent, refusal: Exception | None) -> None:
        self._wanted = wanted
        self._living = living
        self._refusal = refusal

    async def prepare(self) -> Pin | SharedKey:
        if self._wanted.mechanism in SHARED_KEY_MECHANISMS:
            return SharedKey.generate(
                self._wanted.mechanism, local="engine", peer=str(self._wanted.id)
            )
        return self._living.authenticated.peer.key

    async def meet(self, key: Pin | SharedKey) -> None:
        if self._refusal is not None:
            raise self._refusal

    async def commit(self) -> None:
        pass

    async def give_up(self) -> None:
        pass

    def adopt(self) -> None:
        pass

    def close(self) -> None:
        self._living.close()


@dataclass
class ActedNetwork:
    """Hosts that let everybody in; deployments end when the test says so.

    Attributes:
        refusal: raised instead of logging in.
        logins: what was asked for.
        deployments: fire one to end it well, or with an error.
        bundle: the version that agents say they are; the engine's own is ``cd``.
        accepted: the keys of engines that agents accept.
        is_silent: agents do not answer.
        restarts: what was restarted.
        exchange_refusal: raised instead of taking the engine's new SSH key.
        trial_refusal: raised instead of connecting by another way.
    """

    refusal: Exception | None = None
    logins: list[tuple[SshTarget, HostKeyPolicy, Secret | None, bool]] = field(
        default_factory=list
    )
    deployments: list[Deferred[None]] = field(default_factory=list)
    bundle: str = "ab"
    accepted: list[str] = field(default_factory=list)
    is_silent: bool = False
    fingerprints: tuple[SshFingerprint, ...] = ()
    restarts: list[str] = field(default_factory=list)
    trial_refusal: Exception | None = None
    exchange_refusal: Exception | None = None

    async def replace_ssh_key(self, connection: Any) -> None:
        if self.exchange_refusal is not None:
            raise self.exchange_refusal

    async def log_in(
        self,
        target: SshTarget,
        policy: HostKeyPolicy,
        *,
        password: Secret | None,
        use_key: bool,
        agent: Any = None,
        through: Any = None,
    ) -> ActedLogin:
        self.logins.append((target, policy, password, use_key))
        if self.refusal is not None:
            raise self.refusal
        return ActedLogin(HostKeyJudgement(HOST_KEY, "first_use"))

    async def judge(
        self, target: SshTarget, policy: HostKeyPolicy, *, through: Any = None
    ) -> HostKeyJudgement:
        raise HostKeyMismatch("There is no certificate.")

    async def published(self, name: str) -> tuple[SshFingerprint, ...]:
        return self.fingerprints

    async def host_keys(
        self, address: str, port: int, *, through: Any = None
    ) -> list[SshPublicKey]:
        if self.refusal is not None:
            raise self.refusal
        return [HOST_KEY]

    async def deploy(
        self, connection: Any, host: Host, *, report: Any, verify: Any
    ) -> DeployedAgent:
        report(_step(StepStatus.STARTED, 40))
        release: Deferred[None] = Deferred()
        self.deployments.append(release)
        await release
        pin = Pin(host.id.bytes * 2)
        await verify(pin, self._agent(host, pin))
        report(_step(StepStatus.FINISHED, 100))
        return DeployedAgent(
            pin=pin,
            uuid=CAPABILITIES.uuid,
            version="1.0",
            bundle="ab",
            prefix="/opt/pkagent",
            state="/var/lib/pkagent",
            service="systemd",
            is_for_system=True,
            python="CPython 3.11",
        )

    async def connect(self, host: Host) -> ActedAgent:
        return self._agent(host, cast(Pin, host.keys[0].key))

    def _agent(self, host: Host, pin: Pin) -> ActedAgent:
        return ActedAgent(
            host, pin, bundle=self.bundle, accepted=self.accepted, is_silent=self.is_silent
        )

    def trial(self, wanted: Host, living: ActedAgent) -> ActedTrial:
        return ActedTrial(wanted, living, self.trial_refusal)

    async def bundle_hash(self) -> str:
        return "cd"

    async def upgrade(self, connection: Any, host: Host, *, report: Any, verify: Any) -> None:
        report(_step(StepStatus.STARTED, 40))
        release: Deferred[None] = Deferred()
        self.deployments.append(release)
        await release
        self.bundle = "cd"
        await verify("cd")
        report(_step(StepStatus.FINISHED, 100))

    async def restart_agent(self, connection: Any, host: Host) -> None:
        self.restarts.append(f"agent of {host.name}")

    async def reboot(self, connection: Any, host: Host) -> None:
        self.restarts.append(host.name)


@dataclass(frozen=True)
class Reply:
    """An answer, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def xml(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.body)

    def json(self) -> Any:
        return json.loads(self.body)

    def fault(self) -> tuple[str, str]:
        """Give reason and detail, of whichever form and whether in an action or not."""
        if self.headers["content-type"] == "application/json":
            found = self.json()
            found = found.get("fault", found)
            return found["reason"], found["detail"]
        root = self.xml()
        fault = root if root.tag == "fault" else root.find("fault")
        assert fault is not None, self.body
        return str(fault.findtext("reason")), str(fault.findtext("detail"))


class ServedEngine:
    """An engine with its API, and a client of it."""

    def __init__(self, test: TestCase, store: Store, clock: Clock) -> None:
        self.clock = clock
        self.store = store
        self.network = ActedNetwork()
        self.key_pair = KeyPair.generate("engine")
        self.network.accepted.append(str(self.key_pair.pin))
        self.https_key_pair = KeyPair.generate("engine.example")
        self.ssh_keys = SshKeyRing(Path(test.mktemp()))
        self.accounts = Accounts(
            store,
            clock,
            in_thread=maybeDeferred,
            hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
        )
        self.events = Events(store, clock)
        self.user_administration = UserAdministration(store, self.accounts, self.events, clock)
        self.clusters = Clusters(store)
        self.jobs = Jobs(store, clock)
        registry = HostRegistry(store, self.events, host_trust(), clock)
        self.agent_relays = AgentRelays(clock)
        known_keys = KnownKeys(store, self.events, clock)
        self.invitations = Invitations(
            clock,
            store=store,
            events=self.events,
            registry=registry,
            seal=seal(),
            register=register,
        )
        self.agent_url = "https://engine.example:8443"
        self.hosts = Hosts(
            OperationContext(
                registry=registry,
                clusters=self.clusters,
                events=self.events,
                jobs=self.jobs,
                access=self.network,
                ways=SshWays(self.network, known_keys, self.agent_relays),
                monitor=Monitor(registry, self.network.connect, clock),
                agent_ways=AgentWays(WayChoice(), is_dialled=True),
                own_pin=self.key_pair.pin,
                clock=clock,
            ),
            known_keys,
        )
        self.host_batches = HostBatches(
            hosts=self.hosts, clusters=self.clusters, store=store, jobs=self.jobs, clock=clock
        )
        self.ssh_key_rotation = SshKeyRotation(
            ring=self.ssh_keys,
            hosts=self.hosts,
            registry=registry,
            access=self.network,
            store=store,
            events=self.events,
            jobs=self.jobs,
            clock=clock,
        )
        self.password_file = Path(test.mktemp())
        self.root = Folder()
        self.root.putChild(b"ovirt-engine", site(self))
        self._stub = StubTreq(self.root)
        self.authorization = ""

    @classmethod
    async def start(cls, test: TestCase, url: str = "") -> ServedEngine:
        clock = Clock()
        clock.advance(1_750_000_000)
        url = url or f"sqlite:///{test.mktemp()}"
        store = await Store.open(InlineReactor(), url, threads=InlineThreads())
        test.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        engine = cls(test, store, clock)
        test.addCleanup(lambda: Deferred.fromCoroutine(engine.hosts.stop()))
        test.addCleanup(lambda: Deferred.fromCoroutine(engine.ssh_key_rotation.stop()))
        test.addCleanup(lambda: Deferred.fromCoroutine(engine.host_batches.stop()))
        test.addCleanup(lambda: Deferred.fromCoroutine(engine.invitations.stop()))
        await engine.accounts.ensure_admin(engine.password_file)
        await engine.accounts.start()
        test.addCleanup(lambda: Deferred.fromCoroutine(engine.accounts.stop()))
        await engine.events.add(EventCode.ENGINE_STARTED, Severity.NORMAL, "Starting the engine.")
        await engine.hosts.start()
        await engine.invitations.start()
        await engine.log_in()
        return engine

    @property
    def password(self) -> str:
        return self.password_file.read_text().strip()

    async def log_in(self, name: str = ADMIN, password: str = "") -> str:
        reply = await self.post_form(
            "/ovirt-engine/sso/oauth/token",
            grant_type="password",
            scope="ovirt-app-api",
            username=name,
            password=password or self.password,
        )
        token: str = reply.json()["access_token"]
        self.authorization = f"Bearer {token}"
        return token

    async def post_form(self, path: str, **form: str) -> Reply:
        response = await self._stub.post(ORIGIN + path, data=form)
        return await self._read(response)

    async def request(
        self,
        method: str,
        path: str,
        body: str | bytes | dict[str, Any] | None = None,
        *,
        accept: str = "application/xml",
        authorization: str | None = None,
        **headers: str,
    ) -> Reply:
        """Send a request; a path is one of the API unless it begins at ``/ovirt-engine``.

        A body that is a dictionary is sent as JSON.
        """
        sent = {"Accept": accept, "Host": "engine.example:8443"}
        if body is not None:
            sent["Content-Type"] = "application/xml"
        if isinstance(body, dict):
            sent["Content-Type"] = "application/json"
            body = json.dumps(body)
        sent["Authorization"] = self.authorization if authorization is None else authorization
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        response = await self._stub.request(
            method,
            (ORIGIN if path.startswith("/ovirt-engine") else API) + path,
            headers={name: value for name, value in sent.items() if value},
            data=body.encode() if isinstance(body, str) else body,
        )
        return await self._read(response)

    def flush(self) -> None:
        """Let the octets of answers that took their time arrive."""
        self._stub.flush()

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.request("GET", path, **options)

    async def get_json(self, path: str, **options: Any) -> Any:
        reply = await self.request("GET", path, accept="application/json", **options)
        assert reply.status == 200, reply
        return reply.json()

    def basic(self, name: str, password: str) -> str:
        return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()

    async def add_host(self, name: str = "h1", **more: str) -> str:
        """Add a host as a client does; give its id."""
        number = len(self.network.logins) + 1
        body = {"name": name, "address": f"192.0.2.{number}", "root_password": "x", **more}
        reply = await self.request("POST", "/hosts", body, accept="application/json")
        assert reply.status == 201, reply
        return str(reply.json()["id"])

    async def add_host_that_is_up(self, name: str = "h1", **more: str) -> str:
        host_id = await self.add_host(name, **more)
        self.finish_deployment()
        return host_id

    def finish_deployment(self, error: Exception | None = None) -> None:
        release = self.network.deployments.pop(0)
        if error is None:
            release.callback(None)
        else:
            release.errback(error)
        self.clock.advance(1)

    def let_time_pass_for_clients(self, reactor: IReactorTime) -> None:
        """Go on a second, and end the deployment there is, each time that a host was read.

        So a client that polls sees each status, however slow it is.
        """
        get = self.hosts.get

        async def get_and_go_on(host_id: uuid.UUID) -> Host:
            host = await get(host_id)
            reactor.callLater(0, self._go_on)
            return host

        self.hosts.get = get_and_go_on  # type: ignore[method-assign]

    def _go_on(self) -> None:
        if self.network.deployments:
            self.network.deployments.pop(0).callback(None)
        self.clock.advance(1)

    async def _read(self, response: Any) -> Reply:
        self._stub.flush()
        headers = {
            name.decode().lower(): ", ".join(value.decode() for value in values)
            for name, values in response.headers.getAllRawHeaders()
        }
        return Reply(response.code, headers, await response.content())
