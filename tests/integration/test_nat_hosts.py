"""Real hosts behind NAT: SSH is forwarded to them, their agents dial out, nothing else passes."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol

from pkengine.engine.model import HostStatus, WayChoice
from pkengine.listening import AGENT_PORT
from tests.integration.engine_case import ADMIN
from tests.integration.test_dial_in_hosts import AGENT_DIALS, DialInTestCase


class HostsBehindNat(DialInTestCase):
    behind_nat = True

    async def test_such_a_host_is_up_through_its_router_and_comes_back_when_that_was_cut_off(
        self,
    ) -> None:
        real = await self.host("hidden")
        inside = await real.run("hostname -I || ip -4 address show dev eth0")
        self.assertNotIn(real.address, inside)
        host = await self.add_up(real)
        await self.assert_proved(host, real, "pin")
        with self.assertRaises(ConnectError):
            await connectProtocol(
                TCP4ClientEndpoint(reactor, real.address, AGENT_PORT), Protocol()
            )
        await self.maintain(host)
        host = await self.installed(host, WayChoice(connection=AGENT_DIALS, mechanism="hmac"))
        await self.assert_proved(host, real, "hmac")
        self.assertEqual((await self.engine.hosts.get(host.id)).tls_path, "direct")
        await real.cut()
        await self.until(host.id, HostStatus.CONNECTING, HostStatus.NON_RESPONSIVE)
        await real.join()
        await self.until(host.id, HostStatus.UP)
        await self.maintain(host)
        await self.engine.hosts.maintenance.remove(host.id, ADMIN)
