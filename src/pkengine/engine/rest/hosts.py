"""The hosts, their actions and what hangs below them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from functools import partial

from pkengine.channel.verbs import HostStats
from pkengine.engine.clusters import Clusters
from pkengine.engine.hosts.registry import HOST_FIELDS
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import Jobs
from pkengine.engine.model import DEFAULT_AGENT_PORT, Host, HostChange, Job, NewHost, SshLogin
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import ACTION, JOB, SSH_KEY, ActionResult
from pkengine.engine.rest.host_elements import EMPTY_COLLECTIONS, HOST, STATISTIC, Statistic
from pkengine.engine.rest.schema import (
    GUID,
    PORT,
    Document,
    Element,
    IncompleteParameters,
    decode,
)
from pkengine.engine.users import Role
from pkengine.errors import NotFound
from pkengine.keys import SshFingerprint, SshPublicKey

_MEBIBYTE = 1024 * 1024


class HostResource:
    """``/hosts`` and all below, and ``/sshkeys``."""

    def __init__(self, hosts: Hosts, clusters: Clusters, jobs: Jobs) -> None:
        self._hosts = hosts
        self._clusters = clusters
        self._jobs = jobs

    def routes(self) -> Iterable[Route]:
        """Give the routes, which name the least role that each needs."""
        host = "/hosts/<uuid:host_id>"
        # What decides whom to trust is the administrator's.
        decides = Role.ADMINISTRATOR
        yield Route(method="GET", path="/hosts", handler=self.list)
        yield Route(method="POST", path="/hosts", handler=self.add, role=decides)
        yield Route(method="GET", path=host, handler=self.get)
        yield Route(method="PUT", path=host, handler=self.update, role=decides)
        yield Route(method="DELETE", path=host, handler=self.remove, role=decides)
        for name, handler, role in (
            ("install", self.install, decides),
            ("activate", self.activate, Role.OPERATOR),
            ("deactivate", self.deactivate, Role.OPERATOR),
        ):
            yield Route(
                method="POST", path=f"{host}/{name}", handler=handler, role=role, is_action=True
            )
        yield Route(method="GET", path=f"{host}/statistics", handler=self.statistics)
        yield Route(
            method="GET",
            path=f"{host}/statistics/<uuid:statistic_id>",
            handler=self.statistic,
        )
        yield Route(method="GET", path=f"{host}/jobs", handler=self.jobs)
        for name, (plural, singular) in EMPTY_COLLECTIONS.items():
            nothing = partial(self.nothing, Element(singular, plural))
            yield Route(method="GET", path=f"{host}/{name}", handler=nothing)
        yield Route(method="GET", path="/sshkeys", handler=self.ssh_keys, role=Role.ADMINISTRATOR)

    async def list(self, call: Call) -> Answer:
        """Give the hosts that a search finds, by name."""
        hosts = await self._hosts.find(call.search(HOST_FIELDS), call.limit(None))
        return Answer(element=HOST, many=hosts)

    async def get(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Give one host."""
        return Answer(element=HOST, one=await self._hosts.get(host_id))

    async def add(self, call: Call) -> Answer:
        """Add a host; it is answered when the engine has logged in to it."""
        document = call.read(HOST)
        missing = [name for name in ("name", "address") if not document.get(name)]
        if missing:
            raise IncompleteParameters(f"Host [{', '.join(missing)}] required for add.")
        new = NewHost(
            name=document["name"],
            address=document["address"],
            port=document.get("port", DEFAULT_AGENT_PORT),
            comment=document.get("comment", ""),
            description=document.get("description", ""),
            cluster_id=await self._cluster_id(document.get("cluster")),
            ssh=_login(document),
            activate=call.boolean("activate", True),
            reboot=call.boolean("reboot", False),
        )
        host, _ = await self._hosts.add(new, call.origin)
        return Answer(element=HOST, one=host, status=201, location=f"/hosts/{host.id}")

    async def update(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Change what the body names."""
        document = call.read(HOST)
        change = HostChange(
            name=document.get("name"),
            address=document.get("address"),
            port=document.get("port"),
            comment=document.get("comment"),
            description=document.get("description"),
            cluster_id=await self._cluster_id(document.get("cluster")),
            ssh=_login(document),
        )
        return Answer(element=HOST, one=await self._hosts.update(host_id, change, call.origin))

    async def remove(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Forget a host."""
        await self._hosts.remove(host_id, call.origin, force=call.boolean("force", False))
        return Answer(element=ACTION, one=ActionResult())

    async def install(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Begin to install a host again; it is answered when the engine has logged in to it."""
        document = call.read(ACTION, is_optional=True)
        job = await self._hosts.install(
            host_id,
            _login(document),
            call.origin,
            activate=document.get("activate", call.boolean("activate", False)),
            reboot=document.get("reboot", call.boolean("reboot", False)),
        )
        return _done(job)

    async def activate(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Watch a host again."""
        call.read(ACTION, is_optional=True)
        return _done(await self._hosts.activate(host_id, call.origin))

    async def deactivate(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Put a host into maintenance."""
        document = call.read(ACTION, is_optional=True)
        reason = document.get("reason", "")
        return _done(await self._hosts.deactivate(host_id, call.origin, reason))

    async def statistics(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Give what the host said last; nothing where it does not answer."""
        return Answer(element=STATISTIC, many=await self._statistics(host_id))

    async def statistic(self, call: Call, host_id: uuid.UUID, statistic_id: uuid.UUID) -> Answer:
        """Give one of the statistics."""
        for statistic in await self._statistics(host_id):
            if statistic.id == statistic_id:
                return Answer(element=STATISTIC, one=statistic)
        raise NotFound(f"There is no statistic {statistic_id}.")

    async def jobs(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Give the jobs of a host, the newest first."""
        await self._hosts.get(host_id)
        jobs = await self._jobs.list(limit=call.limit(100), host_id=host_id)
        return Answer(element=JOB, many=jobs)

    async def nothing(self, element: Element, call: Call, host_id: uuid.UUID) -> Answer:
        """Give a collection that is empty, of a host that exists."""
        await self._hosts.get(host_id)
        return Answer(element=element, many=())

    async def ssh_keys(self, call: Call) -> Answer:
        """Ask an address which SSH host keys it has; none becomes trusted by that."""
        address = call.query.get("address", "")
        if not address:
            raise IncompleteParameters("SshKeys [address] required for list.")
        port = decode(PORT, call.query.get("port") or "22", "port")
        keys = await self._hosts.ssh_host_keys(address, port)
        return Answer(element=SSH_KEY, many=keys)

    async def _statistics(self, host_id: uuid.UUID) -> tuple[Statistic, ...]:
        host = await self._hosts.get(host_id)
        found = self._hosts.statistics(host_id)
        return tuple(_statistics(host, found)) if found is not None else ()

    async def _cluster_id(self, reference: Document | None) -> uuid.UUID | None:
        if not reference:
            return None
        if "id" in reference:
            cluster_id: uuid.UUID = decode(GUID, reference["id"], "cluster/id")
            return (await self._clusters.get(cluster_id)).id
        if reference.get("name"):
            return (await self._clusters.by_name(reference["name"])).id
        return None


def _done(job: Job) -> Answer:
    return Answer(element=ACTION, one=ActionResult(job=job))


def _login(document: Document) -> SshLogin:
    """Read ``ssh`` and ``root_password`` of a host or an action.

    Where both passwords are set, that in ``ssh`` holds.

    Raises:
        InvalidKeyText: fingerprint or public key are not in their text form.
    """
    ssh: Document = document.get("ssh") or {}
    user: Document = ssh.get("user") or {}
    fingerprint, public_key = ssh.get("fingerprint"), ssh.get("public_key")
    return SshLogin(
        port=ssh.get("port"),
        user=user.get("user_name") or None,
        authentication_method=ssh.get("authentication_method"),
        password=user.get("password") or document.get("root_password") or None,
        fingerprint=SshFingerprint.parse(fingerprint) if fingerprint else None,
        public_key=SshPublicKey.parse(public_key) if public_key else None,
    )


def _statistics(host: Host, found: HostStats) -> Iterable[Statistic]:
    """Give oVirt's names, units and descriptions."""
    memory = found.mem_total * _MEBIBYTE
    memory_free = found.mem_available * _MEBIBYTE
    swap, swap_free = found.swap_total * _MEBIBYTE, found.swap_free * _MEBIBYTE
    for name, description, unit, value in (
        ("memory.total", "Total memory", "bytes", memory),
        ("memory.used", "Used memory", "bytes", memory - memory_free),
        ("memory.free", "Free memory", "bytes", memory_free),
        ("swap.total", "Total swap", "bytes", swap),
        ("swap.free", "Free swap", "bytes", swap_free),
        ("swap.used", "Used swap", "bytes", swap - swap_free),
        ("cpu.current.user", "User CPU usage", "percent", found.cpu_user),
        ("cpu.current.system", "System CPU usage", "percent", found.cpu_sys),
        ("cpu.current.idle", "Idle CPU usage", "percent", found.cpu_idle),
        ("cpu.load.avg.1m", "CPU load average of the last minute", "none", found.cpu_load),
        ("boot.time", "Boot time of the machine", "none", int(found.boot_time)),
        ("disk.free", "Free space where the agent keeps its state", "bytes", found.disk_free),
    ):
        yield Statistic(host, name, description, unit, value)
