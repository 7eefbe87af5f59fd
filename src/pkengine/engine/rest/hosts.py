"""The hosts and their actions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from pkengine.engine.clusters import Clusters
from pkengine.engine.hosts.registry import HOST_FIELDS
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import Jobs
from pkengine.engine.model import DEFAULT_SSH_PORT, HostChange
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import LONGEST_WAIT_S, Answer, Call, Parameter, Route
from pkengine.engine.rest.host_elements import HOST
from pkengine.engine.rest.host_references import (
    read_cluster_id,
    read_login,
    read_new_host,
    read_way,
)
from pkengine.engine.rest.known_hosts import SHOWN_KEY
from pkengine.engine.rest.schema import (
    BOOLEAN,
    LINE,
    PORT,
    IncompleteParameters,
    decode,
)
from pkengine.engine.users import Role

_ACTIVATE = Parameter("activate", BOOLEAN, "Watch the host when the agent is installed.")
_REBOOT = Parameter("reboot", BOOLEAN, "Must be false: no deployment needs a reboot.")


class HostResource:
    """``/hosts`` without the collections below it, and ``/sshkeys``."""

    def __init__(self, hosts: Hosts, clusters: Clusters, jobs: Jobs) -> None:
        self._hosts = hosts
        self._clusters = clusters
        self._jobs = jobs

    def routes(self) -> Iterable[Route]:
        """Give the routes, which name the least role that each needs."""
        host = "/hosts/<uuid:host_id>"
        # What decides whom to trust is the administrator's.
        decides = Role.ADMINISTRATOR
        yield Route(
            method="GET",
            path="/hosts",
            handler=self.list,
            element=HOST,
            is_many=True,
            searches=HOST_FIELDS,
        )
        yield Route(
            method="POST",
            path="/hosts",
            handler=self.add,
            role=decides,
            element=HOST,
            reads=HOST,
            status=201,
            parameters=(_ACTIVATE, _REBOOT),
        )
        yield Route(method="GET", path=host, handler=self.get, element=HOST)
        yield Route(
            method="PUT", path=host, handler=self.update, role=decides, element=HOST, reads=HOST
        )
        yield Route(
            method="DELETE",
            path=host,
            handler=self.remove,
            role=decides,
            parameters=(
                Parameter("force", BOOLEAN, "Do not ask the agent to drop the key."),
                Parameter("uninstall", BOOLEAN, "Remove the agent from the host by SSH first."),
            ),
        )
        yield Route(
            method="GET",
            path="/sshkeys",
            handler=self.ssh_keys,
            role=Role.ADMINISTRATOR,
            element=SHOWN_KEY,
            is_many=True,
            parameters=(
                Parameter("address", LINE, "Of the host; mandatory."),
                Parameter("port", PORT, "Of its SSH server, 22 where it is not given."),
            ),
        )
        yield Route(
            method="POST",
            path="/sshkeys",
            handler=self.ssh_keys_on_the_way,
            role=decides,
            element=SHOWN_KEY,
            is_many=True,
            reads=HOST,
        )

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
        new = read_new_host(
            document,
            await read_cluster_id(self._clusters, document.get("cluster")),
            activate=call.boolean("activate", True),
            reboot=call.boolean("reboot", False),
        )
        host, job = await self._hosts.admission.add(new, call.origin)
        if call.expects == "201-created":
            await self._jobs.ended(job.id, LONGEST_WAIT_S)
            host = await self._hosts.get(host.id)
        status = 202 if call.expects == "202-accepted" else 201
        return Answer(element=HOST, one=host, status=status, location=f"/hosts/{host.id}")

    async def update(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Change what the body names."""
        document = call.read(HOST)
        change = HostChange(
            name=document.get("name"),
            address=document.get("address"),
            port=document.get("port"),
            comment=document.get("comment"),
            description=document.get("description"),
            cluster_id=await read_cluster_id(self._clusters, document.get("cluster")),
            ssh=read_login(document),
            way=read_way(document),
            require_direct=document.get("require_direct"),
        )
        return Answer(element=HOST, one=await self._hosts.update(host_id, change, call.origin))

    async def remove(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Forget a host."""
        await self._hosts.maintenance.remove(
            host_id,
            call.origin,
            force=call.boolean("force", False),
            uninstall=call.boolean("uninstall", False),
        )
        return Answer(element=ACTION, one=ActionResult())

    async def ssh_keys(self, call: Call) -> Answer:
        """Ask an address which SSH host keys it has; none becomes trusted by that."""
        address = call.query.get("address", "")
        if not address:
            raise IncompleteParameters("SshKeys [address] required for list.")
        port = decode(PORT, call.query.get("port") or "22", "port")
        keys = await self._hosts.ssh_host_keys(address, port, (), call.origin)
        return Answer(element=SHOWN_KEY, many=keys)

    async def ssh_keys_on_the_way(self, call: Call) -> Answer:
        """Ask an address for its SSH host keys, through the jump hosts that are named."""
        document = call.read(HOST)
        if not document.get("address"):
            raise IncompleteParameters("SshKeys [address] required for list.")
        login = read_login(document)
        keys = await self._hosts.ssh_host_keys(
            document["address"], login.port or DEFAULT_SSH_PORT, login.jumps or (), call.origin
        )
        return Answer(element=SHOWN_KEY, many=keys)
