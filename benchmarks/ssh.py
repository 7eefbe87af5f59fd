"""SSH: pkengine's client beside OpenSSH's and, where it is installed, asyncssh.

    python benchmarks/ssh.py [--rounds N]

All of them talk to one OpenSSH server on the loopback, which runs as the current user with a
home of its own.  Each client negotiates what it likes best; only ``ssh`` is told to exchange keys
by curve25519, as its own default costs it 100 ms.

    upload   30 MiB to ``cat > FILE`` (OpenSSH: through an open master; asyncssh: sftp's put)
    login    connect, judge the host's key, log in by key, run ``true``, hang up
    fetch    the host keys of 50 hosts at once; the client's CPU time is what counts

Rounds alternate, so that whatever else the machine does meets all; the ratios are medians over
the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import os
import resource
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from pkengine.keys import SshPublicKey
from pkengine.ssh import (
    HostKeyPolicy,
    SshConnection,
    SshCredentials,
    SshIdentity,
    SshTarget,
    connect_ssh,
    fetch_host_keys,
)
from pkengine.ssh.known_hosts import known_host

try:
    import asyncssh
except ImportError:
    asyncssh = None

ADDRESS = "127.0.0.1"
UPLOAD = 30 * 1024 * 1024
HOSTS = 50
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None

#: What is divided by what, and what is asked for.
GOALS = (
    ("upload", "pkengine", "openssh", "speed", ">=", 0.9),
    ("upload", "pkengine", "asyncssh", "speed", ">=", 2.0),
    ("login", "pkengine", "asyncssh", "time", "<=", 0.65),
    ("login", "pkengine", "openssh", "time", "<=", 0.45),
    ("fetch", "pkengine", "asyncssh", "CPU", "<=", 0.6),
)


class Server:
    """An OpenSSH server for the current user, and what clients need to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.identity = SshIdentity.load_or_create(folder / "identity")
        self.private_key = folder / "identity/id_ed25519"
        self.known_hosts = folder / "known_hosts"
        with socket.create_server((ADDRESS, 0)) as found:
            self.port: int = found.getsockname()[1]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        if os.geteuid() == 0:  # then sshd also wants a folder of the system's
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.home.mkdir()
        path = self.folder / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        self.host_key = SshPublicKey.parse(path.with_suffix(".pub").read_text())
        self.known_hosts.write_text(f"{known_host(ADDRESS, self.port, self.host_key)}\n")
        authorized = self.folder / "authorized_keys"
        authorized.write_text(self.identity.authorized_keys_line + "\n")
        configuration = self.folder / "sshd_config"
        configuration.write_text(
            f"ListenAddress {ADDRESS}:{self.port}\nHostKey {path}\nPidFile none\n"
            f"AuthorizedKeysFile {authorized}\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nMaxStartups 200\nSetEnv HOME={self.home}\n"
            "Subsystem sftp internal-sftp\n"
        )
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd"
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen([sshd, "-D", "-e", "-f", configuration], stderr=log)
            try:
                self._wait()
                yield
            finally:
                process.terminate()
                process.wait()

    def _wait(self) -> None:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection((ADDRESS, self.port)).close()
                return
            time.sleep(0.02)

    def ssh(self, *arguments: str, stdin: Any = subprocess.DEVNULL) -> None:
        """Run OpenSSH's client."""
        options = {
            "UserKnownHostsFile": self.known_hosts,
            "IdentitiesOnly": "yes",
            "KexAlgorithms": "curve25519-sha256",
            "ControlPath": self.folder / "master",
        }
        command = ["ssh", "-F", "none", "-i", str(self.private_key), "-p", str(self.port)]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        subprocess.run([*command, *arguments], stdin=stdin, stdout=subprocess.DEVNULL, check=True)

    @property
    def login(self) -> str:
        return f"{getpass.getuser()}@{ADDRESS}"


class Pkengine:
    """This project's client."""

    def __init__(self, reactor: Any, server: Server) -> None:
        self._reactor = reactor
        self._server = server

    async def _connect(self) -> SshConnection:
        return await connect_ssh(
            self._reactor,
            SshTarget(ADDRESS, self._server.port, getpass.getuser()),
            HostKeyPolicy(stored=(self._server.host_key,)),
            SshCredentials(keys=(self._server.identity.private_key,)),
        )

    async def open(self) -> None:
        self._connection = await self._connect()

    async def close(self) -> None:
        await self._connection.close()

    async def upload(self, source: Path, target: Path) -> None:
        with source.open("rb") as stream:
            await self._connection.send(f"cat > {target}", stream, _size(source))

    async def login(self) -> None:
        connection = await self._connect()
        await connection.run("true")
        connection.close()

    async def fetch(self) -> None:
        fetching = [
            Deferred.fromCoroutine(fetch_host_keys(self._reactor, ADDRESS, self._server.port))
            for _ in range(HOSTS)
        ]
        for keys in await gatherResults(fetching, consumeErrors=True):
            assert keys == [self._server.host_key]


class OpenSsh:
    """``ssh``, with a master for what is done on an open connection."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def open(self) -> None:
        self._server.ssh("-f", "-N", "-M", self._server.login)

    async def close(self) -> None:
        self._server.ssh("-O", "exit", self._server.login)

    async def upload(self, source: Path, target: Path) -> None:
        with source.open("rb") as stream:
            self._server.ssh("-S", str(self._server.folder / "master"), self._server.login,
                             f"cat > {target}", stdin=stream)  # fmt: skip

    async def login(self) -> None:
        self._server.ssh("-S", "none", self._server.login, "true")


class AsyncSsh:
    """asyncssh in a thread of its own, as it wants another event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()

    def _run(self, coroutine: Awaitable[Any]) -> Deferred[Any]:
        return deferToThread(self._loop.run_until_complete, coroutine)

    def _connect(self) -> Any:
        return asyncssh.connect(
            ADDRESS,
            self._server.port,
            username=getpass.getuser(),
            known_hosts=str(self._server.known_hosts),
            client_keys=[str(self._server.private_key)],
            config=None,
            agent_path=None,
        )

    async def open(self) -> None:
        async def connect() -> Any:
            return await self._connect()

        self._connection = await self._run(connect())

    async def close(self) -> None:
        async def close() -> None:
            self._connection.close()
            await self._connection.wait_closed()

        await self._run(close())

    async def upload(self, source: Path, target: Path) -> None:
        async def put() -> None:
            async with self._connection.start_sftp_client() as sftp:
                await sftp.put(str(source), str(target))

        await self._run(put())

    async def login(self) -> None:
        async def log_in() -> None:
            async with self._connect() as connection:
                await connection.run("true", check=True)

        await self._run(log_in())

    async def fetch(self) -> None:
        async def fetch() -> None:
            keys = await asyncio.gather(
                *(asyncssh.get_server_host_key(ADDRESS, self._server.port) for _ in range(HOSTS))
            )
            assert all(keys)

        await self._run(fetch())


Measured = dict[tuple[str, str], list[float]]


async def main(reactor: Any, rounds: int) -> None:
    measured: Measured = {}
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="pkengine-bench-", dir=MEMORY)
        server = Server(Path(stack.enter_context(temporary)))
        stack.enter_context(server.running())
        source, target = server.folder / "source", server.folder / "target"
        source.write_bytes(os.urandom(UPLOAD))
        clients: dict[str, Any] = {
            "pkengine": Pkengine(reactor, server),
            "openssh": OpenSsh(server),
        }
        if asyncssh is not None:
            clients["asyncssh"] = AsyncSsh(server)
        for client in clients.values():
            await client.open()
        for number in range(rounds + 1):
            for what in ("login", "upload", "fetch"):
                for name, client in _rotated(clients, number):
                    if not hasattr(client, what):
                        continue
                    work = getattr(client, what)
                    took = await _time(what, work, source, target)
                    if number:  # the first round warms up
                        measured.setdefault((what, name), []).append(took)
        growth = await _memory(clients["pkengine"], server)
        for client in clients.values():
            await client.close()
    report(measured)
    print(f"memory: a file of 240 MiB, after one of {UPLOAD >> 20}, adds {growth >> 10} KiB")


def _rotated(clients: dict[str, Any], number: int) -> list[tuple[str, Any]]:
    """Let another one be the first in every round."""
    items = list(clients.items())
    return items[number % len(items) :] + items[: number % len(items)]


async def _time(
    what: str, work: Callable[..., Awaitable[None]], source: Path, target: Path
) -> float:
    """Give how long it took; of "fetch", how much CPU time."""
    _remove(target)
    cpu, began = time.process_time(), time.perf_counter()
    await (work(source, target) if what == "upload" else work())
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    if what == "upload":
        assert _size(target) == _size(source)
    return cpu if what == "fetch" else took


async def _memory(client: Pkengine, server: Server) -> int:
    """Give by how many octets the process grows over a large file."""
    large = server.folder / "large"
    with large.open("wb") as stream:
        stream.truncate(8 * UPLOAD)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await client.upload(large, Path("/dev/null"))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def report(measured: Measured) -> None:
    for (what, name), values in measured.items():
        median = statistics.median(values)
        if what == "upload":
            figure = f"{UPLOAD / 1e6 / median:7.0f} MB/s"
        else:
            figure = f"{median * 1e3:7.1f} ms" + (" of CPU" if what == "fetch" else "")
        print(f"{what:8s} {name:10s} {figure}")
    for what, ours, theirs, unit, relation, goal in GOALS:
        if (what, theirs) not in measured:
            print(f"{what:8s} beside {theirs}: not installed")
            continue
        pairs = zip(measured[what, ours], measured[what, theirs], strict=True)
        ratio = statistics.median(b / a if unit == "speed" else a / b for a, b in pairs)
        is_met = ratio >= goal if relation == ">=" else ratio <= goal
        print(
            f"{what:8s} {unit:5s} {ours} / {theirs:9s} {ratio:5.2f}   goal {relation} {goal}   "
            f"{'met' if is_met else 'NOT MET'}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments.rounds)))
