"""A real host changes how it connects without SSH, and both ends are killed meanwhile."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.engine.engine_process import EngineProcess
from tests.hosts import Host, open_farm

STATE = "/var/lib/pkagent"
POLL_S = 0.1


class RekeyingTests(TestCase):
    timeout = 480

    async def setUp(self) -> None:
        self.farm = await open_farm(self, reactor)
        with socket.create_server((self.farm.own_address, 0)) as listener:
            self.port = listener.getsockname()[1]
        self.state = Path(self.mktemp())
        await self.start_engine()
        self.addCleanup(lambda: self.stop_engine("TERM"))
        self.host = await self.farm.host("one", init="systemd")
        self.host_id = await self.add(self.host)

    async def start_engine(self) -> None:
        own = self.farm.own_address
        self.engine = EngineProcess(
            reactor,
            self.state,
            "--agent-url",
            f"wss://{own}:{self.port}/pkengine/agent",
            https=f"tcp:{self.port}",
        )
        await self.engine.ready

    async def stop_engine(self, signal: str) -> None:
        await self.engine.stop(signal)

    async def call(self, method: str, path: str, document: object | None = None) -> Any:
        status, answer = await self.engine.call(method, path, document)
        self.assertIn(status, (200, 201, 202), answer)
        return json.loads(answer)

    async def add(self, host: Host) -> str:
        added = await self.call(
            "POST",
            "/hosts",
            {
                "name": host.name,
                "address": host.address,
                "root_password": host.password["root"].reveal_text(),
                "ssh": {"fingerprint": str(await host.fingerprint())},
            },
        )
        self.host_id = str(added["id"])
        await self.until_up()
        return self.host_id

    async def until_up(self) -> dict[str, Any]:
        """Wait until the host is up and no change is under way; give it."""
        while True:
            host: dict[str, Any] = await self.call("GET", f"/hosts/{self.host_id}")
            self.assertNotEqual(host["status"], "install_failed", host)
            if host["status"] == "up" and "next_way" not in host["trust"]:
                return host
            await deferLater(reactor, POLL_S)

    async def change(self, connection: str, mechanism: str) -> None:
        """Change the way of the host, and see that it is the only one at both ends."""
        way = {"connection": connection, "mechanism": mechanism, "async": False}
        await self.call("POST", f"/hosts/{self.host_id}/rekey", way)
        await self.assert_connects_by(connection, mechanism)

    async def assert_connects_by(self, connection: str, mechanism: str) -> None:
        host = await self.until_up()
        self.assertEqual((host["connection"], host["mechanism"]), (connection, mechanism))
        [key] = host["trust"]["keys"]["key"]
        self.assertEqual((key["mechanism"], key["source"]), (mechanism, "rekeyed"))
        [line] = [
            line
            for line in (await self.host.run(f"cat {STATE}/authorized_engines")).splitlines()
            if line and not line.startswith("#")
        ]
        self.assertEqual("mechanism=" in line, mechanism != "pin", line)
        secrets = (await self.host.run(f"ls {STATE}/secrets")).split()
        self.assertEqual(len(secrets), int(mechanism in ("hmac", "spake2plus")))
        dialled = (await self.host.run(f"ls {STATE}/engines.d 2>/dev/null || :")).split()
        self.assertEqual(len(dialled), int(connection == "agent-dials"))
        # It is answered by the agent itself, now.
        await self.call("POST", f"/hosts/{self.host_id}/refresh", {})

    async def kill_agent(self) -> None:
        await self.host.run("systemctl kill -s KILL pkagent")

    async def kill_engine(self) -> None:
        await self.stop_engine("KILL")
        await self.start_engine()

    async def test_a_host_without_ssh_goes_through_every_way_whatever_is_killed(self) -> None:
        await self.host.run("systemctl stop ssh.service ssh.socket 2>/dev/null || :")
        with self.assertRaises(OSError):
            socket.create_connection((self.host.address, 22), timeout=2.0).close()
        for connection, mechanism in (
            ("agent-dials", "hmac"),
            ("agent-dials", "spake2plus"),
            ("agent-dials", "sign"),
            ("agent-dials", "pin"),
            ("engine-dials", "pin"),
        ):
            await self.change(connection, mechanism)
        # Killed in the middle, whichever middle that is: the host comes back by one of the two
        # ways, and nobody has to do anything for that.
        for kill in (self.kill_agent, self.kill_engine):
            for moment_s in (0.0, 0.1):
                for way in (
                    {"connection": "agent-dials", "mechanism": "hmac"},
                    {"connection": "engine-dials", "mechanism": "pin"},
                ):
                    await self.call("POST", f"/hosts/{self.host_id}/rekey", way)
                    await deferLater(reactor, moment_s)
                    await kill()
                    host = await self.until_up()
                    if (host["connection"], host["mechanism"]) != tuple(way.values()):
                        await self.change(way["connection"], way["mechanism"])
                    await self.assert_connects_by(way["connection"], way["mechanism"])
