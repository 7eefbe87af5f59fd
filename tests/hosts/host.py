"""One test host, as seen by the test that asked for it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from pkengine.keys import Secret, SshFingerprint, SshPublicKey
from tests.hosts.network import Network
from tests.hosts.processes import PLAIN_ENVIRONMENT, run

_START_HOST = Path(__file__).parent / "start_host"
_START_DEADLINE_S = 60.0
#: Where a system, old, hybrid or new, may keep systemd's control groups.
_CGROUPS = [Path("/sys/fs/cgroup") / hierarchy for hierarchy in ("", "systemd", "unified")]
_READY = re.compile(rb"^ready\r?$", re.MULTILINE)


class HostSetupError(Exception):
    """A test host did not start; the text has what it said."""


class _Leader(ProcessProtocol):
    """The process that holds a host's namespaces: the host lives as long as it does."""

    def __init__(self) -> None:
        self._said = b""
        self._waiting: Deferred[None] | None = None
        self.ended: Deferred[None] = Deferred()

    def ready(self, reactor: Any) -> Deferred[None]:
        """Fire when the host says, the next time, that it is ready."""
        self._said = b""
        self._waiting = Deferred()
        return self._waiting.addTimeout(_START_DEADLINE_S, reactor)

    def outReceived(self, data: bytes) -> None:
        self._said += data
        if self._waiting is not None and _READY.search(self._said):
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        if self._waiting is not None:
            self._waiting.errback(HostSetupError(self._said.decode(errors="replace")))
        self.ended.callback(None)


class Host:
    """A host with its own kernel namespaces, file system, users and SSH server.

    Attributes:
        name: its host name.
        address: its address on the network of its farm.
        password: of ``root``, ``admin`` (who may use sudo with it) and ``nosudo``.
    """

    def __init__(self, reactor: Any, name: str, network: Network) -> None:
        self.name = name
        self.address = ""
        self.password = {
            user: Secret(secrets.token_urlsafe(12)) for user in ("root", "admin", "nosudo")
        }
        self._reactor = reactor
        self._network = network
        self._link = network.new_link()
        self._leader = _Leader()
        self._transport: Any = None

    async def start(self, tree: Path, *, init: str = "sshd") -> None:
        """Start it and wait until its SSH server answers.

        Args:
            tree: the file tree that the host sees, with changes of its own on top.
            init: ``sshd`` for nothing but the SSH server, ``systemd`` for a whole system.

        Raises:
            HostSetupError: it did not start.
        """
        # Whatever becomes of the tests, the host goes with them: the kernel kills the leader
        # when this process ends, and all processes of the host when the leader does.
        argv = "setpriv --pdeathsig KILL unshare --mount --propagation private --uts --ipc --net"
        argv += " --pid --fork --kill-child"
        command = [*argv.split(), str(_START_HOST), str(tree), self.name, self._link, init]
        accounts = "".join(
            f"{user}:{password.reveal_text()}\n" for user, password in self.password.items()
        )
        ready = self._leader.ready(self._reactor)
        self._transport = self._reactor.spawnProcess(
            self._leader, command[0], command, env=PLAIN_ENVIRONMENT
        )
        self._transport.write(accounts.encode())
        self._transport.closeStdin()
        await ready
        self.address = await self._network.plug(self._link, self._transport.pid)

    async def stop(self) -> None:
        """End everything on the host at once, as a power cut does."""
        if self._transport is not None and not self._leader.ended.called:
            # The leader ends after its child, and that when the kernel has killed all others.
            for pid in _children(self._transport.pid) or [self._transport.pid]:
                os.kill(pid, signal.SIGKILL)
            await self._leader.ended
        for hierarchy in _CGROUPS:
            await _remove_cgroup(self._reactor, hierarchy / self._link)

    # What it is like inside.

    async def run(self, command: str, *, stdin: bytes = b"") -> str:
        """Run a shell command as root on the host and give its standard output.

        Raises:
            CommandFailed: its exit status is not 0.
        """
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wdns=/"]
        return await run(
            self._reactor,
            *("nsenter", "--target", str(self.first_process), *namespaces, "sh", "-c", command),
            stdin=stdin,
        )

    @property
    def first_process(self) -> int:
        """The process that is number 1 on the host, by its number here."""
        # A whole system is in a namespace within that of the leader's child.
        numbers = {pid: _numbers(pid) for pid in _descendants(self._transport.pid)}
        first = [pid for pid, inside in numbers.items() if inside[-1:] == [1]]
        if not first:
            raise HostSetupError(f"{self.name} is not running.")
        return max(first, key=lambda pid: len(numbers[pid]))

    @property
    def root(self) -> Path:
        """The host's file tree, to be looked into; absolute links in it lead elsewhere."""
        return Path(f"/proc/{self.first_process}/root")

    # Its SSH server.

    async def host_key(self, key_type: str = "ed25519") -> SshPublicKey:
        """Give one of its host keys, ``ed25519`` or ``ecdsa``."""
        return SshPublicKey.parse(await self.run(f"cat /etc/ssh/ssh_host_{key_type}_key.pub"))

    async def fingerprint(self, key_type: str = "ed25519") -> SshFingerprint:
        """Give the fingerprint of a host key, as OpenSSH on the host prints it."""
        printed = await self.run(f"ssh-keygen -lf /etc/ssh/ssh_host_{key_type}_key.pub")
        return SshFingerprint.parse(printed.split()[1])

    async def rotate_host_keys(self) -> None:
        """Give it new host keys, as if it had been installed anew."""
        await self.run("rm /etc/ssh/ssh_host_*_key*; ssh-keygen -q -A; rm /etc/ssh/*_rsa_key*")
        await self.restart_sshd()

    async def restart_sshd(self, *options: str) -> None:
        """Start its SSH server anew; open sessions go on.

        Args:
            options: lines such as ``MaxAuthTries 1`` that win over the rest of its
                configuration; those of an earlier call are forgotten.
        """
        (self.root / "etc/ssh/sshd_config.d/05-options.conf").write_text("\n".join(options) + "\n")
        await self.run(
            "sshd=$(cat /run/sshd.pid); rm /run/sshd.pid; kill -HUP $sshd; "
            "until [ -s /run/sshd.pid ]; do sleep 0.01; done"
        )

    async def cut_ssh_sessions(self) -> None:
        """Kill every SSH session, but not the server that takes new ones."""
        await self.run(
            "pgrep -f '^sshd: ' | grep -vx \"$(cat /run/sshd.pid)\" | xargs -r kill -KILL"
        )

    async def ssh_log(self) -> str:
        """Give what its SSH server saw, without systemd: who came, as whom, and how."""
        return await self.run("cat /var/log/sshd.log")

    # Its link.

    async def cut(self) -> None:
        """Pull its cable."""
        await self._network.ip(f"link set {self._link} down")

    async def join(self) -> None:
        """Put its cable back."""
        await self._network.ip(
            f"link set {self._link} up", f"neighbour flush dev {self._network.bridge}"
        )

    async def slow(self, rate: str) -> None:
        """Let no more than a rate such as ``1mbit`` pass, in each direction."""
        await self._network.set_rate(self._link, self._transport.pid, rate)

    async def move(self, address: str) -> None:
        """Let it have another address."""
        await self._network.set_address(self._transport.pid, address)
        self.address = address

    # What a whole system can do (`init="systemd"`).

    async def reboot(self) -> None:
        """Reboot it and wait until it is up again."""
        ready = self._leader.ready(self._reactor)
        await self.run("systemctl reboot")
        await ready


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _numbers(pid: int) -> list[int]:
    """Give a process's numbers, from here to the innermost namespace that it is in."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(number) for number in line.split()[1:]]
    return []


async def _remove_cgroup(reactor: Any, cgroup: Path) -> None:
    """Remove the control groups of a host whose processes were killed."""
    if cgroup.exists():
        await run(
            reactor, "find", str(cgroup), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"
        )
