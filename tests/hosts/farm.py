"""A farm of test hosts, for one test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.trial.unittest import SkipTest, TestCase

from tests.hosts.host import Host
from tests.hosts.nat import NatNetwork
from tests.hosts.network import Network
from tests.hosts.processes import caller_environment, run

_MAKE_TREE = Path(__file__).parent / "make_tree"
_PROGRAMS = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Farm:
    """Hosts on one network, which the tests are on as well.

    The tests and what they test reach the hosts directly by address, and the hosts reach
    the tests at `own_address`; the hosts reach nothing else.

    Args:
        reactor: runs programs.
        network: what its hosts are plugged into, or None for one of its own.

    Attributes:
        network: the same.
    """

    def __init__(self, reactor: Any, network: Network | None = None) -> None:
        self._reactor = reactor
        self.network = network or Network(reactor)
        self._hosts: list[Host] = []

    @property
    def own_address(self) -> str:
        """The address that the hosts find the tests at."""
        return self.network.own_address

    async def open(self) -> None:
        """Make the network."""
        await self.network.open()

    async def close(self) -> None:
        """Remove every host and the network; nothing is left of them."""
        await gatherResults([ensureDeferred(host.stop()) for host in self._hosts])
        await self.network.close()

    async def host(self, name: str, *, init: str = "sshd") -> Host:
        """Add a host and wait until its SSH server answers; see `Host.start`."""
        host = Host(self._reactor, name, self.network)
        self._hosts.append(host)
        await host.start(await base_tree(self._reactor), init=init)
        return host

    async def swap(self, one: Host, other: Host) -> None:
        """Let two hosts exchange their addresses."""
        address = one.address
        await one.move(other.address)
        await other.move(address)


async def open_farm(test: TestCase, reactor: Any, *, behind_nat: bool = False) -> Farm:
    """Give a test a farm, and remove it after the test, however that ended.

    Args:
        test: the test.
        reactor: runs programs.
        behind_nat: put each host behind a router of its own; see `NatNetwork`.

    Raises:
        SkipTest: this machine cannot have test hosts; the text says what is missing.
    """
    if missing := _missing():
        raise SkipTest(missing)
    if behind_nat and shutil.which("iptables", path=_PATH) is None:
        raise SkipTest("Test hosts behind NAT need Debian's iptables.")
    farm = Farm(reactor, NatNetwork(reactor) if behind_nat else None)
    test.addCleanup(lambda: ensureDeferred(farm.close()))
    await farm.open()
    return farm


async def base_tree(reactor: Any) -> Path:
    """Give the file tree that the hosts share; the first time it is made, in a minute or so."""
    environment = caller_environment("HOME", "XDG_CACHE_HOME", "PKENGINE_TEST_TREE")
    return Path((await run(reactor, str(_MAKE_TREE), extra_environment=environment)).strip())


def _missing() -> str:
    if os.geteuid() != 0:
        return "Test hosts are made of kernel namespaces, which needs root."
    packages = {
        package for program, package in _PROGRAMS.items() if not shutil.which(program, path=_PATH)
    }
    return f"Test hosts need Debian's {', '.join(sorted(packages))}." if packages else ""
