"""An agent that replaces itself: the real one, under twistd, in a home of its own."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import Channel as RealChannel
from pkengine.channel import connect_channel
from pkengine.channel.verbs import (
    GET_VERSION,
    UPGRADE_BEGIN,
    UPGRADE_CHECK,
    UPGRADE_SEND,
    AgentVersion,
    BeginUpgrade,
    Nothing,
    SendPiece,
    UpgradePlace,
)
from pkengine.engine.deployment import bundle as bundle_module
from pkengine.engine.deployment import own_upgrade
from pkengine.engine.deployment.bundle import AgentBundle, build_bundle
from pkengine.engine.deployment.bundle_contents import BundleContents
from pkengine.engine.deployment.deployment import Exchange, deploy
from pkengine.engine.deployment.own_upgrade import Channel, OwnUpgradePlan, upgrade_itself
from pkengine.engine.model import StepStatus
from pkengine.errors import CallRefused, ChannelError, DeploymentError
from pkengine.keys import KeyPair, Pin
from tests.engine.deployment.agent import proving
from tests.engine.deployment.ssh_host import LocalConnection, shared_bundle
from tests.engine.deployment.test_deployment import DeploymentTestCase as DeploymentCase

CHANGED = "lib/pkengine/agent/service.py"
#: It starts, and nobody gets in.
MUTE = "AgentService.privilegedStartService = AgentService.startService = lambda self: None\n"
#: It loads, and does not start.
BROKEN = (
    "def _fail(*_, **__): raise PkengineError('it is broken')\nAgentService.__init__ = _fail\n"
)


class OwnUpgradeTests(DeploymentCase):
    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.patch(own_upgrade, "_LOOK_EACH_S", 0.1)
        self.engine = KeyPair.generate("engine")
        self.pins: list[Pin] = []

        async def note(pin: Pin) -> None:
            self.pins.append(pin)

        self.old = shared_bundle()
        await deploy(
            LocalConnection(self.home),  # type: ignore[arg-type]
            self.plan(self.old),
            Exchange((TrustedPeer("engine", self.engine.pin),)),
            report=lambda _: None,
            expect=proving(note),
        )

    def another(self, addition: str) -> AgentBundle:
        changed = self.folder / "changed.py"
        collect = bundle_module.collect_contents

        def collect_changed() -> BundleContents:
            contents = collect()
            changed.write_text(contents.sources[CHANGED].read_text() + addition)
            return replace(contents, key="another", sources={**contents.sources, CHANGED: changed})

        self.patch(bundle_module, "collect_contents", collect_changed)
        return build_bundle(self.folder / "bundles")

    async def connect(self) -> RealChannel:
        trust = MemoryTrustStore([TrustedPeer("host", self.pins[-1])])
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port, timeout=1)
        try:
            channel = await connect_channel(
                reactor, endpoint, PinAuthenticator(self.engine, trust), expected="host"
            )
        except (ConnectError, ConnectionClosed) as error:
            raise ChannelError(str(error)) from error
        self.addCleanup(channel.abort)
        return channel

    async def upgrade(self, bundle: AgentBundle, *, trial_s: float = 30.0) -> None:
        self.reports.clear()

        async def verify(channel: Channel) -> None:
            version: AgentVersion = await channel.call(
                GET_VERSION, Nothing(), result_type=AgentVersion
            )
            self.assertEqual(bundle.hash, version.bundle)

        await upgrade_itself(
            self.connect,
            OwnUpgradePlan(bundle=bundle, agent_port=self.port, trial_s=trial_s),
            clock=reactor,  # type: ignore[arg-type]
            report=self.reports.append,
            verify=verify,
        )

    def assert_runs(self, bundle: AgentBundle) -> None:
        self.assertEqual([bundle.hash], [agent.bundle for agent in self.running()])
        self.assertEqual(bundle.hash, (self.prefix / "current").readlink().name)

    async def test_another_version_takes_over_after_it_was_confirmed(self) -> None:
        new = self.another("# another version\n")
        await self.upgrade(new)
        self.assert_runs(new)
        self.assertEqual(
            ["probe", "upload", "check", "start", "verify", "install"], self.finished()
        )
        self.assertEqual({self.old.hash, new.hash}, self.versions())
        self.assertFalse((self.state / "upgrade/archive").exists())

    async def test_version_that_does_not_start_gives_way_to_the_one_before(self) -> None:
        with self.assertRaises(DeploymentError) as caught:
            await self.upgrade(self.another(BROKEN))
        self.assertEqual("start", caught.exception.step)
        self.assertIn("it is broken", str(caught.exception))
        self.assertIn("The version that ran before runs again.", str(caught.exception))
        self.assert_runs(self.old)

    async def test_version_that_does_not_come_back_in_time_gives_way_as_well(self) -> None:
        with self.assertRaises(DeploymentError) as caught:
            await self.upgrade(self.another(MUTE), trial_s=3.0)
        self.assertIn("did not confirm it within 3 s", str(caught.exception))
        self.assertIn("The version that ran before runs again.", str(caught.exception))
        self.assert_runs(self.old)
        self.assertEqual(StepStatus.FAILED, self.reports[-1].status)

    async def test_archive_goes_on_where_it_broke_off_and_a_wrong_one_is_not_unpacked(
        self,
    ) -> None:
        wrong = BeginUpgrade("0" * 64, 6, "1" * 64)
        first = await self.connect()
        await first.call(UPGRADE_BEGIN, wrong, result_type=UpgradePlace)
        self.assertEqual(4, await first.call(UPGRADE_SEND, SendPiece(0, b"abcd")))
        first.abort()
        second = await self.connect()
        with self.assertRaises(CallRefused):
            await second.call(UPGRADE_SEND, SendPiece(4, b"ef"))
        place = await second.call(UPGRADE_BEGIN, wrong, result_type=UpgradePlace)
        self.assertEqual(
            (4, str(self.prefix), "twistd"), (place.received, place.prefix, place.service)
        )
        with self.assertRaises(CallRefused) as caught:
            await second.call(UPGRADE_SEND, SendPiece(4, b"efg"))
        self.assertIn("does not fit", str(caught.exception))
        await second.call(UPGRADE_SEND, SendPiece(4, b"ef"))
        archive = self.state / "upgrade/archive"
        self.assertEqual(0o600, archive.stat().st_mode & 0o777)
        with self.assertRaises(CallRefused) as caught:
            await second.call(UPGRADE_CHECK, Nothing())
        self.assertIn("not the one with SHA-256", str(caught.exception))
        self.assertFalse(archive.exists())
        self.assert_runs(self.old)
