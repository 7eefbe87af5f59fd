"""What the agent of a host says of it and itself, in the tests of the engine."""

from __future__ import annotations

from pkengine.channel.verbs import (
    Capabilities,
    HardwareInfo,
    HostStats,
    NetworkInterface,
    OperatingSystem,
)

CAPABILITIES = Capabilities(
    uuid="4c4c4544-0044-4810-8031-b4c04f564433",
    hostname="h1",
    operating_system=OperatingSystem(name="debian", version="12", pretty_name="Debian 12"),
    kernel_release="6.1.0",
    architecture="x86_64",
    cpu_model="A & B <CPU>",
    cpu_sockets=2,
    cpu_cores=8,
    cpu_threads=16,
    cpu_speed=2400.5,
    mem_size=16000,
    selinux="disabled",
    kdump_status="disabled",
    boot_uuid="d0c3ce4c-1111-4810-8031-b4c04f564433",
    python_version="3.11.7",
    software_version="1.0",
    kernel_args="quiet",
)
HARDWARE = HardwareInfo(system_manufacturer="ACME", system_uuid=CAPABILITIES.uuid)
STATS = HostStats(
    cpu_user=12.5,
    cpu_sys=2.5,
    cpu_idle=85.0,
    cpu_load=0.25,
    mem_total=16000,
    mem_available=12000,
    mem_free=8000,
    swap_total=0,
    swap_free=0,
    boot_time=1_700_000_000.0,
    elapsed_time=5.0,
    date_time=1_700_000_100.0,
    disk_free=1 << 30,
    network={
        "eth0": NetworkInterface(
            state="up",
            rx=1,
            tx=2,
            rx_errors=0,
            tx_errors=0,
            speed=1000,
            mac="52:54:00:00:00:01",
            addresses=["192.0.2.1/24", "fe80::1%eth0"],
        ),
        "lo": NetworkInterface(state="down", rx=0, tx=0, rx_errors=0, tx_errors=0, speed=0),
    },
)
