"""SSH keys that are known beside those that are stored with the hosts.

They are lines of OpenSSH's ``known_hosts``, each with where it came from: imported keys of
hosts that are to be added, authorities that sign the certificates of hosts, keys that are
revoked, and the keys of the machines on the way to hosts.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from twisted.internet.interfaces import IReactorTime

from pkengine.engine.clock import utc_now
from pkengine.engine.events import EventCode, Events
from pkengine.engine.model import (
    Event,
    Host,
    HostKeySource,
    HostStatus,
    JumpHost,
    KnownKey,
    Origin,
    Severity,
)
from pkengine.engine.store import Store
from pkengine.engine.store import events as event_queries
from pkengine.engine.store import hosts as host_queries
from pkengine.engine.store import known_keys as queries
from pkengine.errors import BadRequest, NotFound
from pkengine.keys import SshPublicKey
from pkengine.ssh import HostKeyJudgement, KnownHosts
from pkengine.ssh.known_hosts import KnownHost, host_name, known_host

#: How a machine on the way may have been judged so that its key is to be kept.
_KEPT = (
    HostKeySource.FIRST_USE,
    HostKeySource.GIVEN_FINGERPRINT,
    HostKeySource.GIVEN_KEY,
)
#: Events name each key up to so many, and count them beyond.
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenKey:
    """What has become of a line that was given.

    Attributes:
        is_new: it was not known before.
        hosts: the names of the hosts that the engine has and that it is for.
    """

    known: KnownKey
    is_new: bool
    hosts: tuple[str, ...] = ()


class KnownKeys:
    """Reads and changes them.

    Args:
        store: where they are kept.
        events: where it is told.
        clock: what time it is.
    """

    def __init__(self, store: Store, events: Events, clock: IReactorTime) -> None:
        self._store = store
        self._events = events
        self._clock = clock

    async def get(self, key_id: uuid.UUID) -> KnownKey:
        """Give one.

        Raises:
            NotFound: there is none with this id.
        """
        known = await self._store.read(queries.known_key_by_id, key_id)
        if known is None:
            raise NotFound(f"There is no known SSH key with the id {key_id}.")
        return known

    async def about(self, address: str) -> KnownHosts:
        """Give the lines that may be for an address."""
        found = await self._store.read(queries.known_keys_about, address)
        return KnownHosts(known.line for known in found)

    async def add(self, lines: Sequence[KnownHost], origin: Origin) -> list[TakenKey]:
        """Believe lines that an administrator gives; those that are known stay as they are.

        Raises:
            BadRequest: there is none.
        """
        if not lines:
            raise BadRequest("There is no line with a key: expected one as known_hosts has them.")
        now = utc_now(self._clock)

        def write(connection: Connection) -> tuple[list[TakenKey], list[Event]]:
            there = {_identity(known.line): known for known in queries.all_known_keys(connection)}
            hosts = host_queries.all_hosts(connection)
            taken = []
            for line in lines:
                known = there.get(_identity(line))
                is_new = known is None
                if known is None:
                    known = there[_identity(line)] = KnownKey(
                        id=uuid.uuid4(),
                        line=line,
                        source=HostKeySource.KNOWN_HOSTS,
                        user=origin.user,
                        added=now,
                    )
                names = tuple(h.name for h in hosts if line.is_for(h.address, h.ssh.port))
                taken.append(TakenKey(known=known, is_new=is_new, hosts=names))
            new = [each.known for each in taken if each.is_new]
            queries.insert_known_keys(connection, new)
            drafts = [self._added(new, origin)] if new else []
            return taken, [event_queries.insert_event(connection, each) for each in drafts]

        taken, events = await self._store.write(write)
        self._publish(events)
        return taken

    async def remove(self, key_id: uuid.UUID, origin: Origin) -> None:
        """Forget a line.

        Raises:
            NotFound: there is none with this id.
        """
        known = await self.get(key_id)
        text = f"Known SSH key was removed{_by(origin)}: {_described(known.line)}."
        # Whoever takes a revocation back lets the key in again.
        severity = Severity.WARNING if known.line.marker == "@revoked" else Severity.NORMAL

        def write(connection: Connection) -> list[Event]:
            queries.delete_known_key(connection, key_id)
            draft = self._events.draft(EventCode.KNOWN_KEY_REMOVED, severity, text, origin=origin)
            return [event_queries.insert_event(connection, draft)]

        self._publish(await self._store.write(write))

    async def learn_jump(
        self, jump: JumpHost, judgement: HostKeyJudgement, origin: Origin
    ) -> None:
        """Keep the key of a machine on the way, where nothing else vouches for it.

        A key that was given takes the place of others of its type that were known for this
        machine alone.
        """
        if judgement.source not in {source.value for source in _KEPT}:
            return
        source = HostKeySource(judgement.source)
        line = known_host(jump.address, jump.port, judgement.key)
        now = utc_now(self._clock)

        def write(connection: Connection) -> list[Event]:
            about = queries.known_keys_about(connection, jump.address)
            mine = [
                known
                for known in about
                if not known.line.marker and known.line.is_for(jump.address, jump.port)
            ]
            if any(known.line.key == line.key for known in mine):
                return []
            displaced = [
                known
                for known in mine
                if len(known.line.names) == 1 and known.line.key.key_type == line.key.key_type
            ]
            for known in displaced:
                queries.delete_known_key(connection, known.id)
            new = KnownKey(id=uuid.uuid4(), line=line, source=source, user=origin.user, added=now)
            queries.insert_known_keys(connection, [new])
            draft = self._jump_learnt(jump, new, displaced, origin)
            return [event_queries.insert_event(connection, draft)]

        self._publish(await self._store.write(write))

    async def export(self) -> KnownHosts:
        """Give the keys of all hosts that are trusted, and all that is known beside them."""

        def read(connection: Connection) -> KnownHosts:
            lines = [
                known_host(host.address, host.ssh.port, key, comment=host.name)
                for host in host_queries.all_hosts(connection)
                for key in _trusted(host)
            ]
            there = {(line.names, line.key) for line in lines}
            lines += [
                known.line
                for known in queries.all_known_keys(connection)
                if known.line.marker or (known.line.names, known.line.key) not in there
            ]
            return KnownHosts(lines)

        return await self._store.read(read)

    def _added(self, new: Sequence[KnownKey], origin: Origin) -> Event:
        named = "; ".join(_described(known.line) for known in new[:_MOST_NAMED])
        more = len(new) - _MOST_NAMED
        rest = f"; and {more} more" if more > 0 else ""
        text = f"Known SSH keys were added{_by(origin)}: {named}{rest}."
        return self._events.draft(EventCode.KNOWN_KEYS_ADDED, Severity.NORMAL, text, origin=origin)

    def _jump_learnt(
        self, jump: JumpHost, new: KnownKey, displaced: Sequence[KnownKey], origin: Origin
    ) -> Event:
        key = new.line.key
        how = {
            HostKeySource.FIRST_USE: "trusted on first use: compare it with its console's",
            HostKeySource.GIVEN_FINGERPRINT: "as the given fingerprint says",
        }.get(new.source, "the one that was given")
        instead = "".join(f" It takes the place of {_key(known.line.key)}." for known in displaced)
        text = (
            f"The SSH host key of the jump host {host_name(jump.address, jump.port)} was "
            f"recorded{_by(origin)}: {_key(key)}, {how}.{instead}"
        )
        is_doubtful = displaced or new.source is HostKeySource.FIRST_USE
        severity = Severity.WARNING if is_doubtful else Severity.NORMAL
        return self._events.draft(EventCode.JUMP_KEY_LEARNT, severity, text, origin=origin)

    def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events.publish(event)

    async def list(self) -> list[KnownKey]:
        """Give all, in the order in which they came."""
        return await self._store.read(queries.all_known_keys)


def _identity(line: KnownHost) -> tuple[str, tuple[str, ...], SshPublicKey]:
    return line.marker, line.names, line.key


def _trusted(host: Host) -> tuple[SshPublicKey, ...]:
    if host.ssh.public_key is None or host.status is HostStatus.PENDING_APPROVAL:
        return ()
    return (host.ssh.public_key, *host.ssh.proved_keys)


def _described(line: KnownHost) -> str:
    kinds = {"@cert-authority": "authority ", "@revoked": "revoked "}
    return f"{kinds.get(line.marker, '')}{_key(line.key)} for {','.join(line.names)[:200]}"


def _key(key: SshPublicKey) -> str:
    return f"{key.key_type} {key.fingerprint()}"


def _by(origin: Origin) -> str:
    return f" by {origin.user}" if origin.user else ""
