"""A fleet whose engine is killed dials in again; what that, and a quiet fleet, costs.

    python benchmarks/dial_in_storm.py [--agents N] [--mechanism pin|sign|hmac|spake2plus]

The engine is a real ``twistd pkengine``, the agents are in one second process, each with a key
and a dialler of its own.  First some hosts that are in maintenance dial in one after the other,
which gives the CPU time of one dial-in, both ends together.  Then the whole fleet dials in, the
engine is killed by SIGKILL and started again, and from when it serves until the last host is
``up`` a client of the REST API asks again and again.  At last everybody is left in peace, and
the CPU time of the engine is what heartbeats and statistics cost.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import random
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

GOAL_TIMES = 2.5
GOAL_REST_MS = 250.0
GOAL_IDLE_PERCENT = 12.0
#: Hosts in maintenance, for the cost of one dial-in.
SINGLE = 100
#: The agents start one after the other, within so many seconds.
START_S = 5.0
CORES = len(os.sched_getaffinity(0))
TWISTD = "from twisted.scripts.twistd import run; run()"


# The engine.


def prepare(folder: Path, agents: int, mechanism: str) -> None:
    """Make the state folder of an engine with hosts, and the keys of their agents."""
    from sqlalchemy import select

    from pkengine.auth.pake import register_pair
    from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
    from pkengine.auth.trust import MemoryTrustStore
    from pkengine.engine.hosts.trust import HostTrust
    from pkengine.engine.model import Host, HostConnection, HostKey, HostStatus, KeySource
    from pkengine.engine.state import StateFolder
    from pkengine.engine.store import open_database
    from pkengine.engine.store.database import transaction
    from pkengine.engine.store.hosts import insert_host
    from pkengine.engine.store.schema import clusters
    from pkengine.keys import KeyPair, Secret

    state = StateFolder(folder / "engine")
    state.prepare()
    database = open_database(state.default_database_url)
    seal = state.seal(is_in_use=False)
    trust = HostTrust(MemoryTrustStore(), MemorySharedKeys(), seal)
    cluster = transaction(database, False, lambda c: c.execute(select(clusters.c.id)).scalar_one())
    now = datetime.datetime.now(datetime.timezone.utc)
    known: dict[str, Any] = {
        "engine": str(state.key_pair().pin),
        "https": str(state.https_key_pair().pin),
        "mechanism": mechanism,
        "agents": [],
    }
    hosts = []
    for number in range(agents + SINGLE):
        host_id = uuid.uuid4()
        if mechanism in ("pin", "sign"):
            pair = KeyPair.generate("agent")
            secret = pair.private_key_pem().decode() + pair.certificate_pem().decode()
            key = HostKey(key=pair.pin, mechanism=mechanism, source=KeySource.DEPLOYED, added=now)
        else:
            if mechanism == "hmac":
                own = SharedKey.generate("hmac", local=str(host_id), peer="engine")
                other = own.for_peer()
            else:
                own, other = register_pair(
                    Secret(os.urandom(32)), prover=str(host_id), verifier="engine"
                )
            secret = own.encode().decode("latin-1")
            key = trust.host_key(other, mechanism, KeySource.DEPLOYED, now)
        known["agents"].append(secret)
        hosts.append(
            Host(
                id=host_id,
                name=f"host-{number:05}",
                address=f"127.{1 + number // 60000}.{number // 250 % 240}.{1 + number % 250}",
                port=9,
                cluster_id=cluster,
                status=HostStatus.UP if number < agents else HostStatus.MAINTENANCE,
                connection=HostConnection.AGENT_DIALS,
                mechanism=mechanism,
                keys=(key,),
            )
        )
    transaction(database, True, lambda c: [insert_host(c, host, now) for host in hosts])
    database.dispose()
    (folder / "agents.json").write_text(json.dumps(known))


class Engine:
    """A ``twistd pkengine`` that serves."""

    def __init__(self, folder: Path, port: int) -> None:
        command = [sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", "--logfile"]
        command += [str(folder / "engine.log"), "pkengine", "--state", str(folder / "engine")]
        command += ["--https", f"tcp:{port}:interface=127.0.0.1:backlog=4096"]
        (folder / "engine" / "https.url").unlink(missing_ok=True)
        self.begun = time.monotonic()
        self.process = subprocess.Popen(command, cwd=folder)
        self.url = folder / "engine" / "https.url"

    def await_ready(self) -> None:
        """Wait until it serves."""
        while not self.url.exists():
            if self.process.poll() is not None:
                raise SystemExit("the engine has ended")
            time.sleep(0.01)
        self.ready = time.monotonic()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def cpu_s(pid: int) -> float:
    """Give the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


# A client of the REST API, of the standard library, so that it costs little.


class Client:
    """One connection to the API."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=str(folder / "engine" / "https.crt"))
        self.password = (folder / "engine" / "initial-admin-password").read_text().strip()
        self.token = ""

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname="localhost"
        )

    async def ask(self, method: str, path: str, body: str = "") -> bytes:
        self.writer.write(
            f"{method} /ovirt-engine{path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Accept: application/json\r\nAuthorization: Bearer {self.token}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        headers = dict(
            line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
        )
        if b"content-length" in headers:
            return await self.reader.readexactly(int(headers[b"content-length"]))
        parts = []
        while size := int(await self.reader.readline(), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readline()
        await self.reader.readline()
        return b"".join(parts)

    async def log_in(self) -> None:
        form = {"grant_type": "password", "scope": "ovirt-app-api", "username": "admin@internal"}
        answer = await self.ask(
            "POST", "/sso/oauth/token", urlencode({**form, "password": self.password})
        )
        self.token = json.loads(answer)["access_token"]

    async def hosts_up(self) -> int:
        summary = json.loads(await self.ask("GET", "/api"))["summary"]
        return int(summary["hosts"]["active"])


async def until_all_are_up(client: Client, agents: int, taken: list[float]) -> float:
    """Ask until every host is up; give when that was."""
    while True:
        begun = time.monotonic()
        is_all = await client.hosts_up() >= agents
        taken.append(time.monotonic() - begun)
        if is_all:
            return time.monotonic()
        await asyncio.sleep(0.05)


# The agents, in a process of their own.


async def be_agents(folder: Path, port: int) -> None:
    """Dial as commands on standard input say, until it ends."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.stdio import StandardIO
    from twisted.protocols.basic import LineOnlyReceiver

    from pkengine.agent.connected_engines import ConnectedEngines
    from pkengine.agent.dialled_engines import DialledEngine
    from pkengine.agent.engine_dialler import EngineDialler
    from pkengine.agent.engine_dialling import EngineDialling
    from pkengine.auth import MemoryTrustStore, TrustedPeer
    from pkengine.auth.mechanisms import IdentityParts
    from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
    from pkengine.channel import Verbs, verbs
    from pkengine.keys import KeyPair, Pin

    known = json.loads((folder / "agents.json").read_text())
    mechanism = known["mechanism"]
    told = DialledEngine(f"wss://127.0.0.1:{port}", mechanism, known["https"])
    capabilities = verbs.Capabilities(
        uuid="4c4c4544-0044-4810-8031-b4c04f564433",
        hostname="h",
        operating_system=verbs.OperatingSystem(name="debian", version="12", pretty_name="Debian"),
        kernel_release="6.1.0",
        architecture="x86_64",
        cpu_model="A processor",
        cpu_sockets=2,
        cpu_cores=8,
        cpu_threads=16,
        cpu_speed=2400.5,
        mem_size=16000,
        selinux="disabled",
        kdump_status="disabled",
        boot_uuid="d0c3ce4c-1111-4810-8031-b4c04f564433",
        python_version="3.11.7",
        software_version="1.0",
        kernel_args="quiet",
    )
    numbers = [name for name in verbs.HostStats.__struct_fields__ if name != "network"]
    statistics = verbs.HostStats(**dict.fromkeys(numbers, 1), network={})
    answers = Verbs()
    for verb, answer in (
        (verbs.GET_CAPABILITIES, capabilities),
        (verbs.GET_HARDWARE_INFO, verbs.HardwareInfo(system_manufacturer="ACME")),
        (verbs.GET_VERSION, verbs.AgentVersion("1.0", "3.11", "", 0.0, 1)),
        (verbs.GET_STATS, statistics),
    ):
        answers.add(verb, verbs.Nothing, lambda _, __, answer=answer: answer)
    failures: list[str] = []
    connected = [0]
    #: Attempts that began before find an engine that is gone, or just starting.
    counted_since = [0.0]

    class Told:
        """Stands for the folder of the engines that an agent dials."""

        def changed_at(self) -> int:
            return 0

        def all(self) -> tuple[dict[str, DialledEngine], list[Any]]:
            return {"engine": told}, []

    def connect_of(secret: str) -> Any:
        keys = MemorySharedKeys()
        pair = spare
        if mechanism in ("pin", "sign"):
            pair = KeyPair(
                load_pem_private_key(secret.encode(), None),
                load_pem_x509_certificate(secret.encode()),
            )
            engine = Pin.parse(known["engine"])
        else:
            key = SharedKey.decode(secret.encode("latin-1"))
            keys.add(key)
            engine = key.key_id
        trust = MemoryTrustStore([TrustedPeer("engine", engine, frozenset({mechanism}))])
        dialling = EngineDialling(reactor, IdentityParts(pair, trust, keys), answers, {})

        async def connect(name: str, engine: DialledEngine) -> Any:
            begun = time.monotonic()
            try:
                channel = await dialling.connect(name, engine)
            except Exception as error:
                if begun >= counted_since[0]:
                    failures.append(f"{type(error).__name__}: {error}")
                raise
            connected[0] += 1
            channel.closed.addCallback(lost)
            return channel

        def lost(reason: Any) -> Any:
            connected[0] -= 1
            return reason

        return connect

    spare = KeyPair.generate("agent")
    connects = [connect_of(secret) for secret in known["agents"]]
    diallers = [
        EngineDialler(reactor, Told(), connect, ConnectedEngines(reactor, lambda: None))
        for connect in connects[:-SINGLE]
    ]

    async def do(command: str) -> Any:
        if command == "single":
            for connect in connects[-SINGLE:]:
                channel = await connect("engine", told)
                channel.close()
                await channel.closed
        elif command == "start":
            for dialler in diallers:  # as machines do that are switched on together
                reactor.callLater(random.uniform(0, START_S), dialler.startService)
        elif command == "forget":
            failures.clear()
            counted_since[0] = time.monotonic()
        return {"connected": connected[0], "failures": len(failures), "last": failures[-3:]}

    class Commands(LineOnlyReceiver):
        delimiter = b"\n"

        def lineReceived(self, line: bytes) -> None:
            done = Deferred.fromCoroutine(do(line.decode()))
            done.addCallback(lambda answer: self.sendLine(json.dumps(answer).encode()))
            done.addErrback(lambda failure: failure.printTraceback() or os._exit(1))

        def connectionLost(self, reason: Any) -> None:
            os._exit(0)

    StandardIO(Commands())
    await Deferred()


class Agents:
    """The process of the agents."""

    def __init__(self, folder: Path, port: int) -> None:
        command = [sys.executable, __file__, "--folder", str(folder), "--port", str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def do(self, command: str) -> dict[str, Any]:
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


async def measure(folder: Path, agents: int, mechanism: str, idle_s: float) -> None:
    port = free_port()
    engine, fleet = Engine(folder, port), Agents(folder, port)
    try:
        engine.await_ready()
        fleet.do("forget")
        pids = (engine.process.pid, fleet.process.pid)
        fleet.do("single")
        before = [cpu_s(pid) for pid in pids]
        fleet.do("single")
        each = [(cpu_s(pid) - used) / SINGLE for pid, used in zip(pids, before, strict=True)]
        print(
            f"{mechanism}: one dial-in takes {each[0] * 1e3:.1f} ms of CPU at the engine, "
            f"{each[1] * 1e3:.1f} ms at the agent"
        )
        without = private_kib(pids[0])
        client = Client(folder, port)
        await client.connect()
        await client.log_in()
        fleet.do("start")
        await until_all_are_up(client, agents, [])
        with_all = private_kib(pids[0])
        engine.kill()
        engine = Engine(folder, port)
        engine.await_ready()
        fleet.do("forget")
        begun_cpu = [cpu_s(engine.process.pid), cpu_s(fleet.process.pid)]
        taken: list[float] = []
        await client.connect()
        up = asyncio.ensure_future(until_all_are_up(client, agents, taken))
        connected = None
        while connected is None or not up.done():
            if connected is None and fleet.do("")["connected"] >= agents:
                connected = time.monotonic() - engine.ready
            await asyncio.sleep(0.1)
        said = fleet.do("")
        used = [cpu_s(engine.process.pid) - begun_cpu[0], cpu_s(fleet.process.pid) - begun_cpu[1]]
        limit = GOAL_TIMES * sum(each) * agents / CORES
        print(
            f"{agents} agents are back {connected:.1f} s after the engine serves again, which is "
            f"{connected / (limit / GOAL_TIMES):.2f} of CPU of all dial-ins / {CORES} cores "
            f"(goal: at most {GOAL_TIMES})\n"
            f"all hosts are up after {up.result() - engine.ready:.1f} s; CPU of the engine "
            f"{used[0]:.1f} s, of the agents {used[1]:.1f} s"
        )
        print(f"failed attempts meanwhile: {said['failures']} (goal: 0) {said['last']}")
        taken.sort()
        print(
            f"REST meanwhile: {len(taken)} answers, median {taken[len(taken) // 2] * 1e3:.0f} ms, "
            f"p99 {taken[int(len(taken) * 0.99)] * 1e3:.0f} ms (goal: at most {GOAL_REST_MS:.0f})"
        )
        print(f"memory of the engine: {(with_all - without) / agents:.1f} KiB for each agent")
        await asyncio.sleep(2)
        used_idle = cpu_s(engine.process.pid)
        await asyncio.sleep(idle_s)
        percent = (cpu_s(engine.process.pid) - used_idle) / idle_s * 100
        print(
            f"left in peace, the engine uses {percent:.1f} % of a core for {agents} agents "
            f"(goal: at most {GOAL_IDLE_PERCENT:.0f})"
        )
    finally:
        engine.kill()
        fleet.process.kill()
        fleet.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=2000)
    parser.add_argument("--mechanism", default="hmac")
    parser.add_argument("--idle", type=float, default=20, help="seconds")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.port:
        from twisted.internet.defer import ensureDeferred
        from twisted.internet.task import react

        react(lambda _: ensureDeferred(be_agents(options.folder, options.port)))
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        prepare(folder, options.agents, options.mechanism)
        asyncio.run(measure(folder, options.agents, options.mechanism, options.idle))


if __name__ == "__main__":
    main()
