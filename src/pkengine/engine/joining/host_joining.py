"""Takes in a host that has proved a code: gives it a lasting way, and forgets the code.

Nothing can end half done.  The host's new key is accepted while it is tried, and only when
the host came by it are host and invitation written, in one transaction.  Then the host is
told to keep the way; one that does not answer to that is taken out again, and its code is
good for another attempt.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.peer import Role
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS
from pkengine.channel import Channel, Verbs
from pkengine.channel.engine_url import parse_engine_url
from pkengine.channel.join_verbs import HOST_JOIN, Joined, JoinRequest
from pkengine.channel.verbs import (
    ENGINE_COMMIT,
    ENGINE_PREPARE,
    ENGINE_TRY,
    CommittedWay,
    PreparedWay,
    PrepareWay,
)
from pkengine.engine.clock import utc_now
from pkengine.engine.clusters import Clusters
from pkengine.engine.events import EventCode, Events
from pkengine.engine.hosts import request
from pkengine.engine.hosts.admission import MOST_PENDING
from pkengine.engine.hosts.agent_report import AgentChannel
from pkengine.engine.hosts.dial_in import DialIn
from pkengine.engine.hosts.lifecycle import Trigger, advance
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.trust import AgentKey, peer_name
from pkengine.engine.joining.invitations import Invitations
from pkengine.engine.model import (
    Host,
    HostConnection,
    HostStatus,
    Invitation,
    KeySource,
    Origin,
    Severity,
)
from pkengine.engine.tasks import Tasks
from pkengine.errors import BadRequest, Conflict, PkengineError
from pkengine.keys import Pin

#: How long the host may take to come by the new way.
TRY_TIMEOUT_S = 30.0

#: Gets ready for the agent of a new host; see `NetworkAccess.expecting`.
Expecting = Callable[
    [Host, AgentKey], AbstractAsyncContextManager[Callable[[], Awaitable[AgentChannel]]]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastingWay:
    """How hosts that have joined are to be connected from then on.

    Attributes:
        engine: what hosts call this engine.
        pin: its own key.
        mechanism: how both prove who they are.
        dial_in: where hosts dial, or None for where each of them has found the engine.
        https_pin: of the HTTPS server's key, where `dial_in` says nothing.
    """

    engine: str
    pin: Pin
    mechanism: str
    dial_in: DialIn | None
    https_pin: Pin

    def dial_in_of(self, url: str) -> DialIn:
        """Tell where a host that has found the engine at a URL shall dial.

        Raises:
            InvalidEngineUrl: the URL is malformed.
        """
        if self.dial_in is not None:
            return self.dial_in
        return DialIn(parse_engine_url(url).geturl(), str(self.https_pin))


class HostJoining:
    """Answers hosts that have proved a code.

    Args:
        invitations: tell which codes are good.
        registry: where the new hosts go.
        clusters: one of which they get into.
        events: hear of those that do not come through.
        expecting: gets ready for the new way of a host.
        way: what that way is.
        clock: what time it is.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        invitations: Invitations,
        registry: HostRegistry,
        clusters: Clusters,
        events: Events,
        expecting: Expecting,
        way: LastingWay,
        clock: IReactorTime,
    ) -> None:
        self._invitations = invitations
        self._registry = registry
        self._clusters = clusters
        self._events = events
        self._expecting = expecting
        self._way = way
        self._clock = clock
        self._tasks = Tasks()

    def verbs(self) -> Verbs:
        """Give what a host may call that has proved a code."""
        verbs = Verbs()
        verbs.add(HOST_JOIN, JoinRequest, self.join)
        return verbs

    async def stop(self) -> None:
        """Wait for what must not be left half done."""
        await self._tasks.stop()

    async def join(self, wanted: JoinRequest, channel: Channel) -> Joined:
        """Take a host in.

        Raises:
            Conflict: the code has ended, the host or its name is known already, or too many
                hosts wait for approval.
            PkengineError: the new way does not work.
        """
        address = str(getattr(channel.peer_address, "host", channel.peer_address))
        origin = Origin(address=address)
        with self._invitations.joining(uuid.UUID(channel.peer_name)) as invitation:
            try:
                host = await self._join(invitation, wanted, channel, origin)
            except PkengineError as error:
                await self._events.add(
                    EventCode.HOST_JOIN_FAILED,
                    Severity.WARNING,
                    f"A host at {address} that knew the code of invitation {invitation.number} "
                    f"could not join. {error}",
                    origin=origin,
                )
                raise
            return Joined(self._way.engine, host.name, invitation.is_approved)

    async def _join(
        self, invitation: Invitation, wanted: JoinRequest, channel: Channel, origin: Origin
    ) -> Host:
        if not invitation.is_approved and await self._registry.count_pending() >= MOST_PENDING:
            raise Conflict(f"{MOST_PENDING} hosts wait for approval already.")
        host = await self._new_host(invitation, wanted, origin)
        key = await self._prepare(host, wanted, channel)
        async with self._expecting(host, key) as connect:
            await channel.call(ENGINE_TRY, timeout_s=TRY_TIMEOUT_S)
            proof = await connect()
            # From here on both ends must agree on how it ended, whoever hangs up.
            return await self._tasks.shield(self._settle(invitation, host, key, proof, origin))

    async def _new_host(self, invitation: Invitation, wanted: JoinRequest, origin: Origin) -> Host:
        host_id = uuid.uuid4()
        name = invitation.host_name or request.name(wanted.name)
        try:
            await self._registry.check_is_free(name, "")
        except Conflict:
            raise Conflict(
                f"The engine has a Host '{name}' already: remove that one, or ask for a code "
                "that gives this host another name (pkengine host invite --name NAME)."
            ) from None
        said = await self._free_address(wanted.address)
        unverified = (
            "Its address is what it said itself, and was not verified."
            if said
            else "Its own address is not known."
        )
        return Host(
            id=host_id,
            name=name,
            address=said or f"{host_id}.invalid",  # RFC 6761 §6.4
            cluster_id=(await self._clusters.default()).id,
            status=HostStatus.PENDING_APPROVAL,
            comment=f"Joined from {origin.address}. {unverified}",
            connection=HostConnection.AGENT_DIALS,
            mechanism=self._way.mechanism,
        )

    async def _free_address(self, said: str) -> str:
        """Give what a host says of its address, or nothing where it cannot be that.

        Behind two routers that translate addresses, two hosts may have the same.
        """
        try:
            address = request.address(said)
            await self._registry.check_is_free("", address)
        except (BadRequest, Conflict):
            return ""
        return address

    async def _prepare(self, host: Host, wanted: JoinRequest, channel: Channel) -> AgentKey:
        """Tell the host the way; give the key by which it will come."""
        way, dial_in = self._way, self._way.dial_in_of(wanted.url)
        agreement = None
        if way.mechanism in SHARED_KEY_MECHANISMS:
            agreement = KeyAgreement(
                way.mechanism, local=way.engine, peer=peer_name(host.id), role=Role.ACCEPTOR
            )
        prepared: PreparedWay = await channel.call(
            ENGINE_PREPARE,
            PrepareWay(
                name=way.engine,
                host_id=peer_name(host.id),
                engine_pin=str(way.pin),
                connection="agent-dials",
                mechanism=cast(Any, way.mechanism),  # checked when the engine started
                url=dial_in.url,
                server=dial_in.server,
                share=agreement.share if agreement is not None else None,
            ),
            result_type=PreparedWay,
        )
        if agreement is not None:
            return agreement.agree(prepared.share or "")
        return Pin.parse(prepared.pin)

    async def _settle(
        self,
        invitation: Invitation,
        host: Host,
        key: AgentKey,
        proof: AgentChannel,
        origin: Origin,
    ) -> Host:
        trusted = self._registry.trust.host_key(
            key, host.mechanism, KeySource.JOINED, utc_now(self._clock)
        )
        tell = self._registry.announcements
        joined = await self._registry.insert(
            replace(host, keys=(trusted,)),
            lambda host: [tell.joined(host, invitation, origin)],
            also=lambda connection: self._invitations.use(connection, invitation.id, host.id),
        )
        try:
            await proof.call(ENGINE_COMMIT, result_type=CommittedWay)
        except PkengineError as error:
            undone = str(error)
            await self._registry.delete(
                host.id, lambda host: [tell.join_undone(host, undone, origin)]
            )
            await self._invitations.reopen(invitation.id)
            raise
        finally:
            proof.abort()  # who has joined is to come again, from its agent
        self._invitations.used(invitation.id, host.id)
        if invitation.is_approved:
            await self._registry.change(
                host.id,
                lambda host: advance(host, Trigger.ACCEPTED),
                lambda host: [tell.approved(host, Origin(user=invitation.user))],
            )
        return joined
