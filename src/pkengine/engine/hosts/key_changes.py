"""A host shows another SSH key than the stored one: what is kept, and who decides.

Theory of operation.  An operation that meets such a key ends before any credential is sent.
What was found is kept as the one *pending key change* of the host until one of these:

* an administrator **approves** it by the fingerprint of one of the keys that were found, and
  that key takes the place of the stored one;
* an administrator **rejects** it, and the stored key stays;
* the host shows the stored key again, or an administrator gives another key with a request:
  the change is **settled** by that.

Each of these, and each time that such keys are met, is an event.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection

from pkengine.engine.clock import utc_now
from pkengine.engine.events import EventCode
from pkengine.engine.hosts import request
from pkengine.engine.hosts.announcements import Announcements
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.model import (
    Event,
    Host,
    HostKeySource,
    HostSsh,
    HostStatus,
    KeyChange,
    Origin,
    SshLogin,
)
from pkengine.engine.store import key_changes as queries
from pkengine.errors import Conflict, HostKeyMismatch, HostKeyRefused, NotFound, SshError
from pkengine.keys import SshFingerprint, SshPublicKey
from pkengine.ssh import HostKeyJudgement


class KeyChanges:
    """The pending key changes of all hosts.

    Args:
        context: what operations on hosts share.
    """

    def __init__(self, context: OperationContext) -> None:
        self._registry = context.registry
        self._tell = context.announcements
        self._ways = context.ways
        self._turns = context.turns
        self._clock = context.clock

    async def list(self) -> list[KeyChange]:
        """Give every pending change, by the name of the host."""
        return await self._registry.read(queries.all_key_changes)

    async def get(self, host_id: uuid.UUID) -> KeyChange:
        """Give the pending change of a host.

        Raises:
            NotFound: there is no such host, or nothing is pending.
        """
        change = await self._registry.read(queries.key_change_of, host_id)
        if change is None:
            host = await self._registry.get(host_id)
            raise NotFound(f"No SSH key change of Host {host.name} is pending.")
        return change

    @contextlib.asynccontextmanager
    async def noting(
        self, host: Host, login: SshLogin, operation: str, origin: Origin
    ) -> AsyncIterator[None]:
        """Keep what a login meets in place of the stored key of a host.

        Args:
            host: as it is stored.
            login: what the request says about the way.
            operation: what the login is for, such as ``install``.
            origin: who asked for it.

        Raises:
            HostKeyRefused: as it was raised within; where a change is pending now, it says so.
        """
        try:
            yield
        except HostKeyRefused as refusal:
            if refusal.jump:
                reason = str(refusal)
                await self._registry.change(
                    host.id,
                    lambda host: host,
                    lambda host: [self._tell.way_refused(host, reason, origin)],
                )
                raise
            # What a host that registered itself says about its key was never believed.
            is_trusted = host.status is not HostStatus.PENDING_APPROVAL
            if is_trusted and await self._note(host, login, refusal, operation, origin):
                raise type(refusal)(
                    f"{refusal} What was found is kept as a pending key change, to be approved "
                    "or rejected."
                ) from refusal
            raise

    async def _note(
        self,
        host: Host,
        login: SshLogin,
        refusal: HostKeyRefused,
        operation: str,
        origin: Origin,
    ) -> bool:
        """Fetch all keys of the host, and keep them; tell whether a change is pending now.

        Nothing is pending where the host showed the stored key, and it was a key given with
        the request that it lacked; nor where no key of it was found.
        """
        old = host.ssh
        shown = _shown(refusal)
        if old.fingerprint is None or any(_is_stored(old, key) for key in shown):
            return False
        jumps = request.way(old, login)
        try:
            fetched = await self._ways.host_keys(host.address, old.port, jumps, origin)
        except SshError:
            fetched = []
        revoked = await self._ways.revoked(host)
        found = dict.fromkeys(
            key for key in (*shown, *fetched) if not _is_known(old, key) and key not in revoked
        )
        if not found:
            await self._registry.change(
                host.id,
                lambda host: host,
                lambda host: [self._tell.key_missing(host, str(refusal), origin)],
            )
            return False
        now = utc_now(self._clock)
        change = KeyChange(
            host_id=host.id,
            host_name=host.name,
            seen_at=f"{host.address} port {old.port}"
            + "".join(f" through {jump.host}" for jump in jumps[-1:]),
            old_fingerprint=old.fingerprint,
            old_key=old.public_key,
            new_keys=tuple(sorted(found, key=lambda key: (key.key_type, key.blob))),
            operation=operation,
            user=origin.user,
            first_seen=now,
            last_seen=now,
        )

        def write(connection: Connection) -> None:
            before = queries.key_change_of(connection, host.id)
            queries.replace_key_change(connection, _continued(before, change))

        await self._registry.change(
            host.id,
            lambda host: host,
            lambda host: [self._tell.key_change_found(host, change, origin)],
            also=write,
        )
        return True

    async def settle(self, host: Host, judgement: HostKeyJudgement, origin: Origin) -> Host:
        """Store the key that was just accepted, and close what is pending about the host."""
        ssh = request.judged(host.ssh, judgement)
        is_pending = await self._registry.read(queries.key_change_of, host.id) is not None
        if ssh == host.ssh and not is_pending:
            return host
        settlement = Settlement(self._tell, origin)
        return await self._registry.change(
            host.id,
            lambda now: replace(now, ssh=ssh) if now.ssh == host.ssh else now,
            lambda now: settlement.events(host.ssh, now),
            also=lambda connection: settlement.end(connection, host.id),
        )

    async def approve(
        self, host_id: uuid.UUID, fingerprint: SshFingerprint, origin: Origin
    ) -> Host:
        """Store the key of that fingerprint in place of the one that is stored.

        Args:
            host_id: whose change it is.
            fingerprint: of one of the keys that were found.
            origin: who decides.

        Raises:
            NotFound: there is no such host, or nothing is pending.
            Conflict: none of the keys has that fingerprint, or the host is being worked on.
        """
        host = await self._registry.get(host_id)
        async with self._deciding(host, origin):
            change = await self.get(host_id)
            key = next((key for key in change.new_keys if fingerprint.matches(key)), None)
            if key is None:
                found = ", ".join(f"{key.key_type} {key.fingerprint()}" for key in change.new_keys)
                raise Conflict(
                    f"None of the SSH keys found at Host {host.name} has the fingerprint "
                    f"{fingerprint}: found {found}. Nothing was approved."
                )
            approved: SshPublicKey = key
            if approved in await self._ways.revoked(host):
                raise Conflict(
                    f"The SSH key {approved.key_type} {approved.fingerprint()} found at Host "
                    f"{host.name} is revoked: it cannot be approved."
                )

            def store(host: Host) -> Host:
                ssh = replace(
                    host.ssh,
                    public_key=approved,
                    fingerprint=approved.fingerprint(),
                    key_source=HostKeySource.APPROVED,
                    proved_keys=(),
                )
                return replace(host, ssh=ssh)

            return await self._registry.change(
                host_id,
                store,
                lambda host: [self._tell.key_change_approved(host, change, approved, origin)],
                also=lambda connection: _take(connection, change),
            )

    async def reject(self, host_id: uuid.UUID, origin: Origin) -> None:
        """Keep the stored key, and forget what was found.

        Raises:
            NotFound: there is no such host, or nothing is pending.
            Conflict: the host is being worked on.
        """
        host = await self._registry.get(host_id)
        async with self._deciding(host, origin):
            change = await self.get(host_id)
            await self._registry.change(
                host_id,
                lambda host: host,
                lambda host: [self._tell.key_change_rejected(host, change, origin)],
                also=lambda connection: _take(connection, change),
            )

    @contextlib.asynccontextmanager
    async def _deciding(self, host: Host, origin: Origin) -> AsyncIterator[None]:
        """Have a host alone, and tell of a decision that is refused."""
        verb = "change the SSH key of"
        async with self._tell.refusal(EventCode.DECISION_REFUSED, verb, host, origin):
            with self._turns.taking(verb, host.name, host.id):
                yield


class Settlement:
    """Ends a pending change in the transaction that confirms or replaces the stored key.

    Args:
        announcements: composes the events.
        origin: who asked for what settles it.
    """

    def __init__(self, announcements: Announcements, origin: Origin) -> None:
        self._tell = announcements
        self._origin = origin
        self._was_pending = False

    def end(self, connection: Connection, host_id: uuid.UUID) -> None:
        """Forget the pending change of a host, if there is one."""
        self._was_pending = queries.delete_key_change(connection, host_id)

    def events(self, old: HostSsh, host: Host) -> list[Event]:
        """Tell of a key that was replaced, or of a change that has ended by itself."""
        if is_other_key(old, host.ssh):
            is_vouched_for = host.ssh.key_source in (
                HostKeySource.PROVED,
                HostKeySource.CERTIFICATE,
            )
            tell = self._tell.key_rotated if is_vouched_for else self._tell.key_replaced
            return [tell(host, old, self._origin)]
        if self._was_pending:
            return [self._tell.key_change_settled(host, self._origin)]
        return []


def is_other_key(old: HostSsh, new: HostSsh) -> bool:
    """Tell whether another key than before is to be accepted; not where none was known."""
    if old.fingerprint is None:
        return False
    if new.public_key is not None:
        return not _is_stored(old, new.public_key)
    return old.public_key is not None or new.fingerprint != old.fingerprint


class _Seen(NamedTuple):
    """What tells one pending change from another."""

    seen_at: str
    old_fingerprint: SshFingerprint
    new_keys: tuple[SshPublicKey, ...]

    @classmethod
    def of(cls, change: KeyChange) -> _Seen:
        return cls(change.seen_at, change.old_fingerprint, change.new_keys)


def _continued(before: KeyChange | None, change: KeyChange) -> KeyChange:
    """Count on where the same was seen before."""
    if before is None or _Seen.of(before) != _Seen.of(change):
        return change
    return replace(change, first_seen=before.first_seen, times_seen=before.times_seen + 1)


def _take(connection: Connection, change: KeyChange) -> None:
    """Remove the change that was decided on; what has taken its place was not."""
    found = queries.key_change_of(connection, change.host_id)
    if found is None or _Seen.of(found) != _Seen.of(change):
        raise Conflict(
            f"The pending SSH key change of Host {change.host_name} has just become another: "
            "look at it again."
        )
    queries.delete_key_change(connection, change.host_id)


def _is_stored(ssh: HostSsh, key: SshPublicKey) -> bool:
    if ssh.public_key is not None:
        return key == ssh.public_key
    return ssh.fingerprint is not None and ssh.fingerprint.matches(key)


def _is_known(ssh: HostSsh, key: SshPublicKey) -> bool:
    return _is_stored(ssh, key) or key in ssh.proved_keys


def _shown(refusal: HostKeyRefused) -> tuple[SshPublicKey, ...]:
    if not isinstance(refusal, HostKeyMismatch):
        return ()
    return tuple(map(SshPublicKey.parse, refusal.found))
