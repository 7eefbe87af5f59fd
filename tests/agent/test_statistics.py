"""The load that the agent tells is the load that the kernel counts."""

from __future__ import annotations

import socket
from collections import namedtuple
from pathlib import Path

import psutil
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from pkengine.agent.statistics import Statistics, read_network

CpuTimes = namedtuple(
    "CpuTimes", "user nice system idle iowait irq softirq steal guest guest_nice"
)


class Caller:
    """Somebody who asks."""


class StatisticsTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.times = CpuTimes(100, 0, 100, 800, 0, 0, 0, 0, 0, 0)
        self.patch(psutil, "cpu_times", lambda: self.times)
        self.statistics = Statistics(self.directory, self.clock)

    def spend(self, **seconds: float) -> None:
        self.times = self.times._replace(
            **{name: getattr(self.times, name) + spent for name, spent in seconds.items()}
        )

    def test_processor_time_is_shared_among_user_system_and_idle(self) -> None:
        self.spend(user=10, nice=10, system=5, irq=2, softirq=2, steal=1, idle=60, iowait=10)
        found = self.statistics.read(Caller())
        self.assertEqual((found.cpu_user, found.cpu_sys, found.cpu_idle), (20.0, 10.0, 70.0))

    def test_guests_are_not_counted_twice(self) -> None:
        self.spend(user=50, guest=50, idle=50)
        found = self.statistics.read(Caller())
        self.assertEqual((found.cpu_user, found.cpu_sys, found.cpu_idle), (50.0, 0.0, 50.0))

    def test_each_caller_has_an_interval_of_its_own(self) -> None:
        often, seldom = Caller(), Caller()
        self.statistics.read(seldom)
        self.spend(user=30)
        self.statistics.read(often)
        self.spend(idle=10)
        self.assertEqual(self.statistics.read(often).cpu_idle, 100.0)
        self.assertEqual(self.statistics.read(seldom).cpu_idle, 25.0)

    def test_two_calls_within_one_tick_show_an_idle_host(self) -> None:
        caller = Caller()
        self.statistics.read(caller)
        found = self.statistics.read(caller)
        self.assertEqual((found.cpu_user, found.cpu_sys, found.cpu_idle), (0.0, 0.0, 100.0))

    def test_counters_that_run_backwards_stay_within_bounds(self) -> None:
        """The kernel's idle and iowait counters may go down (proc_stat(5))."""
        self.spend(user=20, iowait=-10)
        found = self.statistics.read(Caller())
        self.assertEqual((found.cpu_user, found.cpu_sys, found.cpu_idle), (100.0, 0.0, 0.0))

    def test_callers_that_left_are_forgotten(self) -> None:
        self.statistics.read(Caller())
        self.assertEqual(len(self.statistics._previous), 0)

    def test_times_are_those_of_the_clock(self) -> None:
        self.clock.advance(90)
        found = self.statistics.read(Caller())
        self.assertEqual(found.elapsed_time, 90)
        self.assertEqual(found.date_time, 1_000_090)
        self.assertEqual(found.boot_time, psutil.boot_time())

    def test_memory_and_disk_are_the_machines(self) -> None:
        found = self.statistics.read(Caller())
        self.assertEqual(found.mem_total, psutil.virtual_memory().total // 2**20)
        self.assertTrue(0 < found.mem_free <= found.mem_total)
        self.assertTrue(0 < found.mem_available <= found.mem_total)
        total = psutil.disk_usage(str(self.directory)).total
        self.assertTrue(0 < found.disk_free <= total)


class NetworkTests(TestCase):
    def test_interfaces_are_the_kernels_without_the_loopback(self) -> None:
        names = {name for _, name in socket.if_nameindex()} - {"lo"}
        self.assertEqual(set(read_network()), names)

    def test_counters_are_those_of_sysfs(self) -> None:
        for name, interface in read_network().items():
            folder = Path("/sys/class/net") / name
            if (folder / "type").read_text().strip() == "1":  # Ethernet
                self.assertEqual(interface.mac, (folder / "address").read_text().strip())
            counted = int((folder / "statistics/rx_bytes").read_text())
            self.assertTrue(0 <= interface.rx <= counted, name)
