"""The hosts and their actions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from pkengine.engine.clusters import Clusters
from pkengine.engine.hosts.registry import HOST_FIELDS
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import Jobs
from pkengine.engine.model import (
    DEFAULT_AGENT_PORT,
    HostChange,
    Job,
    NewHost,
    SshLogin,
    StepStatus,
)
from pkengine.engine.rest.call import Answer, Call, Parameter, Route
from pkengine.engine.rest.elements import ACTION, SSH_KEY, ActionResult
from pkengine.engine.rest.host_elements import HOST
from pkengine.engine.rest.schema import (
    BOOLEAN,
    GUID,
    LINE,
    PORT,
    Document,
    IncompleteParameters,
    decode,
)
from pkengine.engine.users import Role
from pkengine.errors import Conflict
from pkengine.keys import SshFingerprint, SshPublicKey

#: Who wants to wait for the end of a job waits so long at most.
LONGEST_WAIT_S = 1800.0

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
        yield Route(method="GET", path="/hosts", handler=self.list, element=HOST, is_many=True)
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
            parameters=(Parameter("force", BOOLEAN, "Do not ask the agent to drop the key."),),
        )
        for name, handler, role in (
            ("install", self.install, decides),
            ("activate", self.activate, Role.OPERATOR),
            ("deactivate", self.deactivate, Role.OPERATOR),
        ):
            yield Route(
                method="POST",
                path=f"{host}/{name}",
                handler=handler,
                role=role,
                is_action=True,
                reads=ACTION,
            )
        yield Route(
            method="GET",
            path="/sshkeys",
            handler=self.ssh_keys,
            role=Role.ADMINISTRATOR,
            element=SSH_KEY,
            is_many=True,
            parameters=(
                Parameter("address", LINE, "Of the host; mandatory."),
                Parameter("port", PORT, "Of its SSH server, 22 where it is not given."),
            ),
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
        host, job = await self._hosts.add(new, call.origin)
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
        return await self._done(call, document, job)

    async def activate(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Watch a host again."""
        document = call.read(ACTION, is_optional=True)
        job = await self._hosts.activate(host_id, call.origin)
        return await self._done(call, document, job)

    async def deactivate(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Put a host into maintenance."""
        document = call.read(ACTION, is_optional=True)
        reason = document.get("reason", "")
        job = await self._hosts.deactivate(host_id, call.origin, reason)
        return await self._done(call, document, job)

    async def ssh_keys(self, call: Call) -> Answer:
        """Ask an address which SSH host keys it has; none becomes trusted by that."""
        address = call.query.get("address", "")
        if not address:
            raise IncompleteParameters("SshKeys [address] required for list.")
        port = decode(PORT, call.query.get("port") or "22", "port")
        keys = await self._hosts.ssh_host_keys(address, port)
        return Answer(element=SSH_KEY, many=keys)

    async def _done(self, call: Call, document: Document, job: Job) -> Answer:
        """Answer an action: when it has begun, as oVirt does, or when it has ended.

        Who says ``async=false`` or expects ``201-created`` waits for the end.
        """
        is_async = document.get("async", call.boolean("async", True))
        if is_async and call.expects != "201-created":
            return Answer(element=ACTION, one=ActionResult(job=job))
        job = await self._jobs.ended(job.id, LONGEST_WAIT_S)
        if job.ended is None:
            return Answer(element=ACTION, one=ActionResult("in_progress", job), status=202)
        if job.status is not StepStatus.FINISHED:
            detail = await self._detail(job)
            raise Conflict(f"{job.description}: {job.status.value}. {detail}".rstrip())
        return Answer(element=ACTION, one=ActionResult(job=job))

    async def _detail(self, job: Job) -> str:
        if job.host_id is None:
            return ""
        return (await self._hosts.get(job.host_id)).status_detail

    async def _cluster_id(self, reference: Document | None) -> uuid.UUID | None:
        if not reference:
            return None
        if "id" in reference:
            cluster_id: uuid.UUID = decode(GUID, reference["id"], "cluster/id")
            return (await self._clusters.get(cluster_id)).id
        if reference.get("name"):
            return (await self._clusters.by_name(reference["name"])).id
        return None


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
