"""Many hosts at once: review the SSH keys of all, then add those that were confirmed.

Theory of operation.  A list of hosts goes through the stages of `BatchStage`.  Its review does no
more with the hosts than to exchange keys; it is taken up when the engine starts again.  Adding
goes on a few hosts at a time, each as if it were added alone.  It needs a password, or the
engine's own key: as no password is stored, an engine that starts again cannot go on by itself, so
the list is `interrupted`, and whoever starts it anew gives the password again.  What is there is
not done twice.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.engine.clock import utc_now
from pkengine.engine.clusters import Clusters
from pkengine.engine.hosts import request
from pkengine.engine.hosts.agent_ways import check_way
from pkengine.engine.hosts.host_key_review import judge
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import Jobs, RunningJob
from pkengine.engine.model import (
    DEFAULT_SSH_PORT,
    BatchRow,
    BatchStage,
    Host,
    HostBatch,
    HostStatus,
    Job,
    NewHost,
    Origin,
    RowJudgement,
    RowOutcome,
    SshLogin,
    StepStatus,
)
from pkengine.engine.pool import in_pool
from pkengine.engine.store import Store
from pkengine.engine.store import host_batches as queries
from pkengine.engine.tasks import Tasks
from pkengine.errors import BadRequest, Conflict, NotFound, PkengineError
from pkengine.keys import SshFingerprint, SshPublicKey

#: A list has at most so many hosts.
MOST_ROWS = 10_000
#: How many hosts are looked at at the same time.
_LOOKS_AT_ONCE = 16
_MOST_MISTAKES_TOLD = 20
#: How long an installation is waited for before the next host's turn comes.
_LONGEST_INSTALLATION_S = 1800.0
#: Judgements are written together: so many, or those of so long.
_MOST_UNWRITTEN = 200
_LONGEST_UNWRITTEN_S = 1.0
_REVIEW_STEP = ("review", "Look at the SSH keys of the hosts")
_INTERRUPTED = "It was interrupted because the engine stopped; start the list again."


_Work: TypeAlias = Coroutine[Deferred[Any], Any, StepStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStart:
    """What a request to add the hosts of a list says.

    Attributes:
        login: for all of them; what a row says of itself comes before it.
        names: those that are to be added; None means all whose key is the expected one.
        trust_on_first_use: add also those of which no key was given or known.
        parallel: how many at the same time.
    """

    login: SshLogin
    names: Collection[str] | None = None
    trust_on_first_use: bool = False
    activate: bool = True
    parallel: int = 8


class HostBatches:
    """Keeps lists of hosts, and adds what is in them.

    Args:
        hosts, clusters: where they go.
        store, jobs: what is on disk.
        clock: what time it is.
    """

    _log = Logger()

    def __init__(
        self, *, hosts: Hosts, clusters: Clusters, store: Store, jobs: Jobs, clock: IReactorTime
    ) -> None:
        self._hosts = hosts
        self._clusters = clusters
        self._store = store
        self._jobs = jobs
        self._clock = clock
        self._tasks = Tasks()
        self._busy: set[uuid.UUID] = set()

    # Start and stop.

    async def start(self) -> None:
        """Take up what the engine left when it stopped."""
        stages = (BatchStage.REVIEWING, BatchStage.ADDING)
        for batch in await self._store.read(queries.batches, stages=stages):
            if batch.stage is BatchStage.REVIEWING:
                self._busy.add(batch.id)
                await self._begin_review(batch, Origin())
            else:
                await self._interrupted(batch)

    async def stop(self) -> None:
        """End what is under way."""
        await self._tasks.stop()

    async def _interrupted(self, batch: HostBatch) -> None:
        for row in await self._store.read(queries.rows_of, batch.id):
            if row.outcome is RowOutcome.ADDING:
                failed = replace(row, outcome=RowOutcome.FAILED, detail=_INTERRUPTED)
                await self._store.write(queries.update_row, batch.id, failed)
        await self._store.write(queries.set_stage, batch.id, BatchStage.INTERRUPTED)

    # Reading.

    async def get(self, batch_id: uuid.UUID) -> HostBatch:
        """Give a list without its rows.

        Raises:
            NotFound: there is no such list.
        """
        found = await self._store.read(queries.batches, batch_id=batch_id)
        if not found:
            raise NotFound(f"There is no list of hosts with the id {batch_id}.")
        return found[0]

    async def rows(self, batch_id: uuid.UUID) -> Sequence[BatchRow]:
        """Give the rows of a list, in their order.

        Raises:
            NotFound: there is no such list.
        """
        await self.get(batch_id)
        return await self._store.read(queries.rows_of, batch_id)

    # Changing.

    async def add(self, wanted: Sequence[NewHost], origin: Origin) -> HostBatch:
        """Take a list of hosts, and begin to look at their SSH keys.

        Raises:
            BadRequest: something in it is wrong; all that is wrong is told at once.
        """
        cluster = await self._clusters.default()
        rows = checked_rows(wanted, lambda new: self._hosts.admission.new_host(new, cluster.id))
        job = self._jobs.prepare(_reviewing(len(rows)), origin=origin)
        batch = HostBatch(
            id=uuid.uuid4(),
            stage=BatchStage.REVIEWING,
            created=utc_now(self._clock),
            user=origin.user,
            job_id=job.job.id,
        )
        self._busy.add(batch.id)
        await self._tasks.shield(self._insert(batch, rows, job, origin))
        return await self.get(batch.id)

    async def review(self, batch_id: uuid.UUID, origin: Origin) -> Job:
        """Look again at the hosts that were not added.

        Raises:
            NotFound: there is no such list.
            Conflict: something is at work on it.
        """
        batch = await self._claim(batch_id)
        return await self._tasks.shield(self._begin_review(batch, origin))

    async def begin(self, batch_id: uuid.UUID, start: BatchStart, origin: Origin) -> Job:
        """Begin to add the hosts that are confirmed by this.

        Raises:
            NotFound: there is no such list.
            Conflict: something is at work on it, or there is nothing to add.
            BadRequest: a name is not in the list, or its key is not one to be confirmed.
        """
        request.uses_key(start.login)  # refuses a password that is asked for and missing
        batch = await self._claim(batch_id)
        try:
            rows = chosen(await self.rows(batch_id), start)
            if not rows:
                raise Conflict(
                    "There is no host in the list that could be added: their keys are not the "
                    "expected ones, none was given for them, or they are there already. See the "
                    "judgement of each, and review the list again when that is mended."
                )
        except BaseException:
            self._busy.discard(batch.id)
            raise
        job = self._jobs.prepare(f"Adding {len(rows)} hosts", origin=origin)
        work = self._add_all(batch.id, rows, start, job, origin)
        return await self._tasks.shield(self._begin(batch.id, BatchStage.ADDING, job, work))

    async def remove(self, batch_id: uuid.UUID) -> None:
        """Forget a list; the hosts that were added stay.

        Raises:
            NotFound: there is no such list.
            Conflict: something is at work on it.
        """
        batch = await self._claim(batch_id)
        try:
            await self._tasks.shield(self._store.write(queries.delete_batch, batch.id))
        finally:
            self._busy.discard(batch.id)

    async def _claim(self, batch_id: uuid.UUID) -> HostBatch:
        """Have a list alone, until it is taken from the busy ones."""
        batch = await self.get(batch_id)
        if batch_id in self._busy:
            raise Conflict("The engine is at work on this list of hosts: see its job.")
        self._busy.add(batch_id)
        return batch

    async def _insert(
        self, batch: HostBatch, rows: Sequence[BatchRow], job: RunningJob, origin: Origin
    ) -> None:
        try:
            await self._store.write(queries.insert_batch, batch, rows)
        except BaseException:
            self._busy.discard(batch.id)
            raise
        work = self._review(batch.id, job, origin)
        await self._begin(batch.id, BatchStage.REVIEWING, job, work)

    async def _begin(
        self, batch_id: uuid.UUID, stage: BatchStage, job: RunningJob, work: _Work
    ) -> Job:
        """Begin work on a list that was claimed."""

        def begin(connection: Connection) -> None:
            job.begin(connection)
            queries.set_stage(connection, batch_id, stage, job.job.id)

        try:
            await self._store.write(begin)
        except BaseException:
            work.close()
            self._busy.discard(batch_id)
            raise
        self._tasks.spawn(job.job.description, self._run(batch_id, job, work))
        return job.job

    async def _run(self, batch_id: uuid.UUID, job: RunningJob, work: _Work) -> None:
        try:
            status = await work
        except CancelledError:
            status = StepStatus.ABORTED
        except Exception:
            self._log.failure("A list of hosts failed: {job}", job=job.job.description)
            status = StepStatus.FAILED
        self._busy.discard(batch_id)
        await job.finish(status)

    # The review.

    async def _begin_review(self, batch: HostBatch, origin: Origin) -> Job:
        job = self._jobs.prepare(_reviewing(batch.size), origin=origin)
        work = self._review(batch.id, job, origin)
        return await self._begin(batch.id, BatchStage.REVIEWING, job, work)

    async def _review(self, batch_id: uuid.UUID, job: RunningJob, origin: Origin) -> StepStatus:
        rows = await self._store.read(queries.rows_of, batch_id)
        todo = [row for row in rows if row.outcome is not RowOutcome.ADDED]
        known = _Known(await self._hosts.list())
        owners: dict[SshPublicKey, str] = {}
        looked_at = 0
        unwritten: list[BatchRow] = []
        written_at = self._clock.seconds()
        job.step(*_REVIEW_STEP, StepStatus.STARTED, 0)

        async def look(row: BatchRow) -> None:
            nonlocal looked_at, written_at
            unwritten.append(_apart(await self._look(row, known, origin), owners))
            looked_at += 1
            job.step(*_REVIEW_STEP, StepStatus.STARTED, 100 * looked_at // len(todo))
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

    # Adding.

    async def _add_all(
        self,
        batch_id: uuid.UUID,
        rows: Sequence[BatchRow],
        start: BatchStart,
        job: RunningJob,
        origin: Origin,
    ) -> StepStatus:
        failures = 0

        async def add(row: BatchRow) -> None:
            nonlocal failures
            step = (str(row.number), f"Host {row.wanted.name}")
            job.step(*step, StepStatus.STARTED)
            added = await self._add_one(batch_id, row, start, origin)
            is_failed = added.outcome is RowOutcome.FAILED
            failures += is_failed
            await self._store.write(queries.update_row, batch_id, added)
            job.step(*step, StepStatus.FAILED if is_failed else StepStatus.FINISHED)

        await in_pool(start.parallel, add, rows)
        await self._store.write(queries.set_stage, batch_id, BatchStage.ENDED)
        return StepStatus.FAILED if failures else StepStatus.FINISHED

    async def _add_one(
        self, batch_id: uuid.UUID, row: BatchRow, start: BatchStart, origin: Origin
    ) -> BatchRow:
        row = replace(row, outcome=RowOutcome.ADDING, detail="")
        await self._store.write(queries.update_row, batch_id, row)
        try:
            host_id, job = await self._begin_one(row, start, origin)
            row = replace(row, host_id=host_id)
            await self._store.write(queries.update_row, batch_id, row)
            job = await self._jobs.ended(job.id, _LONGEST_INSTALLATION_S)
            if job.status is StepStatus.FINISHED:
                return replace(row, outcome=RowOutcome.ADDED)
            host = await self._hosts.get(host_id)
            detail = host.status_detail or f"Its status is {host.status.value}."
        except PkengineError as error:
            detail = str(error)
        except CancelledError:
            raise
        except Exception as error:
            self._log.failure("Adding {host} failed", host=row.wanted.name)
            detail = f"The engine failed: {type(error).__name__}; see its log."
        return replace(row, outcome=RowOutcome.FAILED, detail=detail)

    async def _begin_one(
        self, row: BatchRow, start: BatchStart, origin: Origin
    ) -> tuple[uuid.UUID, Job]:
        login = _login(row, start.login)
        if row.host_id is not None:
            job = await self._hosts.admission.install(
                row.host_id, login, origin, way=row.wanted.way, activate=start.activate
            )
            return row.host_id, job
        new = replace(row.wanted, ssh=login, activate=start.activate)
        host, job = await self._hosts.admission.add(new, origin)
        return host.id, job

    # Last, for in here its name hides the type's.

    async def list(self) -> list[HostBatch]:
        """Give the lists, the newest first."""
        return await self._store.read(queries.batches)


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


def checked_rows(
    wanted: Sequence[NewHost], described: Callable[[NewHost], Host]
) -> list[BatchRow]:
    """Check a list by the rules for single hosts.

    Args:
        wanted: the hosts.
        described: gives the host that a request describes, or raises `PkengineError`.

    Raises:
        BadRequest: something is wrong; the sentence has what is, and where.
    """
    if not wanted:
        raise BadRequest("There is no host in the list.")
    if len(wanted) > MOST_ROWS:
        raise BadRequest(
            f"There are {len(wanted)} hosts in the list: expected at most {MOST_ROWS}. Make "
            "several lists of them."
        )
    rows: list[BatchRow] = []
    mistakes: list[str] = []
    first: Mapping[str, dict[str, int]] = defaultdict(dict)
    for number, new in enumerate(wanted, 1):
        try:
            host = described(new)
            request.checked_way(new.ssh.jumps or ())
            check_way(new.way)
            if new.ssh.password or any(jump.password for jump in new.ssh.jumps or ()):
                raise BadRequest("A password is not stored: give it when the list is started.")
        except PkengineError as error:
            mistakes.append(f"{number}: {error}")
            continue
        for what, value in (("name", host.name), ("address", host.address)):
            earlier = first[what].setdefault(value, number)
            if earlier != number:
                mistakes.append(f"{number}: The {what} {value} is that of host {earlier} already.")
        rows.append(BatchRow(number=number, wanted=replace(new, address=host.address)))
    if mistakes:
        told = mistakes[:_MOST_MISTAKES_TOLD]
        if len(mistakes) > len(told):
            told.append(f"… and {len(mistakes) - len(told)} more.")
        raise BadRequest("The list cannot be taken. Host " + " Host ".join(told))
    return rows


def chosen(rows: Sequence[BatchRow], start: BatchStart) -> list[BatchRow]:
    """Give the rows that a request confirms.

    Raises:
        BadRequest: a name is not in the list, or its key is not one to be confirmed.
    """
    acceptable = {RowJudgement.MATCH}
    if start.trust_on_first_use or start.names is not None:
        acceptable.add(RowJudgement.FIRST_USE)
    open_rows = [row for row in rows if row.outcome is not RowOutcome.ADDED]
    if start.names is None:
        return [row for row in open_rows if row.judgement in acceptable]
    by_name = {row.wanted.name: row for row in rows}
    for name in start.names:
        row = by_name.get(name)
        if row is None:
            raise BadRequest(f"There is no host {name[:100]!r} in the list.")
        if row.judgement not in acceptable:
            judgement = row.judgement.value if row.judgement else "not reviewed"
            raise BadRequest(
                f"Host {name} cannot be added: it was judged '{judgement}'. {row.detail}".rstrip()
            )
    return [row for row in open_rows if row.wanted.name in set(start.names)]


def _login(row: BatchRow, common: SshLogin) -> SshLogin:
    """Give how to log in to a host: by what its row says, and for the rest by the request."""
    own = row.wanted.ssh
    fingerprint, public_key = own.fingerprint, own.public_key
    if row.judgement is RowJudgement.FIRST_USE:
        # What was shown and confirmed is what is trusted, whoever answers now.
        fingerprint, public_key = row.found[0].fingerprint(), None
    return replace(
        common,
        port=own.port or common.port,
        user=own.user or common.user,
        fingerprint=fingerprint,
        public_key=public_key,
        jumps=own.jumps if own.jumps is not None else common.jumps,
    )


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


def _reviewing(size: int) -> str:
    return f"Reviewing {size} hosts"
