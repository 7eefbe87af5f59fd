"""The agent as a unit of systemd, on hosts that boot it."""

from __future__ import annotations

import functools
import shutil
import socket
import subprocess
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint
from twisted.trial import unittest

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import connect_channel
from pkengine.channel.verbs import (
    GET_CAPABILITIES,
    GET_HARDWARE_INFO,
    GET_STATS,
    GET_VERSION,
    AgentVersion,
    Capabilities,
    HardwareInfo,
    HostStats,
)
from pkengine.engine.deployment.deployment import (
    DeployedAgent,
    DeploymentPlan,
    Exchange,
    deploy,
    undeploy,
)
from pkengine.engine.deployment.systemd_unit import UNIT_NAME, systemd_unit
from pkengine.errors import DeploymentError
from pkengine.keys import KeyPair, Pin
from pkengine.ssh import HostKeyPolicy, SshConnection, SshCredentials, SshTarget, connect_ssh
from tests.engine.deployment.agent import proving
from tests.engine.deployment.ssh_host import shared_bundle
from tests.hosts import Host, open_farm

PORT = 54321
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmvk pkengine of engine"


class UnitTests(unittest.TestCase):
    if shutil.which("systemd-analyze") is None:
        skip = "systemd-analyze of the Debian package systemd is missing"

    def setUp(self) -> None:
        self.unit = Path(self.mktemp()).resolve() / UNIT_NAME
        self.unit.parent.mkdir()
        text = systemd_unit(command="/bin/true", state="/var/lib/pkagent", port=PORT)
        self.unit.write_text(text)

    def analyze(self, *arguments: str) -> str:
        done = subprocess.run(
            ["systemd-analyze", *arguments, str(self.unit)],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_systemd_finds_nothing_wrong_with_it(self) -> None:
        self.unit.write_text(
            systemd_unit(command="/bin/true", state="/var/lib/pkagent", port=PORT)
        )
        self.assertEqual("", self.analyze("verify", "--man=no"))

    def test_what_it_is_exposed_to_stays_low(self) -> None:
        self.unit.write_text(
            systemd_unit(command="/bin/true", state="/var/lib/pkagent", port=PORT)
        )
        said = self.analyze("security", "--offline=yes", "--threshold=35")
        self.assertIn("OK", said)

    def test_a_low_port_is_the_one_thing_that_needs_a_capability(self) -> None:
        high = systemd_unit(command="/bin/true", state="/var/lib/pkagent", port=PORT)
        low = systemd_unit(command="/bin/true", state="/var/lib/pkagent", port=443)
        self.assertIn("\nCapabilityBoundingSet=\n", high)
        self.assertIn("\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n", low)


class BootedHostTests(unittest.TestCase):
    timeout = 180

    async def setUp(self) -> None:
        farm = await open_farm(self, reactor)
        self.host: Host = await farm.host("one", init="systemd")
        self.engine = KeyPair.generate("engine")

    async def log_in(self, user: str = "root") -> SshConnection:
        connection = await connect_ssh(
            reactor,  # type: ignore[arg-type]
            SshTarget(self.host.address, user=user),
            HostKeyPolicy(given=await self.host.fingerprint()),
            SshCredentials(password=self.host.password[user]),
        )
        self.addCleanup(connection.close)
        return connection

    async def deploy(self, *, user: str = "root", port: int = PORT) -> DeployedAgent:
        plan = DeploymentPlan(
            bundle=shared_bundle(),
            authorized_key=KEY,
            agent_port=port,
        )
        return await deploy(
            await self.log_in(user),
            plan,
            Exchange((TrustedPeer("engine", self.engine.pin),)),
            report=lambda _: None,
            expect=proving(functools.partial(self.version, port=port)),
        )

    async def version(self, pin: Pin, port: int = PORT) -> AgentVersion:
        trust = MemoryTrustStore([TrustedPeer("host", pin)])
        channel = await connect_channel(
            reactor,
            HostnameEndpoint(reactor, self.host.address, port),
            PinAuthenticator(self.engine, trust),
            expected="host",
        )
        try:
            await channel.call(GET_CAPABILITIES, result_type=Capabilities)
            await channel.call(GET_STATS, result_type=HostStats)
            await channel.call(GET_HARDWARE_INFO, result_type=HardwareInfo)
            found: AgentVersion = await channel.call(GET_VERSION, result_type=AgentVersion)
            return found
        finally:
            channel.close()
            await channel.closed

    async def show(self, name: str) -> str:
        return (await self.host.run(f"systemctl show -P {name} {UNIT_NAME}")).strip()

    async def test_the_unit_runs_the_agent_with_all_its_verbs(self) -> None:
        deployed = await self.deploy()
        self.assertEqual(("systemd", "/opt/pkagent"), (deployed.service, deployed.prefix))
        self.assertEqual("active", await self.show("ActiveState"))
        self.assertEqual("enabled", await self.show("UnitFileState"))
        self.assertEqual("700 root\n", await self.host.run("stat -c '%a %U' /var/lib/pkagent"))
        self.assertIn(str(deployed.pin), await self.host.run("pkagent pin"))
        log = await self.host.run(f"journalctl -u {UNIT_NAME} -o cat -p warning")
        self.assertNotRegex(log, "(?i)denied|error|traceback|read-only")

    async def test_the_second_time_leaves_the_process_alone(self) -> None:
        await self.deploy()
        before = await self.show("MainPID")
        await self.deploy(user="admin")
        self.assertEqual(before, await self.show("MainPID"))

    async def test_another_port_is_another_unit(self) -> None:
        await self.deploy()
        before = await self.show("MainPID")
        await self.deploy(port=54322)
        self.assertNotEqual(before, await self.show("MainPID"))

    async def test_a_unit_that_was_written_and_not_loaded_is_loaded(self) -> None:
        await self.deploy()
        before = await self.show("MainPID")
        path = f"/etc/systemd/system/{UNIT_NAME}"
        await self.host.run(f"sed -i s/MemoryMax=256M/MemoryMax=64M/ {path}")
        await self.host.run(f"systemctl daemon-reload; systemctl restart {UNIT_NAME}")
        await self.host.run(f"sed -i s/MemoryMax=64M/MemoryMax=256M/ {path}")  # and no reload
        await self.deploy()
        self.assertNotEqual(before, await self.show("MainPID"))
        self.assertEqual(str(256 << 20), await self.show("MemoryMax"))

    async def test_an_agent_that_is_killed_comes_back_with_the_same_key(self) -> None:
        deployed = await self.deploy()
        before = await self.show("MainPID")
        await self.host.run(
            f"kill -9 {before}; until [ $(systemctl show -P NRestarts {UNIT_NAME}) = 1 ] && "
            f"systemctl is-active {UNIT_NAME}; do sleep 0.1; done"
        )
        after = await self.version(deployed.pin)
        self.assertNotEqual(before, str(after.pid))

    async def test_it_starts_again_with_the_host(self) -> None:
        deployed = await self.deploy()
        await self.host.reboot()
        await self.host.run(f"until systemctl is-active {UNIT_NAME}; do sleep 0.1; done")
        await self.version(deployed.pin)

    async def test_a_port_that_is_taken_is_a_sentence_and_leaves_no_unit(self) -> None:
        await self.host.run(
            "systemd-run --unit=squatter python3 -m http.server 54321; "
            "until ss -Hltn sport = :54321 | grep -q .; do sleep 0.1; done"
        )
        with self.assertRaisesRegex(DeploymentError, r"54321 is taken by 'python3' \(process"):
            await self.deploy()
        self.assertEqual("not-found", await self.show("LoadState"))

    async def test_an_agent_that_does_not_start_on_a_port_stays_on_the_one_before(self) -> None:
        deployed = await self.deploy()
        # A drop-in of the administrator's, under which the unit does not start with one port.
        unit = f"/etc/systemd/system/{UNIT_NAME}"
        await self.host.run(
            f"mkdir {unit}.d; cat > {unit}.d/port.conf",
            stdin=f"[Service]\nExecStartPre=/bin/sh -c '! grep 54322 {unit}'\n".encode(),
        )
        with self.assertRaisesRegex(DeploymentError, "The agent runs again as before"):
            await self.deploy(port=54322)
        self.assertEqual("active", await self.show("ActiveState"))
        await self.version(deployed.pin)

    async def test_undeploying_leaves_nothing(self) -> None:
        await self.deploy()
        await undeploy(await self.log_in(), report=lambda _: None, authorized_keys=[KEY])
        left = await self.host.run(
            "ls -d /opt/pkagent /var/lib/pkagent /usr/local/bin/pkagent "
            "/etc/systemd/system/pkagent.service "
            "/etc/systemd/system/multi-user.target.wants/pkagent.service 2>/dev/null; "
            "pgrep -f '[p]kagent/versions'; cat /root/.ssh/authorized_keys"
        )
        self.assertEqual("", left)
        with self.assertRaises(OSError):
            socket.create_connection((self.host.address, PORT), 5)
