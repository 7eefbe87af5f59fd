"""The hosts on disk, the keys trusted for them and the events about them, kept in step.

Whatever changes a host goes through here: the row, its keys and its events change in one
transaction, and when that is on disk the trust in memory and the subscribers follow.  Who
cancels a change that has begun, stops waiting for it and stops nothing else.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from twisted.internet.interfaces import IReactorTime

from pkengine.engine.clock import utc_now
from pkengine.engine.events import Events
from pkengine.engine.hosts.announcements import Announcements
from pkengine.engine.hosts.lifecycle import Trigger, require
from pkengine.engine.hosts.trust import HostTrust, is_copied
from pkengine.engine.model import Event, Host
from pkengine.engine.paging import Pages
from pkengine.engine.publisher import Publisher
from pkengine.engine.search import Search
from pkengine.engine.store import Store
from pkengine.engine.store import events as event_queries
from pkengine.engine.store import hosts as queries
from pkengine.engine.tasks import Tasks
from pkengine.errors import Conflict, NotFound

Also = Callable[[Connection], None]
Change = Callable[[Host], Host]
Tell = Callable[[Host], Iterable[Event]]
P = ParamSpec("P")
Result = TypeVar("Result")


#: What a search may name.
HOST_FIELDS: Collection[str] = queries.SEARCHED


class HostRegistry:
    """Reads and changes hosts.

    Args:
        store: where they are kept.
        events: where their events go.
        trust: follows the keys of the hosts.
        clock: what time it is.

    Attributes:
        announcements: composes the events.
        trust: the same.
    """

    def __init__(
        self, store: Store, events: Events, trust: HostTrust, clock: IReactorTime
    ) -> None:
        self.announcements = Announcements(events)
        self._events = events
        self._store = store
        self.trust = trust
        self._clock = clock
        self._tasks = Tasks()
        self._changes: Publisher[Host] = Publisher()
        self._removals: Publisher[Host] = Publisher()

    async def load(self) -> None:
        """Trust the keys that the store has; tell the subscribers of each host.

        Raises:
            KeyFileError: a secret in the store cannot be opened.
        """
        for host in await self.list():
            self._follow(host)

    async def stop(self) -> None:
        """Wait for the changes that are under way."""
        await self._tasks.stop()

    def subscribe(
        self, changed: Callable[[Host], object], removed: Callable[[Host], object]
    ) -> Callable[[], None]:
        """Ask to be called with each host that has changed or gone; gives what ends it."""
        ends = (self._changes.subscribe(changed), self._removals.subscribe(removed))

        def unsubscribe() -> None:
            for end in ends:
                end()

        return unsubscribe

    async def get(self, host_id: uuid.UUID) -> Host:
        """Give a host.

        Raises:
            NotFound: there is no such host.
        """
        return _found(await self._store.read(queries.host_by_id, host_id), host_id)

    async def find(self, search: Search, limit: int) -> Pages[Host]:
        """Give the hosts that a search finds.

        Raises:
            InvalidSearch: a value does not fit its field.
        """
        ids = await self._store.read(queries.find_ids, search, limit)
        return Pages(ids, lambda some: self._store.read(queries.hosts_by_ids, some))

    async def count(self) -> tuple[int, int]:
        """Tell how many hosts are `up`, and how many there are."""
        return await self._store.read(queries.count_hosts)

    async def read(
        self, query: Callable[Concatenate[Connection, P], Result], *args: P.args, **named: P.kwargs
    ) -> Result:
        """Run a query about what belongs to hosts."""
        return await self._store.read(query, *args, **named)

    async def check_is_free(self, name: str, address: str) -> None:
        """Refuse a name or an address that a host has.

        Raises:
            Conflict: one of the two is taken.
        """
        await self._store.read(_check_is_free, None, name, address)

    async def count_pending(self) -> int:
        """Tell how many hosts wait for approval."""
        return await self._store.read(queries.count_pending)

    async def insert(self, host: Host, tell: Tell, *, also: Also | None = None) -> Host:
        """Add a host.

        Args:
            host: the new one.
            tell: gives the events about it.
            also: writes more in the same transaction.

        Raises:
            Conflict: its name or address is taken.
        """

        def run(connection: Connection) -> list[Event]:
            _check_is_free(connection, None, host.name, host.address)
            queries.insert_host(connection, host, utc_now(self._clock))
            if also:
                also(connection)
            return _write_events(connection, tell(host))

        async def commit() -> Host:
            events = await self._write(run)
            self._follow(host)
            self._publish(events)
            return host

        return await self._tasks.shield(commit())

    async def change(
        self,
        host_id: uuid.UUID,
        change: Change,
        tell: Tell | None = None,
        *,
        also: Also | None = None,
    ) -> Host:
        """Replace a host by what `change` makes of it, atomically.

        Args:
            host_id: which one.
            change: gets the host as it is; what it raises leaves all as it was.
            tell: gets the host as it has become, and gives the events that say so.
            also: writes more in the same transaction.

        Raises:
            NotFound: there is no such host.
            Conflict: its new name, address or key is another host's.
        """

        def run(connection: Connection) -> tuple[Host, Host, list[Event]]:
            old = _found(queries.host_by_id(connection, host_id, for_update=True), host_id)
            new = change(old)
            if (new.name, new.address) != (old.name, old.address):
                _check_is_free(connection, host_id, new.name, new.address)
            if new != old:
                queries.update_host(connection, new)
            if new.keys != old.keys:
                _check_keys(connection, new)
                queries.replace_keys(connection, host_id, new.keys)
            if also:
                also(connection)
            return old, new, _write_events(connection, tell(new) if tell else ())

        async def commit() -> Host:
            old, new, events = await self._write(run)
            if new != old:
                self._follow(new)
            self._publish(events)
            return new

        return await self._tasks.shield(commit())

    async def delete(self, host_id: uuid.UUID, tell: Tell) -> Host:
        """Remove a host and all trust in it.

        Raises:
            NotFound: there is no such host.
            Conflict: its status does not allow that.
        """

        def run(connection: Connection) -> tuple[Host, list[Event]]:
            host = _found(queries.host_by_id(connection, host_id, for_update=True), host_id)
            require(host, Trigger.REMOVE)
            queries.delete_host(connection, host_id)
            return host, _write_events(connection, tell(host))

        async def commit() -> Host:
            host, events = await self._write(run)
            self.trust.forget(host_id)
            self._removals.publish(host)
            self._publish(events)
            return host

        return await self._tasks.shield(commit())

    async def _write(self, run: Callable[[Connection], Result]) -> Result:
        try:
            return await self._store.write(run)
        except IntegrityError as error:
            # Another engine on the same database was quicker than the checks.
            raise Conflict("Another request has just taken that name, address or key.") from error

    def _publish(self, events: Iterable[Event]) -> None:
        for event in events:
            self._events.publish(event)

    def _follow(self, host: Host) -> None:
        self.trust.follow(host)
        self._changes.publish(host)

    async def list(self) -> list[Host]:
        """Give every host, by name."""
        return await self._store.read(queries.all_hosts)


def _write_events(connection: Connection, drafts: Iterable[Event]) -> list[Event]:
    return [event_queries.insert_event(connection, draft) for draft in drafts]


def _found(host: Host | None, host_id: uuid.UUID) -> Host:
    if host is None:
        raise NotFound(f"There is no host with the id {host_id}.")
    return host


def _check_is_free(
    connection: Connection, host_id: uuid.UUID | None, name: str, address: str
) -> None:
    if queries.host_id_of(connection, name=name) not in (None, host_id):
        raise Conflict(
            f"The Host name '{name}' is already in use: choose a unique name and try again."
        )
    if queries.host_id_of(connection, address=address) not in (None, host_id):
        raise Conflict(f"Host with the same address already exists: {address}.")


def _check_keys(connection: Connection, host: Host) -> None:
    for key in host.keys:
        other = queries.host_of_key(connection, key.key)
        if other is None or other[0] == host.id:
            continue
        raise Conflict(is_copied(host, other[1]))
