"""The farm itself: a test that fails on a host must not do so because of the host."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

import pkengine
import tests
from tests.hosts import CommandFailed, open_farm
from tests.hosts.network import Network, NetworksInUse
from tests.hosts.processes import run


async def _scanned(address: str) -> str:
    """Give the ed25519 host key that OpenSSH's own scanner sees, as one line."""
    line = await run(reactor, "ssh-keyscan", "-T", "5", "-t", "ed25519", address)
    return line.split(" ", 1)[1].strip()


class FarmTests(unittest.TestCase):
    async def test_each_host_has_its_own_name_address_and_key(self) -> None:
        farm = await open_farm(self, reactor)
        one, two = await farm.host("one"), await farm.host("two")
        self.assertEqual("one\n", await one.run("hostname"))
        self.assertEqual("two\n", await two.run("cat /etc/hostname"))
        self.assertNotEqual(one.address, two.address)
        self.assertEqual(str(await one.host_key()), await _scanned(one.address))
        self.assertEqual(str(await two.host_key()), await _scanned(two.address))
        self.assertTrue((await two.fingerprint()).matches(await two.host_key()))
        self.assertFalse((await one.fingerprint()).matches(await two.host_key()))

    async def test_what_one_host_writes_no_other_sees(self) -> None:
        farm = await open_farm(self, reactor)
        one, two = await farm.host("one"), await farm.host("two")
        await one.run("rm /usr/bin/python3; echo mine > /etc/motd")
        self.assertFalse((one.root / "usr/bin/python3").is_symlink())
        self.assertTrue((two.root / "usr/bin/python3").is_symlink())
        with self.assertRaisesRegex(CommandFailed, "python3: not found"):
            await one.run("python3 --version")
        self.assertIn("Python 3", await two.run("python3 --version"))

    async def test_admin_may_use_sudo_with_the_password_and_nosudo_may_not(self) -> None:
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        for user, outcome in (("admin", "0"), ("nosudo", "refused")):
            password = host.password[user].reveal()
            said = await host.run(
                f"su {user} -c 'sudo -S -p \"\" id -u' || echo refused", stdin=password + b"\n"
            )
            self.assertEqual(outcome, said.strip())

    async def test_swapped_addresses_show_the_other_hosts_key(self) -> None:
        farm = await open_farm(self, reactor)
        one, two = await farm.host("one"), await farm.host("two")
        address = one.address
        before = await _scanned(address)
        await farm.swap(one, two)
        self.assertEqual(address, two.address)
        self.assertEqual(str(await two.host_key()), await _scanned(address))
        self.assertNotEqual(before, await _scanned(address))

    async def test_a_cut_host_answers_nothing_until_it_is_joined_again(self) -> None:
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        await host.cut()
        endpoint = HostnameEndpoint(reactor, host.address, 22, timeout=1)
        with self.assertRaises(ConnectError):
            await connectProtocol(endpoint, Protocol())
        await host.join()
        self.assertEqual(str(await host.host_key()), await _scanned(host.address))

    async def test_a_slow_host_shapes_both_directions(self) -> None:
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        await host.slow("1mbit")
        self.assertIn("tbf", await host.run("tc qdisc show dev eth0"))
        self.assertIn("tbf", await run(reactor, "tc", "qdisc", "show"))
        self.assertEqual(str(await host.host_key()), await _scanned(host.address))

    async def test_rotated_host_keys_are_shown_at_once(self) -> None:
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        before = await host.host_key()
        await host.rotate_host_keys()
        self.assertNotEqual(before, await host.host_key())
        self.assertEqual(str(await host.host_key()), await _scanned(host.address))

    async def test_sshd_takes_other_options(self) -> None:
        farm = await open_farm(self, reactor)
        host = await farm.host("one")
        await host.restart_sshd("PasswordAuthentication no", "MaxAuthTries 1")
        effective = await host.run("/usr/sbin/sshd -T")
        self.assertIn("passwordauthentication no", effective)
        self.assertIn("maxauthtries 1", effective)
        self.assertEqual(str(await host.host_key()), await _scanned(host.address))

    async def test_nothing_is_left_of_a_farm(self) -> None:
        farm = await open_farm(self, reactor)
        host = await farm.host("one", init="systemd")
        first_process = host.first_process
        name = farm.network.bridge
        self.assertEqual({name, f"{name}-1"}, _links(name))
        await farm.close()
        self.assertEqual(set(), _links(name))
        with self.assertRaises(ProcessLookupError):
            os.kill(first_process, 0)
        self.assertEqual([], list(Path("/sys/fs/cgroup").glob(f"**/{name}-1")))

    async def test_a_farm_whose_tests_were_killed_dies_with_them(self) -> None:
        await open_farm(self, reactor)  # for the reason to skip
        places = {Path(module.__file__).resolve().parents[1] for module in (pkengine, tests)}
        killed = subprocess.Popen(
            [sys.executable, "-m", "tests.hosts.abandoned_farm"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(killed.communicate)
        self.addCleanup(killed.kill)
        assert killed.stdout is not None
        first_process, number = (await deferToThread(killed.stdout.readline)).split()
        host = os.pidfd_open(int(first_process))
        self.addCleanup(os.close, host)
        killed.kill()
        ended, _, _ = await deferToThread(select.select, [host], [], [], 30)
        self.assertEqual([host], ended)
        killed.wait()
        # Its bridge is left, and removed by whoever uses the number next: be that one, or not.
        with contextlib.suppress(NetworksInUse):
            network = Network(reactor, [int(number)])
            await network.open()
            await network.close()
            self.assertEqual(set(), _links(network.bridge))


def _links(name: str) -> set[str]:
    names = {interface for _, interface in socket.if_nameindex()}
    return {found for found in names if found == name or found.startswith(f"{name}-")}


class SystemdHostTests(unittest.TestCase):
    async def test_a_whole_system_runs_and_comes_back_from_a_reboot(self) -> None:
        farm = await open_farm(self, reactor)
        host = await farm.host("whole", init="systemd")
        self.assertEqual("whole\n", await host.run("hostname"))
        self.assertEqual("running\n", await host.run("systemctl is-system-running --wait"))
        boot = await host.run("cat /proc/sys/kernel/random/boot_id")
        await host.run("echo kept > /root/file")
        await host.reboot()
        self.assertNotEqual(boot, await host.run("cat /proc/sys/kernel/random/boot_id"))
        self.assertEqual("kept\n", await host.run("cat /root/file"))
        self.assertEqual(str(await host.host_key()), await _scanned(host.address))
