"""The network between the tests and their hosts: a bridge with a subnet of its own.

The tests stand on it with the first address; nothing routes from it to anywhere else.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

from tests.hosts.processes import CommandFailed, run

_POOL = ipaddress.ip_network("10.213.0.0/16")
_FIRST_HOST = 10


class NetworksInUse(Exception):
    """There is no free network."""


class Network:
    """One bridge, with the links of the hosts on it.

    Each network has a number that no other process uses at the same time, because it holds
    an abstract socket of that number; the kernel gives that up when the process ends, in
    whatever way.  So who gets a number may remove what an earlier holder left behind.

    Args:
        reactor: runs programs.
        numbers: those to choose from.

    Raises:
        NetworksInUse: none of them is free.
    """

    def __init__(self, reactor: Any, numbers: Iterable[int] = range(256)) -> None:
        self._reactor = reactor
        self.number, self._claim = _claim_number(numbers)
        self._links = 0
        self.bridge = f"pkt{self.number}"
        self.subnet = list(_POOL.subnets(new_prefix=24))[self.number]
        self.own_address = str(self.subnet[1])

    async def open(self) -> None:
        """Make the bridge."""
        await self._remove_links()
        await self.ip(
            f"link add {self.bridge} type bridge",
            f"address add {self.own_address}/{self.subnet.prefixlen} dev {self.bridge}",
            f"link set {self.bridge} up",
        )

    async def close(self) -> None:
        """Remove the bridge and every link on it."""
        await self._remove_links()
        self._claim.close()

    def new_link(self) -> str:
        """Give a name, for one more host's end on the bridge, that nobody else uses."""
        self._links += 1
        return f"{self.bridge}-{self._links}"

    async def plug(self, link: str, pid: int) -> str:
        """Give the network namespace of a process an ``eth0`` on this network.

        Returns:
            Its address.
        """
        address = str(self.subnet[_FIRST_HOST + int(link.rpartition("-")[2])])
        await self.ip(
            f"link add {link} type veth peer name eth0 netns {pid}",
            f"link set {link} master {self.bridge} up",
        )
        await self.ip("link set lo up", "link set eth0 up", inside=pid)
        await self.set_address(pid, address)
        return address

    async def set_address(self, pid: int, address: str) -> None:
        """Let the host with that process have this address and no other."""
        await self.ip(
            "address flush dev eth0",
            f"address add {address}/{self.subnet.prefixlen} dev eth0",
            inside=pid,
        )
        await self.ip(f"neighbour flush dev {self.bridge}")

    async def set_rate(self, link: str, pid: int, rate: str) -> None:
        """Let no more pass than that rate, such as ``1mbit``, in each direction."""
        shape = f"root tbf rate {rate} burst 16kb latency 400ms"
        await run(self._reactor, "tc", *f"qdisc replace dev {link} {shape}".split())
        await run(
            self._reactor,
            *f"nsenter --net --target {pid} tc qdisc replace dev eth0 {shape}".split(),
        )

    async def ip(self, *commands: str, inside: int | None = None) -> None:
        """Run ``ip`` commands here, or in the network namespace of a process."""
        enter = () if inside is None else ("nsenter", "--net", "--target", str(inside))
        batch = "".join(f"{command}\n" for command in commands)
        await run(self._reactor, *enter, "ip", "-batch", "-", stdin=batch.encode())

    async def _remove_links(self) -> None:
        """Remove all links of this number; a host's end goes with its link."""
        for _, name in socket.if_nameindex():
            if name == self.bridge or name.startswith(f"{self.bridge}-"):
                try:
                    await self.ip(f"link delete {name}")
                except CommandFailed:
                    # The kernel removes the links of a dead host by itself, a little later.
                    if name in (present for _, present in socket.if_nameindex()):
                        raise


def _claim_number(numbers: Iterable[int]) -> tuple[int, socket.socket]:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for number in numbers:
        try:
            claim.bind(f"\0pkengine-test-network-{number}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return number, claim
    claim.close()
    raise NetworksInUse("Every network for test hosts is in use.")
