"""The invitations that are open, and those that ended a short while ago.

An invitation is a code of which the engine keeps what verifies it, and nothing that could
show it again.  It ends once: it is used by one host, or expires, is revoked, or is burnt by
wrong guesses.  The verifying record stays for `KEPT_S` longer: it opens nothing then, but
whoever proves the code is told what became of it, and nobody else is told anything.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import uuid
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool

from pkengine.auth.join_code import MOST_NUMBER, JoinCode, join_key_id
from pkengine.auth.pake import Spake2PlusAuthenticator
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.auth.trust import MemoryTrustStore
from pkengine.engine.clock import utc_now
from pkengine.engine.events import EventCode, Events
from pkengine.engine.hosts import request
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.joining.guesses import MOST_GUESSES, Guesses
from pkengine.engine.model import Event, Invitation, InvitationState, Origin, Severity
from pkengine.engine.store import Seal, Store
from pkengine.engine.store import events as event_queries
from pkengine.engine.store import invitations as queries
from pkengine.engine.tasks import Tasks
from pkengine.errors import BadRequest, Conflict, NotFound, StoreError
from pkengine.keys import Secret
from pkengine.keys.key_id import KeyId

DEFAULT_EXPIRY_S = 15 * 60
SHORTEST_EXPIRY_S = 60
LONGEST_EXPIRY_S = 24 * 3600

#: How long the engine still knows an invitation that has ended.
KEPT_S = 3600

#: So many are known at once.
MOST_INVITATIONS = 200


@dataclass(slots=True)
class _Known:
    """An invitation, and what happens to it next if nothing else does."""

    invitation: Invitation
    next: IDelayedCall
    is_joining: bool = False


class Invitations:
    """Makes, lists and ends invitations.

    Args:
        reactor: gives the time and the threads.
        store: where they are kept.
        events: hear of them.
        registry: knows which names of hosts are taken.
        seal: encrypts what verifies their codes.
        register: runs the slow derivation.
        choose: draws one of several.

    Attributes:
        authenticator: accepts who proves a code; the name of the peer is the invitation's id.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        store: Store,
        events: Events,
        registry: HostRegistry,
        seal: Seal,
        register: Callable[[JoinCode], Awaitable[tuple[SharedKey, SharedKey]]] | None = None,
        choose: Callable[[Sequence[Any]], Any] = secrets.choice,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._events = events
        self._registry = registry
        self._seal = seal
        self._register = register or self._register_in_thread
        self._choose = choose
        self._known: dict[uuid.UUID, _Known] = {}
        self._secrets = MemorySharedKeys()
        self._trust = MemoryTrustStore()
        self._guesses = Guesses(reactor, self._write_guesses, self._used_up)
        self._tasks = Tasks()
        self.authenticator = Spake2PlusAuthenticator(
            self._secrets, self._trust, attempts=self._guesses, monotonic=reactor.seconds
        )

    # Start and stop.

    async def start(self) -> None:
        """Take up the invitations where the engine left them.

        Raises:
            KeyFileError: one cannot be unsealed.
        """
        for invitation in await self._store.read(queries.all_invitations):
            self._know(invitation, made=invitation.guesses)

    async def stop(self) -> None:
        """Let nobody join any more."""
        await self._guesses.stop()
        await self._tasks.stop()
        for known in self._known.values():
            if known.next.active():
                known.next.cancel()
        self._known.clear()

    # What an administrator does.

    async def invite(
        self,
        origin: Origin,
        *,
        host_name: str = "",
        expires_s: int = DEFAULT_EXPIRY_S,
        is_approved: bool = False,
    ) -> tuple[Invitation, JoinCode]:
        """Invite one host.

        Args:
            origin: who invites.
            host_name: what the host will be called, or empty for what it calls itself.
            expires_s: how many seconds the code can be used.
            is_approved: the host needs no approval when it has joined.

        Returns:
            The invitation, and its code, which is known to nobody else and shown this once.

        Raises:
            BadRequest: the name is malformed, or the time is too short or too long.
            Conflict: the name is taken, or too many invitations are open.
        """
        if host_name:
            await self._registry.check_is_free(request.name(host_name), "")
        if not SHORTEST_EXPIRY_S <= expires_s <= LONGEST_EXPIRY_S:
            raise BadRequest(
                f"An invitation cannot expire after {expires_s} s: expected "
                f"{SHORTEST_EXPIRY_S} s to {LONGEST_EXPIRY_S // 3600} h."
            )
        self._make_room()
        taken = {known.invitation.number for known in self._known.values()}
        free = [number for number in range(1, MOST_NUMBER + 1) if number not in taken]
        code = JoinCode.draw(self._choose(free), choose=self._choose)
        _, record = await self._register(code)
        invitation_id, now = uuid.uuid4(), utc_now(self._reactor)
        invitation = Invitation(
            id=invitation_id,
            number=code.number,
            state=InvitationState.OPEN,
            created=now,
            expires=now + datetime.timedelta(seconds=expires_s),
            sealed=self._seal.seal(Secret(record.encode()), *_context(invitation_id)),
            host_name=host_name,
            is_approved=is_approved,
            guesses=1,  # that may be made before anything else is written
            user=origin.user,
        )

        def insert(connection: Connection) -> list[Event]:
            queries.insert_invitation(connection, invitation)
            return [event_queries.insert_event(connection, self._invited(invitation, origin))]

        try:
            events = await self._tasks.shield(self._store.write(insert))
        except IntegrityError as error:
            raise Conflict("Another invitation has just taken that number: try again.") from error
        self._know(invitation, made=0)
        self._publish(events)
        return invitation, code

    async def revoke(self, invitation_id: uuid.UUID, origin: Origin) -> Invitation:
        """End an invitation that is open; its code opens nothing from now on.

        Raises:
            NotFound: there is no such invitation.
            Conflict: it has ended already.
        """
        invitation = self.get(invitation_id)
        revoked = await self._tasks.shield(
            self._end(invitation_id, InvitationState.REVOKED, origin)
        )
        if revoked is None:
            raise Conflict(what_became_of(self.get(invitation.id)))
        return revoked

    def get(self, invitation_id: uuid.UUID) -> Invitation:
        """Give an invitation.

        Raises:
            NotFound: there is none with that id, or it ended long ago.
        """
        known = self._known.get(invitation_id)
        if known is None:
            raise NotFound(f"There is no invitation with the id {invitation_id}.")
        return known.invitation

    # What a host does that has proved a code.

    @contextlib.contextmanager
    def joining(self, invitation_id: uuid.UUID) -> Iterator[Invitation]:
        """Let one host at a time join by an invitation.

        Raises:
            Conflict: the invitation has ended, or another host is joining by it.
        """
        known = self._known.get(invitation_id)
        if known is None:
            raise Conflict("The invitation ended long ago: ask for a new code.")
        if known.invitation.state is not InvitationState.OPEN:
            raise Conflict(what_became_of(known.invitation))
        if known.is_joining:
            raise Conflict("Another host is joining by this code just now.")
        known.is_joining = True
        try:
            yield known.invitation
        finally:
            known.is_joining = False
            if known.invitation.state is InvitationState.OPEN:
                self._schedule(known)  # it may have expired meanwhile

    def use(self, connection: Connection, invitation_id: uuid.UUID, host_id: uuid.UUID) -> None:
        """Use an invitation for a host, in the transaction that makes the host.

        Raises:
            Conflict: it has ended meanwhile.
        """
        used = queries.end_invitation(
            connection,
            invitation_id,
            InvitationState.USED,
            utc_now(self._reactor),
            host_id=host_id,
        )
        if used is None:
            raise Conflict("The invitation ended while this host was joining by it.")

    def used(self, invitation_id: uuid.UUID, host_id: uuid.UUID) -> None:
        """Follow `use`, once it is on disk."""
        known = self._known.get(invitation_id)
        if known is not None:
            now = utc_now(self._reactor)
            used = replace(
                known.invitation, state=InvitationState.USED, ended=now, host_id=host_id
            )
            self._learn(used)

    async def reopen(self, invitation_id: uuid.UUID) -> None:
        """Take `use` back: the host did not come through."""
        opened = await self._store.write(queries.reopen_invitation, invitation_id)
        if opened is not None:
            self._know(opened, made=opened.guesses - 1)

    # How invitations go on by themselves.

    def _know(self, invitation: Invitation, *, made: int) -> None:
        """Accept the code of an invitation."""
        key_id = join_key_id(invitation.number)
        opened = self._seal.open(invitation.sealed, *_context(invitation.id))
        self._secrets.add(SharedKey.decode(opened.reveal()))
        self._trust.add(
            TrustedPeer(str(invitation.id), key_id, frozenset((self.authenticator.mechanism,)))
        )
        self._learn(invitation)
        if invitation.state is InvitationState.OPEN:
            self._guesses.watch(key_id, made, invitation.guesses)

    def _learn(self, invitation: Invitation) -> None:
        known = self._known.get(invitation.id)
        if known is not None:
            known.invitation = invitation
        else:
            never = self._reactor.callLater(0, lambda: None)
            known = self._known[invitation.id] = _Known(invitation, never)
        if invitation.state is not InvitationState.OPEN:
            self._guesses.end(join_key_id(invitation.number))
        self._schedule(known)

    def _schedule(self, known: _Known) -> None:
        if known.next.active():
            known.next.cancel()
        invitation = known.invitation
        is_open = invitation.state is InvitationState.OPEN
        ended = invitation.ended or invitation.expires
        at = invitation.expires if is_open else ended + datetime.timedelta(seconds=KEPT_S)
        left = (at - utc_now(self._reactor)).total_seconds()
        then = self._expire if is_open else self._forget
        known.next = self._reactor.callLater(max(0.0, left), then, invitation.id)

    def _expire(self, invitation_id: uuid.UUID) -> None:
        if not self._known[invitation_id].is_joining:
            self._end_later(invitation_id, InvitationState.EXPIRED)

    def _used_up(self, key: Hashable) -> None:
        peer = self._trust.lookup(key) if isinstance(key, KeyId) else None
        if peer is not None:
            self._end_later(uuid.UUID(peer.name), InvitationState.BURNT)

    def _end_later(self, invitation_id: uuid.UUID, state: InvitationState) -> None:
        self._tasks.spawn("ending an invitation", self._end(invitation_id, state, Origin()))

    async def _end(
        self, invitation_id: uuid.UUID, state: InvitationState, origin: Origin
    ) -> Invitation | None:
        def run(connection: Connection) -> tuple[Invitation, Event] | None:
            ended = queries.end_invitation(
                connection, invitation_id, state, utc_now(self._reactor)
            )
            if ended is None:
                return None
            draft = self._ended(ended, origin)
            return ended, event_queries.insert_event(connection, draft)

        done = await self._store.write(run)
        if done is None:
            return None
        self._learn(done[0])
        self._publish([done[1]])
        return done[0]

    def _make_room(self) -> None:
        """Forget the one that ended first, where there are too many."""
        if len(self._known) < MOST_INVITATIONS:
            return
        ended = [
            each.invitation
            for each in self._known.values()
            if each.invitation.state is not InvitationState.OPEN
        ]
        if not ended:
            raise Conflict(
                f"{MOST_INVITATIONS} invitations are open already: revoke some, or wait."
            )
        self._forget(min(ended, key=lambda each: each.ended or each.expires).id)

    def _forget(self, invitation_id: uuid.UUID) -> None:
        known = self._known.pop(invitation_id)
        if known.next.active():
            known.next.cancel()
        key_id = join_key_id(known.invitation.number)
        self._trust.remove(key_id)
        self._secrets.remove(key_id)
        self._tasks.spawn("forgetting an invitation", self._delete(invitation_id))

    async def _delete(self, invitation_id: uuid.UUID) -> None:
        await self._store.write(queries.delete_invitation, invitation_id)

    async def _write_guesses(self, key: Hashable, guesses: int) -> None:
        peer = self._trust.lookup(key) if isinstance(key, KeyId) else None
        if peer is None:
            raise StoreError("The invitation is gone.")
        invitation_id = uuid.UUID(peer.name)
        await self._store.write(queries.count_guesses, invitation_id, guesses)
        known = self._known.get(invitation_id)
        if known is not None:
            known.invitation = replace(known.invitation, guesses=guesses)

    async def _register_in_thread(self, code: JoinCode) -> tuple[SharedKey, SharedKey]:
        return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), code.register)

    # Events.

    def _publish(self, events: Iterable[Event]) -> None:
        for event in events:
            self._events.publish(event)

    def _invited(self, invitation: Invitation, origin: Origin) -> Event:
        who = f"Host {invitation.host_name}" if invitation.host_name else "a host"
        approval = "needs no approval" if invitation.is_approved else "will wait for approval"
        text = (
            f"Invitation {invitation.number} was made by {origin.user} from {origin.address}: "
            f"who knows its code may join as {who} until {_moment(invitation.expires)}, and "
            f"{approval}."
        )
        return self._events.draft(EventCode.HOST_INVITED, Severity.NORMAL, text, origin=origin)

    def _ended(self, invitation: Invitation, origin: Origin) -> Event:
        code, severity = {
            InvitationState.BURNT: (EventCode.INVITATION_BURNT, Severity.ALERT),
            InvitationState.EXPIRED: (EventCode.INVITATION_EXPIRED, Severity.NORMAL),
            InvitationState.REVOKED: (EventCode.INVITATION_REVOKED, Severity.NORMAL),
        }[invitation.state]
        how = {
            InvitationState.BURNT: f"was burnt: {MOST_GUESSES} wrong codes were tried on it",
            InvitationState.EXPIRED: "has expired, and nobody had joined by it",
            InvitationState.REVOKED: f"was revoked by {origin.user} from {origin.address}",
        }[invitation.state]
        text = f"Invitation {invitation.number} {how}."
        return self._events.draft(code, severity, text, origin=origin)

    # Last, for in here its name hides the type's.

    def list(self) -> list[Invitation]:
        """Give all that are open or ended a short while ago, the oldest first."""
        found = [known.invitation for known in self._known.values()]
        return sorted(found, key=lambda each: (each.created, each.number))


def _context(invitation_id: uuid.UUID) -> tuple[str, str]:
    return "invitation", str(invitation_id)


def what_became_of(invitation: Invitation) -> str:
    """Say to who knows the code what became of the invitation."""
    when = _moment(invitation.ended or invitation.expires)
    return {
        InvitationState.OPEN: "The invitation is open.",
        InvitationState.USED: f"This code was used at {when}, and each is good for one host",
        InvitationState.BURNT: f"This code was burnt at {when}, after wrong ones were tried",
        InvitationState.EXPIRED: f"This code has expired at {when}",
        InvitationState.REVOKED: f"This code was revoked at {when}",
    }[invitation.state] + ": ask for a new one."


def _moment(time: datetime.datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
