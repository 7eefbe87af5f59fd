"""How busy the host is now."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import psutil
from twisted.internet.interfaces import IReactorTime

from pkengine.channel.verbs import HostStats, NetworkInterface

_MIB = 1024 * 1024


class _CpuTimes(NamedTuple):
    """Seconds that all processors together have spent since boot."""

    user: float
    idle: float
    total: float

    @classmethod
    def now(cls) -> _CpuTimes:
        times = psutil.cpu_times()
        # Guests' time is within `user` and `nice` already (proc_stat(5)).
        total = sum(times[:8])
        return cls(times.user + times.nice, times.idle + times.iowait, total)


class Statistics:
    """Reads the load of the host; everything comes from memory and nothing waits.

    Args:
        directory: the folder whose free space is told.
        clock: gives the time.
    """

    def __init__(self, directory: Path, clock: IReactorTime) -> None:
        self._directory = directory
        self._clock = clock
        self._started = clock.seconds()
        self._first = _CpuTimes.now()
        self._previous: WeakKeyDictionary[object, _CpuTimes] = WeakKeyDictionary()

    def read(self, caller: object) -> HostStats:
        """Give the load now.

        Args:
            caller: who asks.  The use of the processors is counted since this caller asked
                last, or since the start of the agent, so that several callers do not
                shorten each other's intervals.
        """
        now = _CpuTimes.now()
        before = self._previous.get(caller, self._first)
        self._previous[caller] = now
        user, idle = _shares(before, now)
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        file_system = os.statvfs(self._directory)
        seconds = self._clock.seconds()
        return HostStats(
            cpu_user=user,
            cpu_idle=idle,
            cpu_sys=round(100.0 - user - idle, 2),
            cpu_load=os.getloadavg()[0],
            mem_total=memory.total // _MIB,
            mem_available=memory.available // _MIB,
            mem_free=memory.free // _MIB,
            swap_total=swap.total // _MIB,
            swap_free=swap.free // _MIB,
            boot_time=psutil.boot_time(),
            elapsed_time=max(0.0, seconds - self._started),
            date_time=seconds,
            disk_free=file_system.f_bavail * file_system.f_frsize,
            network=read_network(),
        )


def _shares(before: _CpuTimes, now: _CpuTimes) -> tuple[float, float]:
    """Give the per cent of user and idle time; the rest is the system's."""
    total = now.total - before.total
    if total <= 0:  # two calls within one tick of the kernel's clock
        return 0.0, 100.0
    user = min(1.0, max(0.0, (now.user - before.user) / total))
    idle = min(1.0 - user, max(0.0, (now.idle - before.idle) / total))
    return round(100.0 * user, 2), round(100.0 * idle, 2)


def read_network() -> dict[str, NetworkInterface]:
    """Give the counters and addresses of each interface but the loopback."""
    counters, addresses = psutil.net_io_counters(pernic=True), psutil.net_if_addrs()
    interfaces = {}
    for name, status in psutil.net_if_stats().items():
        count = counters.get(name)
        if count is None or "loopback" in status.flags.split(","):
            continue
        known = addresses.get(name, ())
        interfaces[name] = NetworkInterface(
            state="up" if status.isup else "down",
            rx=count.bytes_recv,
            tx=count.bytes_sent,
            rx_errors=count.errin,
            tx_errors=count.errout,
            speed=status.speed,
            mac=next((one.address for one in known if one.family == psutil.AF_LINK), ""),
            addresses=[
                one.address.partition("%")[0]
                for one in known
                if one.family in (socket.AF_INET, socket.AF_INET6)
            ],
        )
    return interfaces
