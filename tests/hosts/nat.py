"""A router with NAT and one host behind it, of which nothing is reached but what is forwarded."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.hosts.network import Network
from tests.hosts.processes import PLAIN_ENVIRONMENT, run

_INSIDE = "192.168.77"


class _Router(ProcessProtocol):
    """Holds the router's network namespace for as long as it lives."""

    def __init__(self) -> None:
        self.ready: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        if not self.ready.called:
            self.ready.callback(None)

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        self.ended.callback(None)


class NatNetwork(Network):
    """A network whose hosts are each behind a router of its own, which masks their addresses.

    A host's address there is its router's: connections to its port 22 are forwarded to the
    host, and all others end at the router.

    Args:
        reactor: runs programs.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self._routers: list[tuple[Any, _Router]] = []

    async def plug(self, link: str, pid: int) -> str:
        """See `Network.plug`; what is plugged in is a router, and the host into that."""
        router = _Router()
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c"]
        process = self._reactor.spawnProcess(
            router,
            command[0],
            [*command, "echo ready; exec sleep infinity"],
            env=PLAIN_ENVIRONMENT,
        )
        self._routers.append((process, router))
        await router.ready
        address = await super().plug(link, process.pid)
        await self.ip(
            f"link add lan type veth peer name eth0 netns {pid}",
            f"address add {_INSIDE}.1/24 dev lan",
            "link set lan up",
            inside=process.pid,
        )
        await self.ip(
            f"address add {_INSIDE}.10/24 dev eth0",
            "link set lo up",
            "link set eth0 up",
            f"route add default via {_INSIDE}.1",
            inside=pid,
        )
        inside = f"nsenter --net --target {process.pid}"
        for rule in (
            "POSTROUTING -o eth0 -j MASQUERADE",
            f"PREROUTING -i eth0 -p tcp --dport 22 -j DNAT --to-destination {_INSIDE}.10",
        ):
            await run(self._reactor, *f"{inside} iptables -t nat -A {rule}".split())
        await run(
            self._reactor, *inside.split(), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"
        )
        return address

    async def close(self) -> None:
        """Remove the routers as well."""
        for process, router in self._routers:
            if process.pid is not None:
                process.signalProcess("KILL")
            await router.ended
        await super().close()
