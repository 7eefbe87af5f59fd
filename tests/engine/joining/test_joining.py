"""A host joins a real engine by a code, over real HTTPS: both ends in this process."""

from __future__ import annotations

import socket
import uuid
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from pkengine.agent.dialled_engines import DialledEngines
from pkengine.agent.joining import Joining
from pkengine.agent.listening import NOWHERE
from pkengine.agent.service import AgentService
from pkengine.agent.state import StateFolder as AgentState
from pkengine.auth.join_code import JOINING_HOST, JoinCode
from pkengine.auth.pake import Spake2PlusAuthenticator
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import MemorySharedKeys, SharedKeyFolder
from pkengine.auth.trust import FileTrustStore, MemoryTrustStore
from pkengine.channel import Verbs, listen_channel
from pkengine.channel.engine_url import JOIN_PATH
from pkengine.channel.join_verbs import HOST_JOIN, Joined
from pkengine.channel.websocket_server import WebSocketResource
from pkengine.engine.events import EventCode
from pkengine.engine.hosts.watch import Patience
from pkengine.engine.model import (
    Host,
    HostConnection,
    HostStatus,
    Invitation,
    InvitationState,
    KeySource,
    Origin,
    SshLogin,
    WayChoice,
)
from pkengine.engine.service import Engine
from pkengine.engine.state import StateFolder
from pkengine.errors import AgentError, AuthenticationError, ChannelError, Conflict, KeyFileError
from pkengine.keys import KeyPair, Pin
from tests.channel.https import Authority, serve_https
from tests.engine.joining.codes import wrong
from tests.integration.proxies import HostileProxy

ADMIN = Origin(user="admin@internal", address="192.0.2.9")
IMPATIENT = Patience(
    poll_s=0.2, call_timeout_s=5.0, grace_s=1.0, first_pause_s=0.1, longest_pause_s=0.5
)


class JoiningTestCase(TestCase):
    timeout = 120
    mechanism = "pin"
    agent_server: str | None = None

    async def setUp(self) -> None:
        self.engine = Engine(
            reactor,
            StateFolder(Path(self.mktemp())),
            **{"https": "tcp:0:interface=127.0.0.1", "patience": IMPATIENT, **self.options()},
        )
        self.engine.startService()
        await self.engine.started
        self.addCleanup(self.engine.stopService)
        self.url = self.engine.url.removesuffix("/ovirt-engine/api")
        self.state = AgentState(Path(self.mktemp()))

    def options(self) -> dict[str, Any]:
        if self.mechanism == "pin":
            return {}
        # Where the engine is, nobody knows before it listens: any free port will do.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        return {
            "https": f"tcp:{port}:interface=127.0.0.1",
            "agent_url": f"https://127.0.0.1:{port}",
            "way": WayChoice(connection=HostConnection.AGENT_DIALS, mechanism=self.mechanism),
        }

    async def invite(self, **wanted: Any) -> tuple[Invitation, JoinCode]:
        return await self.engine.invitations.invite(ADMIN, **wanted)

    async def join(self, code: JoinCode, *, url: str = "", **options: Any) -> Joined:
        options = {"host_name": "h1", "environment": {}, **options}
        return await Joining(reactor, self.state, **options).join(code, url or self.url)

    async def joined(self, **wanted: Any) -> Host:
        """Have a host join; give it."""
        _, code = await self.invite(**wanted)
        await self.join(code)
        [host] = await self.engine.hosts.list()
        return host

    def run_agent(self) -> AgentService:
        agent = AgentService(reactor, self.state.directory, NOWHERE, {})
        agent.privilegedStartService()
        agent.startService()
        self.addCleanup(agent.stopService)
        return agent

    async def until(self, host_id: uuid.UUID, status: HostStatus) -> Host:
        seen: Deferred[Host] = Deferred()

        def changed(host: Host) -> None:
            if (host.id, host.status) == (host_id, status) and not seen.called:
                seen.callback(host)

        end = self.engine.hosts.subscribe(changed, lambda _: None)
        try:
            changed(await self.engine.hosts.get(host_id))
            return await seen
        finally:
            end()

    async def connected(self, agent: AgentService) -> None:
        """Wait until a running agent is connected with the engine."""
        while not any(line.state == "connected" for line in agent.status().dialled):
            pause: Deferred[None] = Deferred()
            reactor.callLater(0.05, pause.callback, None)
            await pause

    async def refusal(self, work: Any, error: type[Exception]) -> str:
        try:
            await work
        except error as found:
            return str(found)
        raise self.failureException(f"Expected {error.__name__}.")

    async def sentences(self, code: EventCode) -> list[str]:
        events = await self.engine.events.list(limit=None)
        return [event.description for event in events if event.code == code]

    async def assert_nothing_happened(self) -> None:
        self.assertEqual(await self.engine.hosts.list(), [])
        self.assertEqual(list(FileTrustStore(self.state.authorized_engines).peers()), [])
        self.assertEqual(SharedKeyFolder(self.state.secrets).keys(), [])
        self.assertEqual(DialledEngines(self.state.dialled_engines).all(), ({}, []))


class JoinsByPins(JoiningTestCase):
    async def test_a_host_that_joined_waits_for_approval_and_is_up_after_it(self) -> None:
        invitation, code = await self.invite()
        joined = await self.join(code)
        self.assertEqual(joined, Joined(self.engine.name_at_agents, "h1", is_approved=False))
        [host] = await self.engine.hosts.list()
        self.assertEqual((host.name, host.status), ("h1", HostStatus.PENDING_APPROVAL))
        self.assertEqual(
            (host.connection, host.mechanism), (HostConnection.AGENT_DIALS, self.mechanism)
        )
        [key] = host.keys
        self.assertEqual((key.source, key.mechanism), (KeySource.JOINED, self.mechanism))
        self.assertEqual((host.address, host.ssh.public_key), ("127.0.0.1", None))
        self.assertIn("what it said itself, and was not verified", host.comment)
        used = self.engine.invitations.get(invitation.id)
        self.assertEqual((used.state, used.host_id), (InvitationState.USED, host.id))

        agent = self.run_agent()
        await self.connected(agent)
        self.assertIsNone(self.engine.hosts.authenticated(host.id))
        await self.engine.hosts.admission.approve(host.id, SshLogin(), ADMIN)
        await self.until(host.id, HostStatus.UP)
        proved = self.engine.hosts.authenticated(host.id)
        assert proved is not None
        self.assertEqual((proved.peer.key, proved.mechanism), (key.key, self.mechanism))
        [told] = await self.sentences(EventCode.HOST_JOINED)
        self.assertIn(f"from 127.0.0.1 by invitation {code.number} of admin@internal", told)
        [told] = await self.sentences(EventCode.HOST_APPROVED)
        self.assertIn("by admin@internal", told)

    async def test_one_that_is_removed_is_cut_off_and_forgets_the_engine(self) -> None:
        host = await self.joined()
        agent = self.run_agent()
        await self.connected(agent)
        await self.engine.hosts.maintenance.remove(host.id, ADMIN)
        self.assertEqual(list(FileTrustStore(self.state.authorized_engines).peers()), [])
        self.assertEqual(DialledEngines(self.state.dialled_engines).all()[0], {})
        self.assertEqual(SharedKeyFolder(self.state.secrets).keys(), [])


class JoinsBySignatures(JoinsByPins):
    mechanism = "sign"


class JoinsByASharedKey(JoinsByPins):
    mechanism = "hmac"


class JoinsByARecord(JoinsByPins):
    mechanism = "spake2plus"


class Joins(JoiningTestCase):
    async def test_an_invitation_may_approve_and_name_the_host(self) -> None:
        _, code = await self.invite(host_name="web7", is_approved=True)
        joined = await self.join(code)
        self.assertEqual((joined.host_name, joined.is_approved), ("web7", True))
        [host] = await self.engine.hosts.list()
        self.run_agent()
        await self.until(host.id, HostStatus.UP)
        [told] = await self.sentences(EventCode.HOST_APPROVED)
        self.assertIn("Host web7 was approved by admin@internal", told)

    async def test_a_running_agent_follows(self) -> None:
        agent = self.run_agent()
        host = await self.joined(is_approved=True)
        await self.until(host.id, HostStatus.UP)
        self.assertEqual(agent.status().dialled[0].name, self.engine.name_at_agents)

    async def test_it_may_be_approved_for_later(self) -> None:
        host = await self.joined()
        await self.engine.hosts.admission.approve(host.id, SshLogin(), ADMIN, activate=False)
        self.run_agent()
        await self.until(host.id, HostStatus.MAINTENANCE)
        await self.engine.hosts.maintenance.activate(host.id, ADMIN)
        await self.until(host.id, HostStatus.UP)

    async def test_a_host_whose_address_another_one_has_gets_none(self) -> None:
        await self.joined()
        self.state = AgentState(Path(self.mktemp()))
        _, code = await self.invite()
        await self.join(code, host_name="h2")
        _, second = sorted(await self.engine.hosts.list(), key=lambda host: host.name)
        self.assertEqual(second.address, f"{second.id}.invalid")
        self.assertIn("Its own address is not known", second.comment)

    async def test_neither_end_keeps_the_code_where_it_could_be_found(self) -> None:
        _, code = await self.invite()
        await self.join(code)
        for folder in (self.engine.state.directory, self.state.directory):
            for path in folder.rglob("*"):
                content = path.read_bytes() if path.is_file() else b""
                self.assertNotIn("-".join(code.words).encode(), content, path)


class Refusals(JoiningTestCase):
    async def test_a_wrong_code_is_refused_and_the_right_one_is_still_good(self) -> None:
        _invitation, code = await self.invite()
        text = await self.refusal(self.join(wrong(code)), AuthenticationError)
        self.assertIn("does not accept this code", text)
        await self.assert_nothing_happened()
        await self.join(code)

    async def test_a_number_that_nobody_was_given_is_refused_in_the_same_words(self) -> None:
        _, code = await self.invite()
        other = JoinCode(code.number % 999 + 1, code.words)
        self.assertEqual(
            await self.refusal(self.join(other), AuthenticationError),
            await self.refusal(self.join(wrong(code)), AuthenticationError),
        )

    async def test_a_code_is_good_for_one_host(self) -> None:
        _, code = await self.invite()
        await self.join(code)
        self.state = AgentState(Path(self.mktemp()))
        text = await self.refusal(self.join(code, host_name="h2"), AgentError)
        self.assertIn("This code was used at", text)
        self.assertEqual(len(await self.engine.hosts.list()), 1)

    async def test_a_code_that_was_revoked_is_refused_with_the_reason(self) -> None:
        invitation, code = await self.invite()
        await self.engine.invitations.revoke(invitation.id, ADMIN)
        text = await self.refusal(self.join(code), AgentError)
        self.assertIn("This code was revoked at", text)
        await self.assert_nothing_happened()

    async def test_a_name_that_is_taken_is_refused_and_the_code_stays_good(self) -> None:
        await self.joined()
        self.state = AgentState(Path(self.mktemp()))
        _invitation, code = await self.invite()
        text = await self.refusal(self.join(code), AgentError)
        self.assertIn("has a Host 'h1' already", text)
        [told] = await self.sentences(EventCode.HOST_JOIN_FAILED)
        self.assertIn("could not join", told)
        await self.join(code, host_name="h2")

    async def test_a_host_name_that_cannot_be_one_is_refused(self) -> None:
        _, code = await self.invite()
        text = await self.refusal(self.join(code, host_name="no name"), AgentError)
        self.assertIn("malformed", text)
        await self.assert_nothing_happened()

    async def test_a_host_that_has_joined_says_so(self) -> None:
        await self.joined()
        _, code = await self.invite()
        text = await self.refusal(self.join(code, host_name="h2"), AgentError)
        self.assertIn("This host knows the engine", text)
        text = await self.refusal(self.join(code, host_name="h2", anew=True), AgentError)
        self.assertIn("has the key of Host h1", text)
        [host] = await self.engine.hosts.list()
        await self.engine.hosts.maintenance.remove(host.id, ADMIN, force=True)
        await self.join(code, host_name="h2", anew=True)

    async def test_a_host_that_does_not_keep_the_way_is_forgotten_again(self) -> None:
        invitation, code = await self.invite()

        def fail(*_: object) -> None:
            raise KeyFileError("The disk is full.")

        self.patch(Joining, "_commit", fail)
        text = await self.refusal(self.join(code), AgentError)
        self.assertIn("The disk is full", text)
        await self.assert_nothing_happened()
        self.assertEqual(self.engine.invitations.get(invitation.id).state, InvitationState.OPEN)
        self.assertIn("is forgotten", (await self.sentences(EventCode.HOST_JOIN_FAILED))[-1])

    async def test_what_is_no_engine_is_named(self) -> None:
        code = JoinCode(7, ("guitar", "volcano"))
        port = await serve_https(self, Site(Resource()), KeyPair.generate("other"))
        text = await self.refusal(self.join(code, url=f"https://127.0.0.1:{port}"), ChannelError)
        self.assertIn("404", text)

    async def test_an_engine_that_does_not_answer_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        code = JoinCode(7, ("guitar", "volcano"))
        text = await self.refusal(self.join(code, url=url), ChannelError)
        self.assertIn("No connection to", text)

    async def test_approval_by_ssh_is_not_for_a_host_that_never_had_it(self) -> None:
        host = await self.joined()
        text = await self.refusal(
            self.engine.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN), Conflict
        )
        self.assertIn("approve it first", text)
        await self.engine.hosts.admission.approve(host.id, SshLogin(), ADMIN, activate=False)
        text = await self.refusal(
            self.engine.hosts.admission.install(host.id, SshLogin(), ADMIN), Conflict
        )
        self.assertIn("joined by a code", text)

    async def test_an_agent_that_cannot_replace_itself_says_so(self) -> None:
        host = await self.joined()
        await self.connected(self.run_agent())
        await self.engine.hosts.admission.approve(host.id, SshLogin(), ADMIN)
        ended: Deferred[None] = Deferred()
        self.addCleanup(
            self.engine.jobs.subscribe(
                lambda job: ended.callback(None) if job.ended and not ended.called else None
            )
        )
        await self.engine.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN)
        await ended
        [sentence] = await self.sentences(EventCode.HOST_UPGRADE_FAILED)
        self.assertIn("upgrade its package on the host", sentence)

    async def test_a_host_that_waits_for_approval_is_asked_nothing(self) -> None:
        host = await self.joined()
        agent = self.run_agent()
        await self.connected(agent)
        for work in (
            self.engine.hosts.upkeep.refresh(host.id, ADMIN),
            self.engine.hosts.upkeep.prove_keys(host.id, ADMIN),
            self.engine.hosts.upgrades.check_for_update(host.id, ADMIN),
            self.engine.hosts.maintenance.activate(host.id, ADMIN),
        ):
            self.assertIn("approve it first", await self.refusal(work, Conflict))
        self.assertIsNone((await self.engine.hosts.get(host.id)).capabilities)

    async def test_a_host_joins_once_though_it_asks_twice_at_once(self) -> None:
        _, code = await self.invite()
        second = AgentState(Path(self.mktemp()))
        outcomes = []
        for state, name in ((self.state, "h1"), (second, "h2")):
            joining = Joining(reactor, state, host_name=name, environment={})
            attempt = Deferred.fromCoroutine(joining.join(code, self.url))
            outcomes.append(attempt.addErrback(lambda failure: str(failure.value)))
        found = [await outcome for outcome in outcomes]
        self.assertEqual(len([each for each in found if isinstance(each, Joined)]), 1, found)
        self.assertEqual(len(await self.engine.hosts.list()), 1)


class SomebodyElseAnswers(JoiningTestCase):
    """Whoever can show some certificate, which joining hosts do not look at."""

    async def test_a_rogue_engine_that_does_not_know_the_words_is_not_joined(self) -> None:
        _, code = await self.invite()
        _, check = await deferToThread(wrong(code).register)
        host = TrustedPeer(JOINING_HOST, check.key_id, frozenset({check.mechanism}))
        asked: list[Any] = []
        verbs = Verbs()
        verbs.add(HOST_JOIN, Any, lambda params, _: asked.append(params))
        resource = WebSocketResource(reactor, JOIN_PATH)
        listener = await listen_channel(
            reactor,
            resource,
            Spake2PlusAuthenticator(MemorySharedKeys([check]), MemoryTrustStore([host])),
            verbs=verbs,
        )
        self.addCleanup(listener.stopListening)
        root, pkengine, agent = Resource(), Resource(), Resource()
        root.putChild(b"pkengine", pkengine)
        pkengine.putChild(b"agent", agent)
        agent.putChild(b"join", resource)
        options = Authority().issue([x509.IPAddress(ip_address("127.0.0.1"))])
        port = await serve_https(self, Site(root), options=options)
        text = await self.refusal(
            self.join(code, url=f"https://127.0.0.1:{port}"), AuthenticationError
        )
        self.assertIn("does not accept this code", text)
        self.assertEqual((asked, listener.channels), ([], set()))
        await self.assert_nothing_happened()
        await self.join(code)

    async def test_a_relay_that_ends_tls_changes_nothing_and_gets_no_host(self) -> None:
        relay = HostileProxy(int(self.url.rpartition(":")[2]), is_backend_tls=True)
        port = await relay.start(self, KeyPair.generate("relay"))
        invitation, code = await self.invite()
        # It passes all of it on: the engine tells the host how its own server is known.
        text = await self.refusal(self.join(code, url=f"https://127.0.0.1:{port}"), AgentError)
        self.assertIn("cannot reach the engine", text)
        self.assertIn("shows the key", text)
        self.assertIn(self.engine_pin().encode(), relay.seen)
        # It says instead how the relay is known.
        relay.change = lambda _, data: data.replace(
            self.engine_pin().encode(), str(Pin(bytes(32))).encode()
        )
        await self.refusal(self.join(code, url=f"https://127.0.0.1:{port}"), ChannelError)
        await self.assert_nothing_happened()
        self.assertEqual(self.engine.invitations.get(invitation.id).state, InvitationState.OPEN)

    def engine_pin(self) -> str:
        """Give the pin of the engine's HTTPS server."""
        return str(self.engine.https_key_pair.pin)


class UnreachableByTheLastingWay(JoiningTestCase):
    def options(self) -> dict[str, Any]:
        return {
            "agent_url": "wss://127.0.0.1:9/pkengine/agent",
            "agent_server": str(Pin(bytes(32))),
        }

    async def test_nothing_is_changed_and_the_code_stays_good(self) -> None:
        invitation, code = await self.invite()
        text = await self.refusal(self.join(code), AgentError)
        self.assertIn("cannot reach the engine at wss://127.0.0.1:9/pkengine/agent", text)
        await self.assert_nothing_happened()
        self.assertEqual(self.engine.invitations.get(invitation.id).state, InvitationState.OPEN)
