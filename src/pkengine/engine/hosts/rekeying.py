"""Another way for a host to connect, and fresh keys, over the channel that lives: no SSH.

Theory of operation.  A way is which end dials, and by which mechanism both prove themselves::

    the agent accepts the new way, too            nothing is on disk anywhere
    the engine stores the new key and the way     both ways are trusted
    a connection by the new way is made           it was seen to work
    the agent is told, by that, to keep it only   its way is the new one
    the engine drops the old key and way          so is the engine's

Whatever ends one of the two in between leaves them with a way that both accept.  An engine
that finds a host with a way under way, after a restart or after an answer that never came,
awaits the agent by either, tells it to keep the way by which it came, and does the same.

While it is being told, the loss of the old connection is expected, and nobody is told of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS
from pkengine.engine.clock import utc_now
from pkengine.engine.events import EventCode
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.hosts.upkeep import as_conflict, require_trust
from pkengine.engine.hosts.way_trial import WayTrial, commit_on
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import (
    Event,
    Host,
    HostConnection,
    HostKey,
    Job,
    KeySource,
    NextWay,
    Origin,
    StepStatus,
    WayChoice,
)
from pkengine.errors import CallRefused, Conflict, NotFound, PkengineError

_VERB = "change the connection of"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_UNREACHABLE = (PkengineError, ConnectError, ConnectionClosed, OSError)

STEPS = {
    "prepare": "Let the agent accept another way to connect",
    "meet": "Connect by it",
    "commit": "Make it the only one",
}


class Rekeying:
    """Changes how hosts connect, one change at a time for each.

    Args:
        context: what operations on hosts share.
    """

    _log = Logger()

    def __init__(self, context: OperationContext) -> None:
        self._registry = context.registry
        self._tell = context.announcements
        self._access = context.access
        self._monitor = context.monitor
        self._jobs = context.jobs
        self._turns = context.turns
        self._tasks = context.tasks
        self._ways = context.agent_ways
        self._clock = context.clock

    async def start(self) -> None:
        """Take up the changes that an engine before this one has left."""
        for host in await self._registry.list():
            if host.next_way is not None:
                self._settle_soon(host)

    async def change(self, host_id: uuid.UUID, choice: WayChoice, origin: Origin) -> Job:
        """Begin to let a host connect otherwise, or by a fresh key.

        When this returns, the agent has answered; the job tells the rest.

        Args:
            host_id: which one.
            choice: what it leaves open stays as it is.
            origin: who asks.

        Raises:
            NotFound: there is no such host.
            BadRequest: there is no such way.
            Conflict: no key of it is trusted, its agent does not answer, or nothing would
                change.
        """
        host = await self._registry.get(host_id)
        async with self._tell.refusal(EventCode.WAY_NOT_CHANGED, _VERB, host, origin):
            return await self._begin(host, choice, origin)

    async def _begin(self, host: Host, choice: WayChoice, origin: Origin) -> Job:
        with self._turns.taking(_VERB, host.name, host.id):
            require_trust(host, _VERB)
            # Also a way that stays is told to the agent, so it must be one that there is here.
            named = replace(choice, connection=choice.connection or host.connection)
            wanted = self._ways.applied(host, named)
            _require_change(host, wanted)
            with as_conflict(host):
                living = await self._access.connect(host)
            job = self._jobs.prepare(
                f"Changing the connection of Host {host.name}", host_id=host.id, origin=origin
            )
            try:
                await self._registry.change(
                    host.id,
                    lambda host: host,
                    lambda host: [self._tell.way_changing(host, wanted, origin)],
                    also=job.begin,
                )
            except BaseException:
                living.close()
                raise
        trial = self._access.trial(wanted, living)
        self._tasks.spawn(job.job.description, self._run(host, wanted, trial, job, origin))
        return job.job

    async def _run(
        self, host: Host, wanted: Host, trial: WayTrial, job: RunningJob, origin: Origin
    ) -> None:
        status = StepStatus.FAILED
        try:
            with self._turns.taking(_VERB, host.name, host.id):
                await self._change(wanted, trial, job, origin)
            status, reason = StepStatus.FINISHED, ""
        except CancelledError:
            # What is under way is taken up by the engine that starts next.
            await job.finish(StepStatus.ABORTED)
            raise
        except _UNREACHABLE as error:
            # The channel knows a host by its id, a person by its name.
            reason = str(error).replace(str(host.id), host.name) or type(error).__name__
        except Exception as error:
            self._log.failure("Changing the connection of {host} failed", host=host.name)
            reason = f"The engine failed: {type(error).__name__}; see its log."
        finally:
            trial.close()
        if reason:
            under_way = next((s for s in job.job.steps if s.status is StepStatus.STARTED), None)
            if under_way is not None:
                job.step(under_way.name, reason, StepStatus.FAILED)
            await self._registry.change(
                host.id,
                lambda host: host,
                lambda host: [self._tell.way_not_changed(host, wanted, reason, origin)],
            )
        await job.finish(status)

    async def _change(
        self, wanted: Host, trial: WayTrial, job: RunningJob, origin: Origin
    ) -> None:
        begin = partial(_show_begun, job)
        end = begin("prepare")
        key = await trial.prepare()
        new = self._registry.trust.host_key(
            key, wanted.mechanism, KeySource.REKEYED, utc_now(self._clock)
        )
        try:
            await self._registry.change(wanted.id, lambda host: _with_both(host, wanted, new))
            end()
            end = begin("meet")
            await trial.meet(key)
            end()
        except CancelledError:
            raise
        except BaseException:
            await self._undo(wanted, trial)
            raise
        begin("commit")
        async with self._monitor.replacing(wanted.id):
            await self._commit(wanted, trial, origin)

    async def _commit(self, wanted: Host, trial: WayTrial, origin: Origin) -> None:
        try:
            await trial.commit()
        except PkengineError as error:
            # The agent may have changed, or half of it: both ways are trusted until it comes.
            self._settle_soon(wanted)
            raise Conflict(
                "It is not known whether the agent has changed: the way by which it connects "
                f"next will be the one. {error}"
            ) from error
        before = await self._registry.get(wanted.id)
        trial.adopt()
        await self._registry.change(
            wanted.id,
            lambda host: settled(host, is_next=True),
            lambda host: [self._tell.way_changed(before, host, origin)],
        )

    async def _undo(self, wanted: Host, trial: WayTrial) -> None:
        """Leave both ends with the way that they had."""
        try:
            await trial.give_up()
        except _UNREACHABLE as error:
            self._log.info(
                "{host} could not be told that its way stays, and finds that out by itself: "
                "{error}",
                host=wanted.name,
                error=str(error),
            )
        await self._registry.change(wanted.id, lambda host: settled(host, is_next=False))

    # What was left in between.

    def _settle_soon(self, host: Host) -> None:
        self._tasks.spawn(f"settling how {host.name} connects", self._settle(host.id))

    async def _settle(self, host_id: uuid.UUID) -> None:
        """Await the agent by either way, and stay with that one."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                host = await self._registry.get(host_id)
                if host.next_way is None:
                    return
                if await self._settle_once(host, host.next_way):
                    return
            except NotFound:
                return
            except _UNREACHABLE as error:
                self._log.debug("{host} has not come yet: {error}", host=host_id, error=error)
            await deferLater(self._clock, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _settle_once(self, host: Host, next_way: NextWay) -> bool:
        connection, channel = await self._access.connect_by_either(host)
        met = channel.authenticated
        is_next = (connection, met.mechanism, met.peer.key) == (
            next_way.connection,
            next_way.mechanism,
            next_way.key,
        )
        try:
            async with self._monitor.replacing(host.id):
                try:
                    await commit_on(channel)
                except CallRefused as error:
                    self._log.warn(
                        "{host} does not settle its way: {error}", host=host.name, error=str(error)
                    )
                    return False

                def tell(after: Host) -> list[Event]:
                    return [self._tell.way_settled(host, after, is_next)]

                await self._registry.change(
                    host.id, lambda host: settled(host, is_next=is_next), tell
                )
        finally:
            channel.close()
        return True


def _show_begun(job: RunningJob, step: str) -> Callable[[], None]:
    """Show that a step has begun; give what shows that it has ended."""
    job.step(step, STEPS[step], StepStatus.STARTED)
    return lambda: job.step(step, STEPS[step], StepStatus.FINISHED)


def _require_change(host: Host, wanted: Host) -> None:
    if host.next_way is not None:
        raise Conflict(
            f"Cannot {_VERB} Host {host.name}. A change is under way: it ends when the agent "
            "connects."
        )
    is_same = (host.connection, host.mechanism) == (wanted.connection, wanted.mechanism)
    if (
        is_same
        and host.connection is HostConnection.ENGINE_DIALS
        and host.mechanism not in SHARED_KEY_MECHANISMS
    ):
        raise Conflict(
            f"Cannot {_VERB} Host {host.name}. The engine dials it already, by "
            f"'{host.mechanism}', which has no key that the two share and could renew."
        )


def _with_both(host: Host, wanted: Host, new: HostKey) -> Host:
    """Give the host with the way that it has and the one that is wanted."""
    is_known = any((key.key, key.mechanism) == (new.key, new.mechanism) for key in host.keys)
    return replace(
        host,
        keys=host.keys if is_known else (*host.keys, new),
        next_way=NextWay(connection=wanted.connection, mechanism=wanted.mechanism, key=new.key),
    )


def settled(host: Host, *, is_next: bool) -> Host:
    """Give the host with one way: the next one, or the one that it had."""
    if host.next_way is None:
        return host
    next_way = host.next_way
    kept = [
        key
        for key in host.keys
        if ((key.key, key.mechanism) == (next_way.key, next_way.mechanism)) is is_next
    ]
    if is_next:
        host = replace(host, connection=next_way.connection, mechanism=next_way.mechanism)
    # A way that differs in who dials alone has the key of the other one.
    return replace(host, keys=tuple(kept) or host.keys, next_way=None)
