"""Hosts with real agents change how they connect, while they are connected, without SSH."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from pkengine.agent.initialization import initialize
from pkengine.agent.state import StateFolder
from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.peer import Role, TrustedPeer
from pkengine.channel.verbs import GET_STATS, Nothing
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import way_trial
from pkengine.engine.hosts.dial_in import DialIn
from pkengine.engine.model import (
    Event,
    Host,
    HostChange,
    HostConnection,
    HostStatus,
    Job,
    KeySource,
    NextWay,
    StepStatus,
    WayChoice,
)
from pkengine.errors import BadRequest, ChannelClosed, Conflict
from pkengine.keys import KeyPair, Pin
from tests.agent.processes import AgentProcess, start_agent
from tests.engine.hosts.fakes import ADMIN
from tests.engine.hosts.keys import pinned
from tests.engine.hosts.test_dial_in import DialInCase
from tests.engine.hosts.test_network import ENGINE_KEY
from tests.integration.proxies import HostileProxy

SETTLED = "which ends the change that was under way"
ENGINE_DIALS, AGENT_DIALS = HostConnection.ENGINE_DIALS, HostConnection.AGENT_DIALS


class RekeyingTests(DialInCase):
    timeout = 120

    async def setUp(self) -> None:
        await super().setUp()  # the port on which no agent listens is the real one's
        self.reach(f"wss://127.0.0.1:{self.https_port}/pkengine/agent")
        self.told: list[Event] = []
        self.events.subscribe(self.told.append)
        self.state = StateFolder(Path(self.mktemp()))
        done = initialize(self.state, [TrustedPeer("engine", ENGINE_KEY.pin)])
        self.pin = Pin.parse(done.pin)
        self.agent_process = self.start_agent()
        await self.agent_process.ready

    async def know(self, status: HostStatus, **changes: Any) -> Host:
        """Put a host into the database that the engine dials."""
        return await super().know(status, **{"connection": ENGINE_DIALS, **changes})

    def reach(self, url: str) -> None:
        """Let agents be told to dial the engine there."""
        self.patch(self.access, "_dial_in", DialIn(url, str(ENGINE_KEY.pin)))

    def start_agent(self) -> AgentProcess:
        where = f"tcp:{self.port}:interface=127.0.0.1"
        return start_agent(self, self.state.directory, where, "--listen-on-demand")

    async def up(self) -> Host:
        up = self.becomes(HostStatus.UP)
        await self.know(HostStatus.INITIALIZING, keys=pinned(self.pin))
        return await up

    async def change(
        self, host: Host, connection: HostConnection | None = None, mechanism: str | None = None
    ) -> tuple[Host, Job]:
        """Change the way of a host; give it as it is when the job has ended."""
        choice = WayChoice(connection=connection, mechanism=mechanism)
        job = await self.hosts.rekeying.change(host.id, choice, ADMIN)
        job = await self.jobs.ended(job.id, 60.0)
        return await self.registry.get(host.id), job

    async def answers(self, host: Host) -> None:
        """Call the agent by the way that the host has now."""
        channel = await self.access.connect(host)
        await channel.call(GET_STATS, Nothing())
        self.assertEqual(channel.authenticated.mechanism, host.mechanism)
        channel.close()

    def happened(self, code: EventCode) -> list[str]:
        return [event.description for event in self.told if event.code == code]

    def assert_settled(self, host: Host, connection: HostConnection, mechanism: str) -> None:
        self.assertEqual((host.connection, host.mechanism), (connection, mechanism))
        self.assertIsNone(host.next_way)
        [key] = host.keys
        self.assertEqual(key.mechanism, mechanism)
        [peer] = self.trust.peers()
        self.assertEqual((peer.key, peer.mechanisms), (key.key, frozenset({mechanism})))

    async def test_a_host_goes_through_every_way_and_nobody_misses_it(self) -> None:
        host = await self.up()
        used = set()
        for connection, mechanism in (
            (AGENT_DIALS, "hmac"),
            (None, "hmac"),  # a fresh key
            (None, "spake2plus"),
            (None, "sign"),
            (None, "pin"),
            (ENGINE_DIALS, None),
            (AGENT_DIALS, "sign"),
            (ENGINE_DIALS, None),
        ):
            host, job = await self.change(host, connection, mechanism)
            self.assertIs(job.status, StepStatus.FINISHED, self.told[-1].description)
            self.assertEqual([step.name for step in job.steps], ["prepare", "meet", "commit"])
            expected = mechanism or "pin"
            self.assert_settled(host, connection or AGENT_DIALS, expected)
            self.assertIs(host.keys[0].source, KeySource.REKEYED)
            used.add(host.keys[0].key)
            await self.answers(host)
            self.assertIs(host.status, HostStatus.UP)
        self.assertEqual(len(used), 4)  # the agent's own key, and three that were agreed on
        self.assertEqual(self.happened(EventCode.HOST_CONNECTING), [])
        self.assertEqual(self.happened(EventCode.AGENT_DIALLED_IN_ANEW), [])
        first = self.happened(EventCode.WAY_CHANGED)[0]
        self.assertIn("Host h1 connects by 'agent-dials' and 'hmac' with the key kid//", first)
        self.assertIn("asked for by admin@internal", first)
        self.assertIn("Before, it did by 'engine-dials' and 'pin'", first)
        self.assertEqual(len(self.happened(EventCode.WAY_CHANGING)), 8)

    async def test_a_host_in_maintenance_changes_too(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE, keys=pinned(self.pin))
        host, job = await self.change(host, AGENT_DIALS, "spake2plus")
        self.assertIs(job.status, StepStatus.FINISHED)
        self.assertIs(host.status, HostStatus.MAINTENANCE)
        self.assert_settled(host, AGENT_DIALS, "spake2plus")
        await self.answers(host)

    async def test_an_engine_that_the_host_does_not_reach_is_said_in_its_words(self) -> None:
        host = await self.up()
        self.reach("wss://127.0.0.1:9/pkengine/agent")
        host, job = await self.change(host, AGENT_DIALS, "hmac")
        self.assertIs(job.status, StepStatus.FAILED)
        self.assert_settled(host, ENGINE_DIALS, "pin")
        [text] = self.happened(EventCode.WAY_NOT_CHANGED)
        self.assertIn("Host h1 does not connect by 'agent-dials' and 'hmac'.", text)
        self.assertIn("No connection from this host to wss://127.0.0.1:9/pkengine/agent: ", text)
        await self.answers(host)
        self.assertEqual(self.secrets.keys(), [])
        self.assertEqual(self.happened(EventCode.HOST_CONNECTING), [])
        # And the agent can be asked again.
        await self.change(host, AGENT_DIALS, "sign")
        self.assertEqual(len(self.happened(EventCode.WAY_NOT_CHANGED)), 2)

    async def through_a_proxy(self) -> tuple[Host, HostileProxy]:
        """Have a host that dials by signatures through a proxy that ends TLS."""
        proxy, pair = HostileProxy(self.https_port, is_backend_tls=True), KeyPair.generate("proxy")
        url = f"wss://127.0.0.1:{await proxy.start(self, pair)}/pkengine/agent"
        self.patch(self.access, "_dial_in", DialIn(url, str(pair.pin)))
        host, job = await self.change(await self.up(), AGENT_DIALS, "sign")
        self.assertIs(job.status, StepStatus.FINISHED)
        return host, proxy

    async def test_a_proxy_that_reads_a_change_does_not_learn_the_new_key(self) -> None:
        host, proxy = await self.through_a_proxy()
        host, job = await self.change(host, None, "hmac")
        self.assertIs(job.status, StepStatus.FINISHED)
        self.assert_settled(host, AGENT_DIALS, "hmac")
        # What the engine sends is not masked (RFC 6455 §5.1).
        self.assertRegex(proxy.seen, rb'"Engine.prepare".*"share":"[\w-]{43}"')
        [key] = self.secrets.keys()
        secret = key.secret.reveal()
        for text in (secret, base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
            self.assertNotIn(text.rstrip(b"="), proxy.seen)

    async def test_a_proxy_that_swaps_shares_ends_the_connection_and_nothing_changes(self) -> None:
        host, proxy = await self.through_a_proxy()
        own = KeyAgreement("hmac", local="engine", peer=str(host.id), role=Role.ACCEPTOR).share
        swapped: list[bytes] = []

        def swap(_: str, data: bytes) -> bytes:
            changed = re.sub(rb'"share":"[\w-]{43}"', b'"share":"%s"' % own.encode(), data)
            if changed != data:
                swapped.append(data)
            return changed

        proxy.change = swap
        host, job = await self.change(host, None, "hmac")
        self.assertIs(job.status, StepStatus.FAILED)
        self.assertEqual(len(swapped), 1)
        proxy.change = lambda _, data: data
        await self.answers(host)
        self.assert_settled(await self.registry.get(host.id), AGENT_DIALS, "sign")
        self.assertEqual(self.secrets.keys(), [])

    async def test_a_host_that_the_engine_cannot_dial_stays_as_it_is(self) -> None:
        host, _ = await self.change(await self.up(), AGENT_DIALS, "sign")
        host = await self.registry.change(host.id, _with_port(9))
        host, job = await self.change(host, ENGINE_DIALS)
        self.assertIs(job.status, StepStatus.FAILED)
        self.assert_settled(host, AGENT_DIALS, "sign")
        await self.answers(host)

    async def test_a_host_that_is_not_connected_does_not_change(self) -> None:
        await self.agent_process.stop("KILL")
        host = await self.know(HostStatus.MAINTENANCE, keys=pinned(self.pin))
        with self.assertRaisesRegex(Conflict, "The agent of Host h1 does not answer"):
            await self.change(host, AGENT_DIALS, "hmac")
        self.assertEqual(self.happened(EventCode.WAY_CHANGING), [])

    async def test_a_host_without_a_trusted_key_does_not_change(self) -> None:
        host = await self.know(HostStatus.INSTALL_FAILED, keys=())
        with self.assertRaisesRegex(Conflict, "install it first"):
            await self.change(host, AGENT_DIALS, "hmac")

    async def test_what_would_change_nothing_or_cannot_be_is_refused(self) -> None:
        host = await self.up()
        with self.assertRaisesRegex(Conflict, "The engine dials it already, by 'pin'"):
            await self.change(host)
        with self.assertRaisesRegex(BadRequest, "needs the connection 'agent-dials'"):
            await self.change(host, None, "hmac")

    async def test_one_host_has_one_change_at_a_time(self) -> None:
        host = await self.up()
        choice = WayChoice(connection=AGENT_DIALS, mechanism="hmac")
        job = await self.hosts.rekeying.change(host.id, choice, ADMIN)
        with self.assertRaisesRegex(Conflict, "in progress"):
            await self.hosts.rekeying.change(host.id, choice, ADMIN)
        await self.jobs.ended(job.id, 60.0)

    async def test_an_agent_that_dials_can_be_told_to_dial_elsewhere(self) -> None:
        host, _ = await self.change(await self.up(), AGENT_DIALS, "sign")
        moved = self.access._dial_in.url.replace("127.0.0.1", "localhost")
        self.reach(moved)
        host, job = await self.change(host)
        self.assertIs(job.status, StepStatus.FINISHED)
        self.assertIn(moved, (self.state.dialled_engines / "engine.json").read_text())
        await self.answers(host)

    async def test_other_arrivals_are_used_while_one_is_expected_for_a_trial(self) -> None:
        host, _ = await self.change(await self.up(), AGENT_DIALS, "sign")
        expected = self.arrivals.expect(host.id, self.pin, "pin")
        arrived = Deferred.fromCoroutine(expected.arrived())
        await self.agent_process.stop("KILL")
        back = self.becomes(HostStatus.UP)
        self.start_agent()
        await back
        self.assertNoResult(arrived)
        expected.end()
        await self.answers(await self.registry.get(host.id))

    async def test_an_engine_without_a_url_still_changes_the_rest_of_a_host(self) -> None:
        host, _ = await self.change(await self.up(), AGENT_DIALS, "sign")
        self.patch(self.hosts._agent_ways, "_is_dialled", False)
        host = await self.hosts.update(host.id, HostChange(comment="moved"), ADMIN)
        self.assertEqual(host.comment, "moved")
        with self.assertRaisesRegex(BadRequest, "--agent-url"):
            await self.change(host)

    # What is interrupted.

    async def test_an_agent_whose_answer_to_the_commit_is_lost_decides_by_the_way_it_comes(
        self,
    ) -> None:
        for is_done in (True, False):
            host = await self.up()
            self.lose_answer_to_commit(is_done=is_done)
            host, job = await self.change(host, AGENT_DIALS, "hmac")
            self.assertIs(job.status, StepStatus.FAILED)
            text = await self.says(EventCode.WAY_NOT_CHANGED, "It is not known whether")
            self.assertIn("the way by which it connects next will be the one", text)
            await self.says(
                EventCode.WAY_CHANGED if is_done else EventCode.WAY_NOT_CHANGED, SETTLED
            )
            await self.assert_settled_as_new(host, is_new=is_done)
            maintenance = self.becomes(HostStatus.MAINTENANCE)
            await self.hosts.maintenance.deactivate(host.id, ADMIN)
            await maintenance
            await self.begin_again(host)

    async def assert_settled_as_new(self, host: Host, *, is_new: bool) -> None:
        host = await self.registry.get(host.id)
        way = (AGENT_DIALS, "hmac") if is_new else (ENGINE_DIALS, "pin")
        self.assert_settled(host, *way)
        await self.answers(host)

    async def begin_again(self, host: Host) -> None:
        """Remove a host, and let its agent accept the engine by its pin again."""
        await self.hosts.maintenance.remove(host.id, ADMIN)
        initialize(self.state, [TrustedPeer("engine", ENGINE_KEY.pin)])
        self.told.clear()

    async def says(self, code: EventCode, words: str) -> str:
        """Wait until such an event has been told; give its text."""
        while True:
            heard: Deferred[None] = Deferred()
            end = self.events.subscribe(
                lambda _, heard=heard: None if heard.called else heard.callback(None)
            )
            for event in self.told:
                if event.code == code and words in event.description:
                    end()
                    return event.description
            await heard
            end()

    def lose_answer_to_commit(self, *, is_done: bool) -> None:
        """Let the next commit be lost, on its way or on its way back."""
        original = way_trial.commit_on

        async def commit_on(channel: Any) -> Any:
            self.patch(way_trial, "commit_on", original)
            if is_done:
                await original(channel)
            channel.abort()
            raise ChannelClosed("The channel broke.")

        self.patch(way_trial, "commit_on", commit_on)

    async def test_an_engine_that_starts_finds_out_where_an_agent_has_gone(self) -> None:
        """The agent has changed, or has not, and the engine died before it knew."""
        for is_done in (True, False):
            host = await self.know(HostStatus.MAINTENANCE, keys=pinned(self.pin))
            old = host
            host, _ = await self.change(host, AGENT_DIALS, "hmac")
            [new] = host.keys
            if not is_done:
                # Back at the agent, as if the commit had not come.
                initialize(self.state, [TrustedPeer("engine", ENGINE_KEY.pin)])
            next_way = NextWay(connection=AGENT_DIALS, mechanism="hmac", key=new.key)
            await self.registry.change(
                host.id, lambda _, old=old, new=new, way=next_way: _between(old, new, way)
            )
            self.told.clear()
            await self.hosts.rekeying.start()
            await self.says(
                EventCode.WAY_CHANGED if is_done else EventCode.WAY_NOT_CHANGED, SETTLED
            )
            await self.assert_settled_as_new(host, is_new=is_done)
            await self.begin_again(host)

    async def test_a_change_that_is_under_way_allows_no_other(self) -> None:
        host = await self.know(HostStatus.MAINTENANCE, keys=pinned(self.pin))
        way = NextWay(connection=AGENT_DIALS, mechanism="pin", key=self.pin)
        await self.registry.change(host.id, lambda host: _between(host, host.keys[0], way))
        with self.assertRaisesRegex(Conflict, "A change is under way"):
            await self.change(host, AGENT_DIALS, "sign")
        await self.hosts.rekeying.start()
        await self.says(EventCode.WAY_NOT_CHANGED, SETTLED)


def _with_port(port: int) -> Any:
    return lambda host: replace(host, port=port)


def _between(host: Host, new: Any, next_way: NextWay) -> Host:
    """Give a host as the engine has it while it is not known which way is the one."""
    keys = host.keys if new in host.keys else (*host.keys, new)
    return replace(host, keys=keys, next_way=next_way)
