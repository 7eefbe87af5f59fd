"""Whether a proxy is seen between an agent and the engine, and what becomes of it then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twisted.internet.defer import Deferred

from pkengine.auth.mechanisms import OWN_MECHANISMS
from pkengine.engine.events import EventCode
from pkengine.engine.hosts.direct_paths import DirectPaths
from pkengine.engine.model import Event, Host, HostChange, HostStatus
from pkengine.errors import ChannelError
from tests.engine.hosts.fakes import ADMIN
from tests.engine.hosts.test_dial_in import DialInCase
from tests.engine.hosts.test_network import ENGINE_KEY
from tests.integration.proxies import HostileProxy, proxy_certificate


class DirectPathTests(DialInCase):
    async def go_through_a_proxy(self) -> None:
        """Let agents dial a proxy that ends TLS, from now on."""
        if self.https_pin == ENGINE_KEY.pin:
            pair = proxy_certificate(Path(self.mktemp()).absolute())
            self.proxy = HostileProxy(self.https_port, is_backend_tls=True)
            self.direct_port, self.https_pin = self.https_port, pair.pin
            self.https_port = await self.proxy.start(self, pair)

    def go_directly(self) -> None:
        """Let agents dial the engine itself again."""
        self.https_port, self.https_pin = self.direct_port, ENGINE_KEY.pin

    def told(self, code: EventCode) -> Deferred[Event]:
        """Give the next event of a kind."""
        told: Deferred[Event] = Deferred()

        def hear(event: Event) -> None:
            if event.code == code and not told.called:
                told.callback(event)

        self.addCleanup(self.events.subscribe(hear))
        return told

    async def path_of(self, host: Host) -> str:
        return (await self.registry.get(host.id)).tls_path

    async def test_whatever_the_mechanism_the_proxy_is_seen_and_told_of(self) -> None:
        await self.go_through_a_proxy()
        for mechanism in OWN_MECHANISMS:
            found = self.told(EventCode.TLS_PATH_CHANGED)
            host, dial = await self.know_by(mechanism, HostStatus.INITIALIZING, name=mechanism)
            channel = await dial()
            event = await found
            self.assertIn(f"A proxy ends TLS between Host {mechanism} and", event.description)
            self.assertEqual(await self.path_of(host), "proxied")
            channel.abort()
            await channel.closed
            await self.registry.change(
                host.id, lambda host: replace(host, status=HostStatus.MAINTENANCE)
            )
            await self.hosts.maintenance.remove(host.id, ADMIN)

    async def test_that_there_is_no_proxy_from_now_on_is_told_and_that_there_never_was_is_not(
        self,
    ) -> None:
        await self.go_through_a_proxy()
        found = self.told(EventCode.TLS_PATH_CHANGED)
        host, first = await self.up_by_dialling()
        await found
        found = self.told(EventCode.TLS_PATH_CHANGED)
        self.go_directly()
        await self.dial()  # the newer connection is used
        event = await found
        self.assertIn("TLS goes from end to end between Host h1", event.description)
        self.assertIn("Before, it was proxied.", event.description)
        self.assertEqual(await self.path_of(host), "direct")
        await first.closed

    async def test_where_a_direct_path_is_required_an_agent_behind_a_proxy_is_cut_off(
        self,
    ) -> None:
        await self.go_through_a_proxy()
        for mechanism in OWN_MECHANISMS:
            refused = self.told(EventCode.AGENT_BEHIND_PROXY_REFUSED)
            host, dial = await self.know_by(
                mechanism, HostStatus.MAINTENANCE, name=mechanism, require_direct=True
            )
            channel = await dial()
            await channel.closed
            event = await refused
            self.assertIn(f"Host {mechanism} came from 127.0.0.1 and is", event.description)
            self.assertIn("the TLS path is proxied, and a direct one", event.description)
            self.assertIsNone(self.arrivals.lease(host.id))
            await self.hosts.maintenance.remove(host.id, ADMIN)

    async def test_an_agent_that_tries_again_and_again_is_told_of_once(self) -> None:
        await self.go_through_a_proxy()
        refused = self.told(EventCode.AGENT_BEHIND_PROXY_REFUSED)
        await self.know(HostStatus.MAINTENANCE, require_direct=True)
        await (await self.dial()).closed
        await refused
        again = self.told(EventCode.AGENT_BEHIND_PROXY_REFUSED)
        await (await self.dial()).closed
        self.assertNoResult(again)
        self.go_directly()
        channel = await self.dial()
        self.assertFalse(channel.closed.called)

    async def test_requiring_it_cuts_off_who_is_connected_through_a_proxy_and_nobody_else(
        self,
    ) -> None:
        host = await self.know(HostStatus.MAINTENANCE)
        direct = await self.dial()
        await self.hosts.update(host.id, HostChange(require_direct=True), ADMIN)
        self.assertFalse(direct.closed.called)
        await self.hosts.update(host.id, HostChange(require_direct=False), ADMIN)
        await self.go_through_a_proxy()
        proxied = await self.dial()
        await direct.closed
        await self.hosts.update(host.id, HostChange(require_direct=True), ADMIN)
        self.assertIsInstance(await proxied.closed, ChannelError)

    async def test_an_engine_may_require_it_of_all(self) -> None:
        strict = DirectPaths(self.registry, self.arrivals, is_required=True)
        self.addCleanup(lambda: Deferred.fromCoroutine(strict.stop()))
        self.entrance._paths = strict
        await self.go_through_a_proxy()
        await self.know(HostStatus.MAINTENANCE)
        refused = self.told(EventCode.AGENT_BEHIND_PROXY_REFUSED)
        await (await self.dial()).closed
        await refused
