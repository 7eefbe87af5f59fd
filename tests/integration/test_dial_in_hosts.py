"""Real hosts whose agents dial the engine, by each mechanism; some are reached by SSH alone."""

from __future__ import annotations

import base64
import json
import shutil
import socket
from unittest import mock

from twisted.internet import reactor
from twisted.trial.unittest import SkipTest

from pkengine.auth.mechanisms import OWN_MECHANISMS
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import network
from pkengine.engine.model import (
    Host,
    HostConnection,
    HostStatus,
    KeySource,
    SshLogin,
    StepStatus,
    WayChoice,
)
from pkengine.engine.service import Engine
from tests.engine.hosts.keys import keys_of
from tests.hosts import Host as TestHost
from tests.hosts.processes import run
from tests.integration.engine_case import ADMIN, IMPATIENT, EngineTestCase

STATE = "/var/lib/pkagent"
PKAGENT = "/opt/pkagent/current/bin/pkagent"
AGENT_DIALS, ENGINE_DIALS = HostConnection.AGENT_DIALS, HostConnection.ENGINE_DIALS


class DialInTestCase(EngineTestCase):
    """Has an engine that agents reach, and whose hosts dial it where nothing else is said."""

    port = 0

    async def start_engine(self) -> None:
        if not self.port:
            with socket.create_server((self.farm.own_address, 0)) as listener:
                self.port = listener.getsockname()[1]
        self.engine = Engine(
            reactor,
            self.state,
            https=f"tcp:{self.port}:interface={self.farm.own_address}",
            patience=IMPATIENT,
            agent_url=f"https://{self.farm.own_address}:{self.port}",
            way=WayChoice(connection=AGENT_DIALS),
        )
        self.engine.privilegedStartService()
        self.engine.startService()
        await self.engine.started

    async def installed(self, host: Host, way: WayChoice) -> Host:
        """Install a host again, by the engine's own SSH key, and wait until it is up."""
        job = await self.engine.hosts.admission.install(
            host.id, SshLogin(), ADMIN, way=way, activate=True
        )
        ended = await self.ended(job)
        found = await self.engine.hosts.get(host.id)
        self.assertEqual(StepStatus.FINISHED, ended.status, found.status_detail)
        return await self.until(host.id, HostStatus.UP)

    async def agent_status(self, host: TestHost) -> dict[str, list[dict[str, object]]]:
        found: dict[str, list[dict[str, object]]] = json.loads(
            await host.run(f"{PKAGENT} status --json")
        )
        return found

    async def assert_proved(self, host: Host, real: TestHost, mechanism: str) -> None:
        """Check that both ends say by which key and mechanism they met, and nothing listens."""
        proved = self.engine.hosts.authenticated(host.id)
        assert proved is not None
        self.assertEqual((proved.mechanism, host.mechanism), (mechanism, mechanism))
        self.assertEqual((proved.peer.key,), keys_of(host))
        [key] = host.keys
        self.assertEqual((key.mechanism, key.source), (mechanism, KeySource.DEPLOYED))
        status = await self.agent_status(real)
        self.assertEqual(status["listening"], [])
        self.assertEqual([one["mechanism"] for one in status["dialled"]], [mechanism])
        self.assertEqual([one["state"] for one in status["dialled"]], ["connected"])


class MechanismTests(DialInTestCase):
    async def test_a_host_lives_with_each_mechanism_and_changes_it_by_an_installation(
        self,
    ) -> None:
        real = await self.host("one")
        host = await self.add_up(real)
        secrets: list[bytes] = []
        for mechanism in OWN_MECHANISMS:
            if mechanism != host.mechanism:
                await self.maintain(host)
                former = keys_of(host)
                host = await self.installed(host, WayChoice(mechanism=mechanism))
                if mechanism in SHARED_KEY_MECHANISMS:
                    self.assertNotEqual(former, keys_of(host))
            await self.assert_proved(host, real, mechanism)
            await self.engine.hosts.upkeep.refresh(host.id, ADMIN)
            await self.engine.hosts.upkeep.prove_keys(host.id, ADMIN)
            await self.maintain(host)
            await self.engine.hosts.maintenance.activate(host.id, ADMIN)
            host = await self.until(host.id, HostStatus.UP)
            for line in (await real.run(f"cat {STATE}/secrets/*.json || :")).split("}"):
                if line.strip():
                    secrets.append(base64.b64decode(json.loads(line + "}")["secret"]))
        self.assertEqual(len(secrets), len(SHARED_KEY_MECHANISMS))
        self.assert_nowhere(secrets)

        # What the agent shares is made anew by each installation.
        former = keys_of(host)
        await self.maintain(host)
        host = await self.installed(host, WayChoice())
        await self.assert_proved(host, real, "spake2plus")
        self.assertNotEqual(former, keys_of(host))

        # An agent that is restarted comes back by the same key, and keeps it when upgraded.
        await self.engine.hosts.upkeep.restart_agent(host.id, SshLogin(), ADMIN)
        job = await self.engine.hosts.upgrades.upgrade(host.id, SshLogin(), ADMIN)
        self.assertEqual(StepStatus.FINISHED, (await self.ended(job)).status)
        await self.until(host.id, HostStatus.UP)
        await self.assert_proved(host, real, "spake2plus")

        # The engine dials again, and the agent listens for it.
        await self.maintain(host)
        host = await self.installed(host, WayChoice(connection=ENGINE_DIALS))
        self.assertEqual((host.connection, host.mechanism), (ENGINE_DIALS, "pin"))
        status = await self.agent_status(real)
        self.assertEqual((len(status["listening"]), status["dialled"]), (1, []))
        self.assertEqual(
            "", await real.run(f"ls {STATE}/secrets {STATE}/engines.d | grep json || :")
        )

    def assert_nowhere(self, secrets: list[bytes]) -> None:
        """Check that what agents keep is in no file and no log of the engine."""
        places = ["\n".join(self.logged).encode()]
        places += [path.read_bytes() for path in self.state.directory.rglob("*") if path.is_file()]
        for secret in secrets:
            for form in (secret, base64.b64encode(secret), secret.hex().encode()):
                self.assertFalse(any(form in place for place in places))

    async def test_a_removed_host_is_cut_off_at_once_and_has_forgotten_the_engine(self) -> None:
        for name, mechanism in (("one", "hmac"), ("two", "spake2plus")):
            real = await self.host(name)
            host = await self.add_up(real, way=WayChoice(mechanism=mechanism))
            await self.maintain(host)
            await self.engine.hosts.maintenance.remove(host.id, ADMIN)
            await self.assert_event(EventCode.HOST_REMOVED, name, "no longer")
            status = await self.agent_status(real)
            self.assertEqual((status["connections"], status["engines"]), ([], []))
            self.assertEqual(
                "", await real.run(f"ls {STATE}/secrets {STATE}/engines.d | grep json || :")
            )

    async def test_an_engine_from_an_old_backup_says_what_to_do_and_installing_mends_it(
        self,
    ) -> None:
        real = await self.host("one")
        host = await self.add_up(real, way=WayChoice(mechanism="hmac"))
        await self.stop_engine()
        database = self.state.directory / "engine.db"
        backup = database.read_bytes()
        await self.start_engine()
        await self.until(host.id, HostStatus.UP)
        await self.maintain(host)
        await self.installed(host, WayChoice())
        await self.stop_engine()
        database.write_bytes(backup)
        with mock.patch.object(network, "ARRIVAL_TIMEOUT_S", 2.0):
            await self.start_engine()
            gone = await self.until(host.id, HostStatus.NON_RESPONSIVE)
        self.assertIn("has no key that is accepted", gone.status_detail)
        self.assertIn("install", gone.status_detail)
        refusal = ""
        while "accepts it no longer" not in refusal:  # once it has tried again
            refusal = str((await self.agent_status(real))["dialled"][0]["lastFailure"])
        host = await self.installed(host, WayChoice())
        await self.assert_proved(host, real, "hmac")


class UnreachableHosts(DialInTestCase):
    async def hidden_host(self, name: str) -> TestHost:
        """Give a host of which nothing but SSH can be reached, like many behind a firewall."""
        if shutil.which("iptables") is None:
            raise SkipTest("iptables is not installed")
        host = await self.host(name)
        rule = "-A INPUT -p tcp --dport 54321 -j DROP"
        inside = f"nsenter -t {host.first_process} -n"
        await run(reactor, *f"{inside} iptables {rule}".split())
        return host

    async def test_such_a_host_is_added_cut_off_comes_back_and_is_removed(self) -> None:
        host = await self.hidden_host("hidden")
        added, job = await self.add(await self.request(host))
        self.assertEqual(StepStatus.FINISHED, job.status, added.status_detail)
        up = await self.until(added.id, HostStatus.UP)
        proved = self.engine.hosts.authenticated(up.id)
        assert proved is not None
        self.assertEqual((proved.peer.key,), keys_of(up))
        status = await host.run(f"{PKAGENT} status")
        self.assertIn("by pin, connected since", status)

        await host.cut()
        await self.until(up.id, HostStatus.CONNECTING, HostStatus.NON_RESPONSIVE)
        await host.join()
        await self.until(up.id, HostStatus.UP)

        await self.maintain(up)
        await self.engine.hosts.maintenance.remove(up.id, ADMIN)
        self.assertEqual((await host.run(f"ls {STATE}/engines.d")).strip(), "")
        self.assertNotIn(
            "sha256//", await host.run(f"grep -v '^#' {STATE}/authorized_engines || :")
        )
