"""What the agent says about the machine agrees with what the machine says itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from twisted.trial.unittest import TestCase

from pkengine.agent.capabilities import read_capabilities
from pkengine.agent.hardware import read_hardware
from pkengine.channel.verbs import HardwareInfo


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class ThisMachineTests(TestCase):
    """The real machine, read through the kernel's other doors."""

    def test_identity_and_kernel_are_those_of_the_running_system(self) -> None:
        found = read_capabilities("some-uuid")
        self.assertEqual(found.uuid, "some-uuid")
        self.assertEqual(found.hostname, os.uname().nodename)
        self.assertEqual(found.kernel_release, os.uname().release)
        self.assertEqual(found.architecture, os.uname().machine)
        self.assertEqual(
            found.boot_uuid, Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        )

    def test_memory_is_that_of_proc_meminfo(self) -> None:
        first_line = Path("/proc/meminfo").read_text().splitlines()[0]
        kib = int(first_line.split()[1])
        self.assertEqual(read_capabilities("").mem_size, kib // 1024)

    def test_threads_are_those_that_proc_cpuinfo_lists(self) -> None:
        found = read_capabilities("")
        listed = Path("/proc/cpuinfo").read_text().splitlines()
        self.assertEqual(found.cpu_threads, sum(line.startswith("processor") for line in listed))
        self.assertTrue(1 <= found.cpu_sockets <= found.cpu_cores <= found.cpu_threads)
        self.assertTrue(found.cpu_model)

    def test_distribution_is_that_of_os_release(self) -> None:
        release = platform.freedesktop_os_release()
        found = read_capabilities("").operating_system
        self.assertEqual(found.name, release["ID"])
        self.assertEqual(found.pretty_name, release["PRETTY_NAME"])


class OtherMachinesTests(TestCase):
    """Machines of other makes, as far as they differ in the files of the kernel."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.root.mkdir()

    def test_two_sockets_with_hyperthreading_are_counted(self) -> None:
        for thread in range(8):
            write_tree(
                self.root / f"sys/devices/system/cpu/cpu{thread}/topology",
                {"physical_package_id": f"{thread % 2}\n", "core_id": f"{thread // 4}\n"},
            )
        found = read_capabilities("", root=self.root)
        self.assertEqual((found.cpu_sockets, found.cpu_cores, found.cpu_threads), (2, 4, 8))

    def test_highest_clock_counts_where_the_processor_changes_its_clock(self) -> None:
        write_tree(
            self.root,
            {
                "proc/cpuinfo": "model name\t: Example CPU @ 2.00GHz\ncpu MHz\t\t: 801.5\n",
                "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3600000\n",
            },
        )
        found = read_capabilities("", root=self.root)
        self.assertEqual(found.cpu_speed, 3600.0)
        self.assertEqual(found.cpu_model, "Example CPU @ 2.00GHz")

    def test_present_clock_counts_where_no_highest_one_is_known(self) -> None:
        write_tree(self.root, {"proc/cpuinfo": "cpu MHz : 801.5\ncpu MHz : 2400.0\n"})
        self.assertEqual(read_capabilities("", root=self.root).cpu_speed, 2400.0)

    def test_processor_without_a_model_name_is_called_by_its_architecture(self) -> None:
        write_tree(self.root, {"proc/cpuinfo": "processor : 0\nBogoMIPS : 50.00\n"})
        found = read_capabilities("", root=self.root)
        self.assertEqual(found.cpu_model, platform.machine())
        self.assertEqual(found.cpu_speed, 0.0)

    def test_selinux_says_its_mode_and_absence_means_disabled(self) -> None:
        self.assertEqual(read_capabilities("", root=self.root).selinux, "disabled")
        for text, mode in (("1", "enforcing"), ("0", "permissive")):
            write_tree(self.root, {"sys/fs/selinux/enforce": text})
            self.assertEqual(read_capabilities("", root=self.root).selinux, mode)

    def test_kdump_is_unknown_where_the_kernel_does_not_say(self) -> None:
        self.assertEqual(read_capabilities("", root=self.root).kdump_status, "unknown")
        for text, status in (("1\n", "enabled"), ("0\n", "disabled")):
            write_tree(self.root, {"sys/kernel/kexec_crash_loaded": text})
            self.assertEqual(read_capabilities("", root=self.root).kdump_status, status)

    def test_firmware_is_read_from_dmi(self) -> None:
        write_tree(
            self.root / "sys/class/dmi/id",
            {
                "sys_vendor": "Example Inc.\n",
                "product_name": "Server 9\n",
                "product_version": "1.2\n",
                "product_serial": "S3R14L\n",
                "product_uuid": "4c4c4544-0042-3510-8054-b7c04f4a4c32\n",
                "product_family": "Servers\n",
            },
        )
        self.assertEqual(
            read_hardware(root=self.root),
            HardwareInfo(
                system_manufacturer="Example Inc.",
                system_product_name="Server 9",
                system_version="1.2",
                system_serial_number="S3R14L",
                system_uuid="4c4c4544-0042-3510-8054-b7c04f4a4c32",
                system_family="Servers",
            ),
        )

    def test_board_without_dmi_is_read_from_its_device_tree(self) -> None:
        write_tree(
            self.root / "sys/firmware/devicetree/base",
            {"model": "Example Board Rev 2\0", "serial-number": "100000001\0"},
        )
        found = read_hardware(root=self.root)
        self.assertEqual(found.system_product_name, "Example Board Rev 2")
        self.assertEqual(found.system_serial_number, "100000001")

    def test_firmware_that_says_nothing_leaves_all_empty(self) -> None:
        self.assertEqual(read_hardware(root=self.root), HardwareInfo())
