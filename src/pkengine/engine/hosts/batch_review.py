"""The review of a list of hosts: each is asked for its SSH keys, and these are judged."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection
from twisted.internet.interfaces import IReactorTime

from pkengine.engine.hosts.host_key_review import judge
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import (
    DEFAULT_SSH_PORT,
    BatchRow,
    BatchStage,
    Host,
    HostStatus,
    NewHost,
    Origin,
    RowJudgement,
    RowOutcome,
    StepStatus,
)
from pkengine.engine.pool import in_pool
from pkengine.engine.store import Store
from pkengine.engine.store import host_batches as queries
from pkengine.errors import PkengineError
from pkengine.keys import SshFingerprint, SshPublicKey

#: How many hosts are looked at at the same time.
_LOOKS_AT_ONCE = 16
#: Judgements are written together: so many, or those of so long.
_MOST_UNWRITTEN = 200
_LONGEST_UNWRITTEN_S = 1.0
_STEP = ("review", "Look at the SSH keys of the hosts")


class BatchReview:
    """Reviews lists; no credential is sent.

    Args:
        hosts: those that there are.
        store: the lists on disk.
        clock: what time it is.
    """

    def __init__(self, hosts: Hosts, store: Store, clock: IReactorTime) -> None:
        self._hosts = hosts
        self._store = store
        self._clock = clock

    async def run(self, batch_id: uuid.UUID, job: RunningJob, origin: Origin) -> StepStatus:
        """Look at every host of a list that was not added, a few at a time, under a job."""
        rows = await self._store.read(queries.rows_of, batch_id)
        todo = [row for row in rows if row.outcome is not RowOutcome.ADDED]
        known = _Known(await self._hosts.list())
        owners: dict[SshPublicKey, str] = {}
        looked_at = 0
        unwritten: list[BatchRow] = []
        written_at = self._clock.seconds()
        job.step(*_STEP, StepStatus.STARTED, 0)

        async def look(row: BatchRow) -> None:
            nonlocal looked_at, written_at
            unwritten.append(_apart(await self._look(row, known, origin), owners))
            looked_at += 1
            job.step(*_STEP, StepStatus.STARTED, 100 * looked_at // len(todo))
            now = self._clock.seconds()
            if len(unwritten) >= _MOST_UNWRITTEN or now - written_at >= _LONGEST_UNWRITTEN_S:
                written_at = now
                await self._write(batch_id, unwritten)

        await in_pool(_LOOKS_AT_ONCE, look, todo)
        await self._write(batch_id, unwritten)
        await self._store.write(queries.set_stage, batch_id, BatchStage.REVIEWED)
        return StepStatus.FINISHED

    async def _write(self, batch_id: uuid.UUID, unwritten: list[BatchRow]) -> None:
        """Write rows together, for each transaction waits for the disk; take them off the list."""
        rows = list(unwritten)
        unwritten.clear()

        def write(connection: Connection) -> None:
            for row in rows:
                queries.update_row(connection, batch_id, row)

        await self._store.write(write)

    async def _look(self, row: BatchRow, known: _Known, origin: Origin) -> BatchRow:
        row = replace(row, outcome=RowOutcome.WAITING, found=(), expected=None, host_id=None)
        host, conflict = known.host_of(row.wanted)
        if conflict:
            return replace(row, judgement=RowJudgement.CONFLICT, detail=conflict)
        if host is not None and host.status is not HostStatus.INSTALL_FAILED:
            return replace(
                row,
                judgement=RowJudgement.THERE,
                detail=f"Its status is {host.status.value}.",
                host_id=host.id,
            )
        ssh = row.wanted.ssh
        expected: SshPublicKey | SshFingerprint | None = ssh.public_key or ssh.fingerprint
        port = ssh.port
        if host is not None:
            row = replace(row, host_id=host.id)
            expected = expected or host.ssh.public_key or host.ssh.fingerprint
            port = port or host.ssh.port
        try:
            shown = await self._hosts.ssh_host_keys(
                row.wanted.address, port or DEFAULT_SSH_PORT, ssh.jumps or (), origin
            )
        except PkengineError as error:
            return replace(
                row,
                judgement=RowJudgement.UNREACHABLE,
                expected=_fingerprint(expected),
                detail=str(error),
            )
        verdict = judge(expected, shown)
        return replace(
            row,
            judgement=verdict.judgement,
            expected=_fingerprint(verdict.expected),
            found=verdict.found,
            detail=verdict.detail,
        )


class _Known:
    """The hosts that the engine has."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._by_name = {host.name: host for host in hosts}
        self._by_address = {host.address: host for host in hosts}

    def host_of(self, wanted: NewHost) -> tuple[Host | None, str]:
        """Give the host that a row is about, if there is one; and why it cannot be added."""
        here = self._by_address.get(wanted.address)
        namesake = self._by_name.get(wanted.name)
        for other, what in ((here, "name"), (namesake, "address")):
            if other is not None and (other.name, other.address) != (wanted.name, wanted.address):
                return None, (
                    f"There is a host {other.name} at {other.address} already: give it the {what} "
                    "of the list, or remove it."
                )
        return here, ""


def _apart(row: BatchRow, owners: dict[SshPublicKey, str]) -> BatchRow:
    """Refuse a row whose host shows the key of another one: both are one machine, or copies."""
    for key in row.found:
        owner = owners.setdefault(key, row.wanted.name)
        if owner != row.wanted.name and row.judgement in (
            RowJudgement.MATCH,
            RowJudgement.FIRST_USE,
        ):
            return replace(
                row,
                judgement=RowJudgement.CONFLICT,
                detail=f"It shows the SSH host key of {owner}, so both are one machine, or one is "
                "a copy of the other: leave one out, or give the copy keys of its own.",
            )
    return row


def _fingerprint(expected: SshFingerprint | SshPublicKey | None) -> SshFingerprint | None:
    return expected.fingerprint() if isinstance(expected, SshPublicKey) else expected
