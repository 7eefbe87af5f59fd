"""The event log: what happened, to which host, and who asked for it."""

from __future__ import annotations

import contextlib
import enum
import uuid
from collections.abc import AsyncIterator, Callable, Collection

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.engine.clock import utc_now
from pkengine.engine.model import Event, Host, Origin, Severity
from pkengine.engine.paging import Pages
from pkengine.engine.publisher import Publisher
from pkengine.engine.search import Search
from pkengine.engine.store import Store
from pkengine.engine.store import events as queries
from pkengine.errors import NotFound, PkengineError, StoreError

#: What a search may name.
EVENT_FIELDS: Collection[str] = queries.SEARCHED


class EventCode(enum.IntEnum):
    """What kind of thing happened; the numbers are oVirt's."""

    ENGINE_STARTED = 1
    ENGINE_STOPPED = 2
    HOST_NON_RESPONSIVE = 12
    HOST_STATUS_CHANGED = 13
    HOST_MAINTENANCE = 15
    HOST_ACTIVATING = 16
    HOST_ACTIVATION_FAILED = 18
    USER_LOGGED_IN = 30
    USER_LOGGED_OUT = 31
    HOST_ADDED = 42
    HOST_UPDATED = 43
    HOST_REMOVED = 44
    HOST_ADD_FAILED = 104
    HOST_UPDATE_FAILED = 105
    HOST_REMOVE_FAILED = 106
    USER_LOGIN_FAILED = 114
    HOST_INSTALLED = 504
    HOST_INSTALL_FAILED = 505
    HOST_INSTALLING = 509
    HOST_NON_OPERATIONAL = 519
    HOST_CONNECTING = 9008
    HOST_RESTARTED = 41
    HOST_AGENT_RESTARTED = 197
    HOST_APPROVED = 498
    HOST_APPROVE_FAILED = 499
    HOST_REGISTERED = 828
    HOST_UPDATE_CHECK_FAILED = 839
    HOST_UPGRADE_STARTED = 840
    HOST_UPGRADE_FAILED = 841
    HOST_UPGRADE_FINISHED = 842
    HOST_ENROLLMENT_STARTED = 880
    HOST_ENROLLED = 881
    HOST_ENROLLMENT_FAILED = 882
    HOST_UPDATE_CHECK_STARTED = 884
    HOST_UPDATE_CHECKED = 885
    # These are not oVirt's.
    AGENT_DIALLED_IN_ANEW = 13101
    TLS_PATH_CHANGED = 13102
    AGENT_BEHIND_PROXY_REFUSED = 13103
    WAY_CHANGING = 13111
    WAY_CHANGED = 13112
    WAY_NOT_CHANGED = 13113
    KEY_CHANGE_FOUND = 13001
    KEY_CHANGE_APPROVED = 13002
    KEY_CHANGE_REJECTED = 13003
    KEY_CHANGE_SETTLED = 13004
    HOST_KEY_REPLACED = 13005
    HOST_KEY_ROTATED = 13006
    HOST_KEYS_LEARNT = 13007
    KNOWN_KEYS_ADDED = 13011
    KNOWN_KEY_REMOVED = 13012
    JUMP_KEY_LEARNT = 13013
    ENGINE_KEY_REFUSED = 13201
    ENGINE_KEY_ROTATION_STARTED = 13202
    ENGINE_KEY_ROTATED = 13203
    ENGINE_KEY_ROTATION_FAILED = 13204
    ENGINE_KEY_ROTATION_FINISHED = 13205
    ENGINE_KEY_DISCARDED = 13206
    HOST_INVITED = 13301
    HOST_JOINED = 13302
    HOST_JOIN_FAILED = 13303
    INVITATION_BURNT = 13304
    INVITATION_EXPIRED = 13305
    INVITATION_REVOKED = 13306
    USER_ADDED = 20001
    USER_CHANGED = 20002
    USER_REMOVED = 20003
    TOKEN_ISSUED = 20011
    TOKEN_REVOKED = 20012
    DECISION_REFUSED = 20021


#: Decisions about whom to trust, and their refusals: what the audit log is made of.
TRUST_DECISIONS = (
    EventCode.HOST_ADDED,
    EventCode.HOST_UPDATED,
    EventCode.HOST_REMOVED,
    EventCode.HOST_ADD_FAILED,
    EventCode.HOST_UPDATE_FAILED,
    EventCode.HOST_REMOVE_FAILED,
    EventCode.HOST_INSTALLING,
    EventCode.HOST_INSTALLED,
    EventCode.HOST_INSTALL_FAILED,
    EventCode.WAY_CHANGING,
    EventCode.WAY_CHANGED,
    EventCode.WAY_NOT_CHANGED,
    EventCode.KEY_CHANGE_FOUND,
    EventCode.KEY_CHANGE_APPROVED,
    EventCode.KEY_CHANGE_REJECTED,
    EventCode.KEY_CHANGE_SETTLED,
    EventCode.HOST_KEY_REPLACED,
    EventCode.HOST_KEY_ROTATED,
    EventCode.HOST_KEYS_LEARNT,
    EventCode.KNOWN_KEYS_ADDED,
    EventCode.KNOWN_KEY_REMOVED,
    EventCode.JUMP_KEY_LEARNT,
    EventCode.ENGINE_KEY_REFUSED,
    EventCode.ENGINE_KEY_ROTATION_STARTED,
    EventCode.ENGINE_KEY_ROTATED,
    EventCode.ENGINE_KEY_ROTATION_FAILED,
    EventCode.ENGINE_KEY_ROTATION_FINISHED,
    EventCode.ENGINE_KEY_DISCARDED,
    EventCode.HOST_REGISTERED,
    EventCode.HOST_APPROVED,
    EventCode.HOST_APPROVE_FAILED,
    EventCode.HOST_UPGRADE_STARTED,
    EventCode.HOST_UPGRADE_FAILED,
    EventCode.HOST_UPGRADE_FINISHED,
    EventCode.HOST_ENROLLED,
    EventCode.HOST_ENROLLMENT_FAILED,
    EventCode.HOST_INVITED,
    EventCode.HOST_JOINED,
    EventCode.HOST_JOIN_FAILED,
    EventCode.INVITATION_BURNT,
    EventCode.INVITATION_EXPIRED,
    EventCode.INVITATION_REVOKED,
    EventCode.USER_LOGIN_FAILED,
    EventCode.USER_ADDED,
    EventCode.USER_CHANGED,
    EventCode.USER_REMOVED,
    EventCode.TOKEN_ISSUED,
    EventCode.TOKEN_REVOKED,
    EventCode.DECISION_REFUSED,
)


class Events:
    """Writes and reads the event log.

    Args:
        store: where it is kept.
        clock: what time it is.
    """

    _log = Logger()

    def __init__(self, store: Store, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._publisher: Publisher[Event] = Publisher()

    async def list(
        self,
        *,
        after: int | None = None,
        limit: int | None = 100,
        newest_first: bool = True,
        host_id: uuid.UUID | None = None,
    ) -> list[Event]:
        """Give events with an id greater than `after`; `limit` cuts the far end of the order."""
        return await self._store.read(
            queries.select_events,
            after=after,
            limit=limit,
            newest_first=newest_first,
            host_id=host_id,
        )

    async def find(
        self,
        search: Search,
        limit: int,
        *,
        after: int | None = None,
        codes: Collection[int] | None = None,
    ) -> Pages[Event]:
        """Give what a search finds, the newest first where it names no order.

        Args:
            search: what is looked for.
            limit: how many at most.
            after: only those with a greater id.
            codes: only those of these kinds.

        Raises:
            InvalidSearch: a value does not fit its field.
        """
        ids = await self._store.read(queries.find_ids, search, limit, after=after, codes=codes)
        return Pages(ids, lambda some: self._store.read(queries.events_by_ids, some))

    async def get(self, event_id: int) -> Event:
        """Give one event.

        Raises:
            NotFound: there is no such event.
        """
        # No database has integers that are longer.
        event = None
        if event_id < 2**63:
            event = await self._store.read(queries.event_by_id, event_id)
        if event is None:
            raise NotFound(f"There is no event {event_id}.")
        return event

    async def add(
        self,
        code: int,
        severity: Severity,
        description: str,
        *,
        host: Host | None = None,
        origin: Origin | None = None,
    ) -> Event:
        """Write an event, and tell the subscribers once it is on disk."""
        draft = self.draft(code, severity, description, host=host, origin=origin)
        event = await self._store.write(queries.insert_event, draft)
        self.publish(event)
        return event

    @contextlib.asynccontextmanager
    async def telling_refusal(
        self, code: EventCode, what: str, origin: Origin, *, host: Host | None = None
    ) -> AsyncIterator[None]:
        """Write that something was refused, and why, where an error says so.

        Args:
            code: of the event.
            what: the sentence before that of the error.
            origin: who asked for it.
            host: about which.

        Raises:
            PkengineError: as it was raised within, whether that could be written or not.
        """
        try:
            yield
        except PkengineError as error:
            text = f"{what} {error}"
            try:
                await self.add(code, Severity.ERROR, text, host=host, origin=origin)
            except StoreError as unwritten:
                self._log.error("{text} {unwritten}", text=text, unwritten=unwritten)
            raise

    def draft(
        self,
        code: int,
        severity: Severity,
        description: str,
        *,
        host: Host | None = None,
        origin: Origin | None = None,
    ) -> Event:
        """Make an event that somebody else writes, in the transaction of what it tells of."""
        origin = origin or Origin()
        return Event(
            id=0,
            code=int(code),
            severity=severity,
            time=utc_now(self._clock),
            description=description,
            host_id=host.id if host else None,
            host_name=host.name if host else "",
            cluster_id=host.cluster_id if host else None,
            user=origin.user,
            address=origin.address,
            correlation_id=origin.correlation_id,
        )

    def publish(self, event: Event) -> None:
        """Tell the subscribers and the log of an event that is on disk now."""
        self._log.info(
            "{description}",
            description=event.description,
            code=event.code,
            severity=event.severity.value,
            host=event.host_name,
            correlation_id=event.correlation_id,
        )
        self._publisher.publish(event)

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Ask to be called with each new event, in order; gives what ends it."""
        return self._publisher.subscribe(callback)
