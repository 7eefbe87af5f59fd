"""What the firmware says about the machine: who made it, and which one it is."""

from __future__ import annotations

from pathlib import Path

from pkengine.agent.sysfs import read_text
from pkengine.channel.verbs import HardwareInfo


def read_hardware(*, root: Path = Path("/")) -> HardwareInfo:
    """Read the DMI table or, on machines without one, the device tree.

    Serial number and UUID are shown to root only; to another user they stay empty.

    Args:
        root: where the file system of the machine begins.
    """
    dmi = root / "sys/class/dmi/id"
    device_tree = root / "sys/firmware/devicetree/base"
    return HardwareInfo(
        system_manufacturer=read_text(dmi / "sys_vendor"),
        system_product_name=read_text(dmi / "product_name") or read_text(device_tree / "model"),
        system_version=read_text(dmi / "product_version"),
        system_serial_number=(
            read_text(dmi / "product_serial") or read_text(device_tree / "serial-number")
        ),
        system_uuid=read_text(dmi / "product_uuid"),
        system_family=read_text(dmi / "product_family"),
    )
