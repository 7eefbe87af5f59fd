"""What can be done to hosts: their actions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS
from pkengine.engine.clusters import Clusters
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.model import HostStatus, Job, StepStatus, WayChoice
from pkengine.engine.rest.action_elements import ACTION, ActionResult, FenceType
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.host_references import read_cluster_id, read_login, read_way
from pkengine.engine.rest.job_actions import JobActions
from pkengine.engine.rest.schema import Document, IncompleteParameters
from pkengine.engine.users import Role
from pkengine.errors import BadRequest


class HostActions:
    """``/hosts/ID/ACTION``."""

    def __init__(self, hosts: Hosts, clusters: Clusters, actions: JobActions) -> None:
        self._hosts = hosts
        self._clusters = clusters
        self._actions = actions

    def routes(self) -> Iterable[Route]:
        """Give the routes; what decides whom to trust, or what runs there, is not for all."""
        decides, operates = Role.ADMINISTRATOR, Role.OPERATOR
        for handler, role in (
            (self.activate, operates),
            (self.approve, decides),
            (self.deactivate, operates),
            (self.enrollcertificate, decides),
            (self.fence, operates),
            (self.install, decides),
            (self.refresh, operates),
            (self.rekey, decides),
            (self.upgrade, decides),
            (self.upgradecheck, operates),
        ):
            yield Route(
                method="POST",
                path=f"/hosts/<uuid:host_id>/{handler.__name__}",
                handler=handler,
                role=role,
                is_action=True,
                reads=ACTION,
            )

    async def install(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Begin to install a host again; it is answered when the engine has logged in to it."""
        document = call.read(ACTION, is_optional=True)
        job = await self._hosts.admission.install(
            host_id,
            read_login(document),
            call.origin,
            way=read_way(document),
            activate=document.get("activate", call.boolean("activate", False)),
            reboot=document.get("reboot", call.boolean("reboot", False)),
        )
        return await self._done(call, document, job)

    async def activate(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Watch a host again."""
        document = call.read(ACTION, is_optional=True)
        job = await self._hosts.maintenance.activate(host_id, call.origin)
        return await self._done(call, document, job)

    async def deactivate(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Put a host into maintenance."""
        document = call.read(ACTION, is_optional=True)
        reason = document.get("reason", "")
        job = await self._hosts.maintenance.deactivate(host_id, call.origin, reason)
        return await self._done(call, document, job)

    async def approve(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Accept a host that joined by a code, or one that registered itself and install it."""
        document = call.read(ACTION, is_optional=True)
        # Clients say how to log in at either place.
        login = read_login({**(document.get("host") or {}), **document})
        job = await self._hosts.admission.approve(
            host_id,
            login,
            call.origin,
            way=read_way(document),
            activate=document.get("activate", call.boolean("activate", True)),
            reboot=document.get("reboot", call.boolean("reboot", False)),
            cluster_id=await read_cluster_id(self._clusters, document.get("cluster")),
        )
        return await self._done(call, document, job)

    async def refresh(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Ask a host's agent anew what it and its host are."""
        document = call.read(ACTION, is_optional=True)
        job = await self._hosts.upkeep.refresh(host_id, call.origin)
        return await self._done(call, document, job)

    async def enrollcertificate(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Renew the key that engine and host share, else let both prove the ones they have."""
        document = call.read(ACTION, is_optional=True)
        if (await self._hosts.get(host_id)).mechanism in SHARED_KEY_MECHANISMS:
            job = await self._hosts.rekeying.change(host_id, WayChoice(), call.origin)
            document = {**document, "async": False}  # as the proof is answered
        else:
            job = await self._hosts.upkeep.prove_keys(host_id, call.origin)
        return await self._done(call, document, job)

    async def rekey(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Begin to let a host connect otherwise, or by a fresh key, over the connection it has."""
        document = call.read(ACTION, is_optional=True)
        job = await self._hosts.rekeying.change(host_id, read_way(document), call.origin)
        return await self._done(call, document, job)

    async def upgradecheck(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Begin to compare a host's agent with the one that the engine would install."""
        document = call.read(ACTION, is_optional=True)
        job = await self._hosts.upgrades.check_for_update(host_id, call.origin)
        return await self._done(call, document, job)

    async def upgrade(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Begin to bring a host's agent to the engine's version, or back where that fails."""
        document = call.read(ACTION, is_optional=True)
        # `reboot` is accepted: Ansible sends true by default, and no upgrade needs one.
        job = await self._hosts.upgrades.upgrade(host_id, read_login(document), call.origin)
        return await self._done(call, document, job)

    async def fence(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Tell whether a host answers, reboot it, or restart its agent, by SSH."""
        document = call.read(ACTION, is_optional=True)
        upkeep = self._hosts.upkeep
        kind = document.get("fence_type")
        if kind is None:
            raise IncompleteParameters("Action [fence_type] required for fence.")
        if kind is FenceType.STATUS:
            status = "on" if await upkeep.is_answering(host_id) else "unknown"
            return Answer(element=ACTION, one=ActionResult(power_status=status))
        login = read_login(document)
        if kind is FenceType.RESTART_AGENT:
            job = await upkeep.restart_agent(host_id, login, call.origin)
        elif kind is FenceType.RESTART:
            job = await upkeep.reboot(host_id, login, call.origin)
        else:
            await self._hosts.get(host_id)
            raise BadRequest(
                f"Cannot fence by '{kind.value}': no host has power management here. Expected "
                "'status', 'restart' or 'restart_agent'."
            )
        return await self._done(call, document, job)

    async def _done(self, call: Call, document: Document, job: Job) -> Answer:
        return await self._actions.done(call, document, job, self._detail)

    async def _detail(self, job: Job) -> str:
        """Say why a job failed: as the host tells it, else by the step that did not work."""
        failed = next(
            (step.description for step in job.steps if step.status is StepStatus.FAILED), ""
        )
        if job.host_id is None:
            return failed
        host = await self._hosts.get(job.host_id)
        if host.status is HostStatus.INSTALL_FAILED:
            return host.status_detail
        return failed or host.status_detail
