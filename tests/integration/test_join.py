"""A real host without SSH, behind a router that translates addresses, joins by a code."""

from __future__ import annotations

import os
import re
import shutil
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest

from pkengine.auth.join_code import JoinCode
from pkengine.engine.deployment.bundle import build_bundle
from pkengine.engine.events import EventCode
from pkengine.engine.model import HostStatus, KeySource, SshLogin
from pkengine.engine.service import Engine
from tests.cli.running import Command, Ended
from tests.hosts import Host as TestHost
from tests.hosts.processes import PLAIN_ENVIRONMENT, run
from tests.integration.engine_case import ADMIN, IMPATIENT, EngineTestCase

STATE = "/var/lib/pkagent"
#: As a package of a distribution would start it.
PYTHON = ("/usr/bin/python3", "-I", "-S", "/opt/pkagent/lib")
INSIDE = "192.168.77"


class HostsWithoutSsh(EngineTestCase):
    async def start_engine(self) -> None:
        """Start an engine where the hosts reach it; nothing is said of agents that dial."""
        with socket.create_server((self.farm.own_address, 0)) as listener:
            port = listener.getsockname()[1]
        self.engine = Engine(
            reactor,
            self.state,
            https=f"tcp:{port}:interface={self.farm.own_address}",
            patience=IMPATIENT,
        )
        self.url = f"https://{self.farm.own_address}:{port}"
        self.engine.privilegedStartService()
        self.engine.startService()
        await self.engine.started

    async def hidden_host(self, name: str) -> TestHost:
        """Give a host without SSH that nobody reaches, and that reaches the engine."""
        if shutil.which("iptables") is None:
            raise SkipTest("iptables is not installed")
        router, host = await self.host(f"{name}-router"), await self.host(name)
        await host.run("kill $(cat /run/sshd.pid); rm /usr/sbin/sshd")
        await self.farm.network.ip(
            "link delete eth0",
            f"link add eth0 type veth peer name inside netns {router.first_process}",
            f"address add {INSIDE}.2/24 dev eth0",
            "link set eth0 up",
            inside=host.first_process,
        )
        await self.farm.network.ip(
            f"address add {INSIDE}.1/24 dev inside",
            "link set inside up",
            inside=router.first_process,
        )
        await self.farm.network.ip(f"route add default via {INSIDE}.1", inside=host.first_process)
        for command in (
            "sysctl -q -w net.ipv4.ip_forward=1",
            "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
        ):
            enter = f"nsenter --net --target {router.first_process}"
            await run(reactor, *f"{enter} {command}".split())
        bundle = build_bundle(self.state.bundles)
        archive = host.root / "root/agent.tar.gz"
        archive.write_bytes(bundle.path.read_bytes())
        await host.run("mkdir /opt/pkagent && tar -xzf /root/agent.tar.gz -C /opt/pkagent")
        return host

    def type_on_console(self, host: TestHost, *command: str, answers: Any) -> Deferred[Ended]:
        """Run a command on a terminal of the host, and answer what it asks."""
        console = Command(b"", list(answers))
        enter = (
            *("nsenter", "--target", str(host.first_process)),
            *("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wdns=/"),
        )
        reactor.spawnProcess(
            console,
            "nsenter",
            [*enter, *command],
            {**PLAIN_ENVIRONMENT, "PATH": os.environ["PATH"], "TERM": "dumb"},
            usePTY=True,
        )
        return console.ended

    async def test_it_is_invited_joins_is_approved_serves_and_is_removed(self) -> None:
        host = await self.hidden_host("hidden")
        _, code = await self.engine.invitations.invite(ADMIN)
        first, second = code.words
        typed = f"{code.number} {first.upper()} {second}"
        ended = await self.type_on_console(
            host,
            *(*PYTHON, "pkagent", "join", self.url, "--state", STATE),
            answers=[
                ("reads out?", b"7-guitr-volcano\n"),
                ("did you mean", b""),
                ("reads out?", typed.encode() + b"\n"),
            ],
        )
        self.assertEqual(ended.status, 0, ended.out)
        self.assertIn("as Host hidden", ended.out)
        self.assertIn("pkengine host approve hidden", ended.out)
        self.assertIn("The agent does not run", ended.out)

        [joined] = await self.engine.hosts.list()
        self.assertEqual(HostStatus.PENDING_APPROVAL, joined.status)
        self.assertEqual([KeySource.JOINED], [key.source for key in joined.keys])
        self.assertEqual(f"{INSIDE}.2", joined.address)
        router = self.test_hosts[0].address
        await self.assert_event(EventCode.HOST_JOINED, f"from {router} by invitation")

        service = f"{' '.join(PYTHON)} twistd --pidfile=/run/pkagent.pid --logfile=/root/log"
        await host.run(f"{service} pkagent --state {STATE} --listen none")
        await self.engine.hosts.admission.approve(joined.id, SshLogin(), ADMIN)
        up = await self.until(joined.id, HostStatus.UP)
        assert up.capabilities is not None
        self.assertEqual("hidden", up.capabilities.hostname)
        self.assertEqual("", await host.run("ss -Hltn || true"), "Nothing listens on such a host.")

        await self.maintain(up)
        await self.engine.hosts.maintenance.activate(up.id, ADMIN)
        await self.until(up.id, HostStatus.UP)
        await self.maintain(up)
        await self.engine.hosts.maintenance.remove(up.id, ADMIN)
        self.assertEqual("", (await host.run(f"ls {STATE}/engines.d")).strip())
        self.assertNotIn(
            "sha256//", await host.run(f"grep -v '^#' {STATE}/authorized_engines || :")
        )

    async def test_a_host_with_a_unit_is_started_by_joining(self) -> None:
        if shutil.which("systemd-nspawn") is None:
            raise SkipTest("systemd-container is not installed")
        host = await self.host("united", init="systemd")
        bundle = build_bundle(self.state.bundles)
        archive = host.root / "root/agent.tar.gz"
        archive.write_bytes(bundle.path.read_bytes())
        await host.run("mkdir -p /opt/pkagent && tar -xzf /root/agent.tar.gz -C /opt/pkagent")
        (host.root / "etc/systemd/system/pkagent.service").write_text(
            "[Service]\n"
            "Type=notify\n"
            "NotifyAccess=main\n"
            f"ExecStart={' '.join(PYTHON)} twistd --nodaemon --pidfile= pkagent --state {STATE}\n"
            "[Install]\n"
            "WantedBy=multi-user.target\n"
        )
        await host.run("systemctl daemon-reload")
        _, code = await self.engine.invitations.invite(ADMIN, is_approved=True)
        shown = await host.run(
            f"{' '.join(PYTHON)} pkagent join {self.url} --state {STATE} --json",
            stdin=code.reveal().encode() + b"\n",
        )
        self.assertRegex(shown, re.compile(r'"agent": "connected"'))
        [joined] = await self.engine.hosts.list()
        await self.until(joined.id, HostStatus.UP)
        self.assertEqual("enabled", (await host.run("systemctl is-enabled pkagent")).strip())

    async def test_a_clock_that_is_wrong_does_not_matter(self) -> None:
        host = await self.hidden_host("late")
        _, code = await self.engine.invitations.invite(ADMIN)
        # Time that the host's programs see; the certificates are not valid yet by it.
        shifted = (
            "import sys, time; now = time.time; time.time = lambda: now() - 7200; "
            "sys.argv = ['pkagent', 'join', sys.argv[1], '--state', sys.argv[2]]; "
            "sys.path.insert(0, '/opt/pkagent/lib'); "
            "from pkengine.cli.pkagent import main; main()"
        )
        (host.root / "root/late.py").write_text(shifted)
        shown = await host.run(
            f"python3 /root/late.py {self.url} {STATE}", stdin=code.reveal().encode() + b"\n"
        )
        self.assertIn("has joined", shown)
        self.assertIsInstance(JoinCode.parse(code.reveal()), JoinCode)
