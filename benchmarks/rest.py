"""``GET /hosts`` with 1,000 hosts, beside lxml building the same document; and a token check.

Run it with ``pip install 'pkengine[engine]' lxml`` and ``python benchmarks/rest.py``.

The list is read over HTTP on the loopback interface: token, SQLite store, XML and HTTP are
in the time.  lxml builds the same tree from values that are in memory already, and writes
it.  The two take turns in rounds; medians and the ratio are printed, and how much memory the
answer to a list of four times the length takes beyond that.  Credentials are checked as they
are in steady use, and in the rare cases in which the store is asked.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import statistics
import tempfile
import time
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

from lxml import etree
from sqlalchemy import Connection
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import react

from pkengine.channel.verbs import Capabilities, HardwareInfo, OperatingSystem
from pkengine.engine.accounts import ADMIN, Accounts
from pkengine.engine.clock import utc_now
from pkengine.engine.clusters import Clusters
from pkengine.engine.model import Host, HostKey, HostKeySource, HostSsh, HostStatus, KeySource
from pkengine.engine.rest import HttpServer, site
from pkengine.engine.rest.application import Folder
from pkengine.engine.service import Engine
from pkengine.engine.state import StateFolder
from pkengine.engine.store import Store
from pkengine.engine.store import hosts as queries
from pkengine.errors import NotAuthorized
from pkengine.keys import Pin, Secret, SshPublicKey

HOST_KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
)
CAPABILITIES = Capabilities(
    uuid="4c4c4544-0044-4810-8031-b4c04f564433",
    hostname="h",
    operating_system=OperatingSystem(name="debian", version="12", pretty_name="Debian 12"),
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

CREDENTIALS = (
    "a token that is in use",
    "the password of a client that sends it each time",
    "a token that another engine has issued, first time",
    "a token that nobody knows, first time",
    "200 such tokens at once, each",
)


def make_host(number: int, cluster_id: uuid.UUID) -> Host:
    ssh = HostSsh(
        fingerprint=HOST_KEY.fingerprint(), public_key=HOST_KEY, key_source=HostKeySource.GIVEN_KEY
    )
    key = HostKey(
        key=Pin(number.to_bytes(32, "big")),
        mechanism="pin",
        source=KeySource.DEPLOYED,
        added=utc_now(reactor),
    )
    return Host(
        id=uuid.uuid4(),
        name=f"host-{number:05}",
        address=f"host-{number:05}.example.com",
        cluster_id=cluster_id,
        status=HostStatus.MAINTENANCE,
        ssh=ssh,
        keys=(key,),
        capabilities=CAPABILITIES,
        hardware=HardwareInfo(system_manufacturer="ACME", system_uuid=CAPABILITIES.uuid),
        agent_version="1.0",
    )


async def add_hosts(store: Store, clusters: Clusters, first: int, count: int) -> None:
    cluster = await clusters.default()
    hosts = [make_host(number, cluster.id) for number in range(first, first + count)]

    def insert(connection: Connection) -> None:
        for host in hosts:
            queries.insert_host(connection, host, utc_now(reactor))

    await store.write(insert)


class Reader(Protocol):
    """Asks, and reads to the end; `keep` is False where only the length counts."""

    def __init__(self, token: str, *, keep: bool) -> None:
        self.token = token
        self.keep = keep
        self.received: list[bytes] = []
        self.length = 0
        self.ended: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(
            b"GET /ovirt-engine/api/hosts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Authorization: Bearer " + self.token.encode() + b"\r\n\r\n"
        )

    def dataReceived(self, data: bytes) -> None:
        self.length += len(data)
        if self.keep:
            self.received.append(data)

    def connectionLost(self, reason: Any) -> None:
        self.ended.callback(None)


async def read(port: int, token: str, *, keep: bool = True) -> Reader:
    reader = Reader(token, keep=keep)
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), reader)
    await reader.ended
    return reader


def document(answer: bytes) -> bytes:
    """Take the XML out of an answer, which may be in chunks."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return body
    parts = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return b"".join(parts)
        parts.append(body[:length])
        body = body[length + 2 :]


def values(element: Any) -> Any:
    """Give an element as plain values, for lxml to build it from."""
    return element.tag, dict(element.attrib), element.text, [values(child) for child in element]


def build(value: Any) -> bytes:
    def add(parent: Any, child: Any) -> None:
        tag, attributes, text, children = child
        made = etree.SubElement(parent, tag, attributes)
        made.text = text
        for below in children:
            add(made, below)

    tag, attributes, _, children = value
    root = etree.Element(tag, attributes)
    for child in children:
        add(root, child)
    written: bytes = etree.tostring(root)
    return written


async def check_credentials(accounts: Accounts, token: str, password: Secret) -> list[float]:
    """Give the CPU time of one check of each kind of credential, in ms."""
    tokens = accounts.tokens

    def forget() -> None:
        accounts.forget_user(user.id)

    user = (await tokens.check(token)).user
    await accounts.recognize(ADMIN, password, "127.0.0.1")
    unknown = [secrets.token_urlsafe(32) for _ in range(200)]
    found = []
    for count, before_each, check in (
        (5000, None, lambda number: tokens.check(token)),
        (1000, None, lambda number: accounts.recognize(ADMIN, password, "127.0.0.1")),
        (200, forget, lambda number: tokens.check(token)),
        (200, None, lambda number: _refused(tokens.check(unknown[number]))),
    ):
        before = time.process_time()
        for number in range(count):
            if before_each is not None:
                before_each()
            await check(number)
        found.append((time.process_time() - before) / count * 1e3)
    before = time.process_time()
    await DeferredList([ensureDeferred(_refused(tokens.check(f"{text}x"))) for text in unknown])
    found.append((time.process_time() - before) / len(unknown) * 1e3)
    return found


async def _refused(check: Any) -> None:
    with contextlib.suppress(NotAuthorized):
        await check


async def measure(folder: Path, hosts: int, rounds: int) -> None:
    engine = Engine(reactor, StateFolder(folder / "state"), https="tcp:0:interface=127.0.0.1")
    engine.privilegedStartService()
    engine.startService()
    try:
        await engine.started
        await measure_engine(engine, hosts, rounds)
    finally:
        await engine.stopService()


async def measure_engine(engine: Engine, hosts: int, rounds: int) -> None:
    store = engine.store
    password = Secret(engine.state.initial_admin_password.read_bytes().strip())
    user = await engine.accounts.check_password(ADMIN, password, "127.0.0.1")
    token = (await engine.accounts.tokens.issue(user)).text.reveal_text()
    await add_hosts(store, engine.clusters, 0, hosts)
    root = Folder()
    root.putChild(b"ovirt-engine", site(engine))
    server = HttpServer(root, reactor)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(server)
    number = port.getHost().port

    xml = document(b"".join((await read(number, token)).received))
    value = values(etree.fromstring(xml))
    assert len(value[3]) == hosts
    times: dict[str, list[float]] = {"GET /hosts": [], "lxml": []}
    checks: list[list[float]] = []
    for _ in range(rounds):
        before = time.perf_counter()
        await read(number, token)
        times["GET /hosts"].append((time.perf_counter() - before) * 1e3)
        before = time.perf_counter()
        build(value)
        times["lxml"].append((time.perf_counter() - before) * 1e3)
        checks.append(await check_credentials(engine.accounts, token, password))

    print(f"{hosts} hosts, {len(xml)} octets of XML; ms:")
    print(f"{'':28}{'median':>8}{'min':>8}{'max':>8}")
    for kind, found in times.items():
        print(f"{kind:28}{statistics.median(found):8.1f}{min(found):8.1f}{max(found):8.1f}")
    ratios = [
        ours / theirs for ours, theirs in zip(times["GET /hosts"], times["lxml"], strict=True)
    ]
    print(f"GET /hosts / lxml: {statistics.median(ratios):.2f} (goal at most 3)")
    print("one check of a credential, ms of CPU (goal 0.2):")
    for kind, column in zip(CREDENTIALS, zip(*checks, strict=True), strict=True):
        print(f"{kind:52}{statistics.median(column):8.4f}")

    peaks = []
    for more in (0, 3 * hosts):
        await add_hosts(store, engine.clusters, hosts, more)
        tracemalloc.start()
        await read(number, token, keep=False)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    print(f"memory at the peak: {peaks[0]:.1f} MiB, for four times the hosts {peaks[1]:.1f} MiB")
    await port.stopListening()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        react(lambda _: ensureDeferred(measure(Path(name), options.hosts, options.rounds)), ())


if __name__ == "__main__":
    main()
