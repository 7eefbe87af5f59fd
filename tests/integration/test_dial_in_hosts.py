"""Real hosts that the engine cannot reach but by SSH: their agents dial in."""

from __future__ import annotations

import shutil
import socket

from twisted.internet import reactor
from twisted.trial.unittest import SkipTest

from pkengine.engine.model import HostConnection, HostStatus, StepStatus, WayChoice
from pkengine.engine.service import Engine
from tests.engine.hosts.keys import keys_of
from tests.hosts import Host as TestHost
from tests.hosts.processes import run
from tests.integration.engine_case import ADMIN, IMPATIENT, EngineTestCase

STATE = "/var/lib/pkagent"


class UnreachableHosts(EngineTestCase):
    async def start_engine(self) -> None:
        """Start an engine whose hosts are told to dial it."""
        with socket.create_server((self.farm.own_address, 0)) as listener:
            port = listener.getsockname()[1]
        self.engine = Engine(
            reactor,
            self.state,
            https=f"tcp:{port}:interface={self.farm.own_address}",
            patience=IMPATIENT,
            agent_url=f"https://{self.farm.own_address}:{port}",
            way=WayChoice(connection=HostConnection.AGENT_DIALS),
        )
        self.engine.privilegedStartService()
        self.engine.startService()
        await self.engine.started

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
        status = await host.run("/opt/pkagent/current/bin/pkagent status")
        self.assertIn("by pin, connected since", status)

        await host.cut()
        await self.until(up.id, HostStatus.CONNECTING, HostStatus.NON_RESPONSIVE)
        await host.join()
        await self.until(up.id, HostStatus.UP)

        await self.maintain(up)
        await self.engine.hosts.remove(up.id, ADMIN)
        self.assertEqual((await host.run(f"ls {STATE}/engines.d")).strip(), "")
        self.assertNotIn(
            "sha256//", await host.run(f"grep -v '^#' {STATE}/authorized_engines || :")
        )
