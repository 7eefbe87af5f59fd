"""What the host is made of: its processors, memory, system and kernel."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import psutil

import pkengine
from pkengine.agent.sysfs import read_text
from pkengine.channel.verbs import Capabilities, OperatingSystem

_MIB = 1024 * 1024
_CPU_MODEL = re.compile(r"^(?:model name|cpu model|cpu|Processor|Hardware)\s*:\s*(.+)$", re.M)
_CPU_MHZ = re.compile(r"^(?:cpu MHz|clock)\s*:\s*([0-9.]+)", re.M)


def read_capabilities(uuid: str, *, root: Path = Path("/")) -> Capabilities:
    """Look at the machine.  This may take a while on a large one, so call it in a thread.

    Args:
        uuid: the host's own identity, which is told along.
        root: where the file system of the machine begins.
    """
    cpuinfo = read_text(root / "proc/cpuinfo")
    sockets, cores, threads = _cpu_topology(root)
    model = _CPU_MODEL.search(cpuinfo)
    return Capabilities(
        uuid=uuid,
        hostname=platform.node(),
        operating_system=_operating_system(),
        kernel_release=platform.release(),
        kernel_args=read_text(root / "proc/cmdline"),
        architecture=platform.machine(),
        cpu_model=model[1].strip() if model else platform.machine(),
        cpu_sockets=sockets,
        cpu_cores=cores,
        cpu_threads=threads,
        cpu_speed=_cpu_speed(cpuinfo, root),
        mem_size=psutil.virtual_memory().total // _MIB,
        selinux=_selinux(root),
        kdump_status=_kdump(root),
        boot_uuid=read_text(root / "proc/sys/kernel/random/boot_id"),
        python_version=platform.python_version(),
        software_version=pkengine.__version__,
    )


def _operating_system() -> OperatingSystem:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return OperatingSystem(name=platform.system().lower(), version="")
    return OperatingSystem(
        name=release["ID"],
        version=release.get("VERSION_ID", ""),  # rolling distributions have none
        pretty_name=release["PRETTY_NAME"],
    )


def _cpu_topology(root: Path) -> tuple[int, int, int]:
    """Count the sockets, the cores and the threads that are online."""
    threads = [
        (read_text(folder / "physical_package_id"), read_text(folder / "core_id"))
        for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology")
    ]
    if not threads:
        count = psutil.cpu_count() or 1
        return 1, count, count
    return len({package for package, _ in threads}), len(set(threads)), len(threads)


def _cpu_speed(cpuinfo: str, root: Path) -> float:
    """Give the clock in MHz: the highest that the processor allows, else the present one."""
    highest = read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    if highest.isdigit():
        return int(highest) / 1000  # the kernel counts in kHz
    return max((float(mhz) for mhz in _CPU_MHZ.findall(cpuinfo)), default=0.0)


def _selinux(root: Path) -> str:
    modes = {"1": "enforcing", "0": "permissive"}
    return modes.get(read_text(root / "sys/fs/selinux/enforce"), "disabled")


def _kdump(root: Path) -> str:
    loaded = read_text(root / "sys/kernel/kexec_crash_loaded")
    return {"1": "enabled", "0": "disabled"}.get(loaded, "unknown")
