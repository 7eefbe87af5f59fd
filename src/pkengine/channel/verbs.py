"""The verbs that an agent answers: their names, parameters and results.

Names and keys are those of vdsm where vdsm has the verb; numbers are numbers, with the unit
in the docstring, where vdsm sends strings.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

import msgspec

from pkengine.platform import Platform

#: A time with its zone; on the wire RFC 3339.
Time = Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a verb that takes none."""


class Capabilities(msgspec.Struct, frozen=True, rename="camel"):
    """``Host.getCapabilities``: what the host is made of.

    Attributes:
        uuid: the host's own identity: the machine's, or the agent's where it has none.
        cpu_speed: in MHz; 0 where it is not known.
        mem_size: in MiB.
        selinux: ``enforcing``, ``permissive`` or ``disabled``.
        kdump_status: ``enabled``, ``disabled`` or ``unknown``.
        boot_uuid: changes with each boot.
    """

    uuid: str
    hostname: str
    operating_system: OperatingSystem
    kernel_release: str
    architecture: str
    cpu_model: str
    cpu_sockets: int
    cpu_cores: int
    cpu_threads: int
    cpu_speed: float
    mem_size: int
    selinux: str
    kdump_status: str
    boot_uuid: str
    python_version: str
    software_version: str
    kernel_args: str = ""


class OperatingSystem(msgspec.Struct, frozen=True, rename="camel"):
    """Which distribution: ``name`` as ``ID`` in os-release, and its version."""

    name: str
    version: str
    pretty_name: str = ""


class NetworkInterface(msgspec.Struct, frozen=True, rename="camel"):
    """Counters of one interface, in octets since boot; speed in Mbit/s, 0 if unknown."""

    state: str
    rx: int
    tx: int
    rx_errors: int
    tx_errors: int
    speed: int
    mac: str = ""
    addresses: list[str] = []


class HostStats(msgspec.Struct, frozen=True, rename="camel"):
    """``Host.getStats``: load now.

    Attributes:
        cpu_user, cpu_sys, cpu_idle: per cent of all CPUs since the previous call on this
            connection, at first since the agent started; together they are 100.
        cpu_load: load average of the last minute.
        mem_available, mem_free, mem_total, swap_total, swap_free: in MiB.
        boot_time: seconds since the epoch.
        elapsed_time: seconds since the agent started.
        date_time: the host's clock, seconds since the epoch.
        disk_free: octets free where the agent keeps its state.
    """

    cpu_user: float
    cpu_sys: float
    cpu_idle: float
    cpu_load: float
    mem_total: int
    mem_available: int
    mem_free: int
    swap_total: int
    swap_free: int
    boot_time: float
    elapsed_time: float
    date_time: float
    disk_free: int
    network: dict[str, NetworkInterface]


class HardwareInfo(msgspec.Struct, frozen=True, rename="camel"):
    """``Host.getHardwareInfo``: what the firmware says; empty where it says nothing."""

    system_manufacturer: str = ""
    system_product_name: str = ""
    system_version: str = ""
    system_serial_number: str = ""
    system_uuid: str = msgspec.field(name="systemUUID", default="")
    system_family: str = ""


class AcceptedKey(msgspec.Struct, frozen=True, rename="camel"):
    """One key that the agent accepts; ``expires`` is None where it never does."""

    pin: str
    name: str
    mechanisms: tuple[str, ...] = ("pin",)
    expires: Time | None = None
    comment: str = ""


class AddKey(
    msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """The parameters of ``Keys.add``."""

    pin: str
    name: str
    mechanisms: tuple[str, ...] = ("pin",)
    expires: Time | None = None
    comment: str = ""


class RemoveKey(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The parameters of ``Keys.remove``.

    Attributes:
        may_be_last: the caller knows that no engine may be able to reach the host afterwards.
    """

    pin: str
    may_be_last: bool = False


class PrepareWay(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The parameters of ``Engine.prepare``: another way between an engine and an agent.

    Attributes:
        name: what the agent calls the engine; an engine changes no way but its own.
        host_id: what the engine calls the host.
        engine_pin: the engine's key.
        connection: ``engine-dials`` or ``agent-dials``.
        mechanism: how both prove who they are.
        url, server: where the agent dials, as in ``engines.d``; empty where it does not.
        share: the engine's share of a new key, where the mechanism needs one.
    """

    name: str
    host_id: str
    engine_pin: str
    connection: Literal["engine-dials", "agent-dials"]
    mechanism: Literal["pin", "sign", "hmac", "spake2plus"]
    url: str = ""
    server: str = ""
    share: str | None = None


class PreparedWay(msgspec.Struct, frozen=True, rename="camel"):
    """``Engine.prepare``: the agent's own key, and its share of a new key if there is one."""

    pin: str
    share: str | None = None


class CommittedWay(msgspec.Struct, frozen=True, rename="camel"):
    """``Engine.commit``: the way that is the only one now.

    Attributes:
        is_new: it is the one that was prepared, and not the one that was there before.
    """

    is_new: bool


class AgentVersion(msgspec.Struct, frozen=True, rename="camel"):
    """``Agent.getVersion``; ``bundle`` is the hash of the installed version, or empty."""

    version: str
    python_version: str
    bundle: str
    started: float
    pid: int


#: How many octets of an archive one call of `UPGRADE_SEND` takes at most.
MAX_PIECE = 256 * 1024


class BeginUpgrade(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The parameters of ``Upgrade.begin``: another version of the agent.

    Attributes:
        bundle: the hash of the version.
        size: octets of the archive, a ``tar.gz``.
        sha256: SHA-256 of the archive in hexadecimal.
    """

    bundle: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(gt=0, le=256 * 1024 * 1024)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class UpgradePlace(msgspec.Struct, frozen=True, rename="camel"):
    """``Upgrade.begin``: where the version would run, and what is there of its archive.

    Attributes:
        prefix: the folder of the versions.
        state: the agent's state folder.
        service: ``systemd`` or ``twistd``.
        port: where the agent listens while an engine has to reach it; None where it never does.
        platform: what compiled code has to fit.
        free: octets that are free for versions.
        received: octets of the archive that came before; it goes on behind them.
        is_installed: the version is there already, so that nothing has to be sent.
    """

    prefix: str
    state: str
    service: Literal["systemd", "twistd"]
    port: int | None
    platform: Platform
    free: int
    received: int
    is_installed: bool


class SendPiece(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The parameters of ``Upgrade.send``: the octets of the archive from an offset on."""

    offset: int
    octets: bytes


class StartUpgrade(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The parameters of ``Upgrade.start``.

    Attributes:
        unit: the text of the systemd unit, or None under twistd.
        port: where the version listens while an engine has to reach it.
        timeout_s: how long it may take until the engine has confirmed the version.
    """

    unit: str | None
    port: Annotated[int, msgspec.Meta(gt=0, lt=65536)]
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)]


class ConfirmUpgrade(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The parameters of ``Upgrade.confirm``: the version that the engine has met."""

    bundle: str


class UpgradeStatus(msgspec.Struct, frozen=True, rename="camel"):
    """``Upgrade.status``: the version that was tried last, or is on trial.

    Attributes:
        bundle: its hash; empty where there was none.
        outcome: ``trying``, ``kept`` or ``given up``; empty where there was none.
        reason: a sentence that says why it was given up.
    """

    bundle: str = ""
    outcome: str = ""
    reason: str = ""


PING = "Host.ping2"
GET_CAPABILITIES = "Host.getCapabilities"
GET_STATS = "Host.getStats"
GET_HARDWARE_INFO = "Host.getHardwareInfo"
KEYS_LIST = "Keys.list"
KEYS_ADD = "Keys.add"
KEYS_REMOVE = "Keys.remove"
GET_VERSION = "Agent.getVersion"
ENGINE_PREPARE = "Engine.prepare"
ENGINE_TRY = "Engine.try"
ENGINE_COMMIT = "Engine.commit"
ENGINE_CANCEL = "Engine.cancel"
UPGRADE_BEGIN = "Upgrade.begin"
UPGRADE_SEND = "Upgrade.send"
UPGRADE_CHECK = "Upgrade.check"
UPGRADE_START = "Upgrade.start"
UPGRADE_CONFIRM = "Upgrade.confirm"
UPGRADE_STATUS = "Upgrade.status"
