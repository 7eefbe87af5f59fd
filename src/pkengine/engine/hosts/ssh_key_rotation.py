"""The rotation of the engine's own SSH key on all hosts.

Theory of operation.  The key ring has the new key beside the old one from the beginning to the
end, and logins offer both, so a host is reached whichever of them it has.  The database says which
hosts have the new key, and why others have not.  What interrupts a run loses nothing: the next one
takes up the rest.  A run begins when it is asked for, when the engine starts, and when a host that
was left over is up again.  The old key ends when no host is left, or when somebody says so.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.engine.clock import utc_now
from pkengine.engine.events import EventCode, Events
from pkengine.engine.hosts.access import HostAccess
from pkengine.engine.hosts.registry import HostRegistry
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.jobs import Jobs, RunningJob
from pkengine.engine.model import (
    Event,
    Host,
    HostKeyRotation,
    HostStatus,
    Job,
    KeyRotationStatus,
    Origin,
    Severity,
    StepStatus,
)
from pkengine.engine.pool import in_pool
from pkengine.engine.store import Store
from pkengine.engine.store import key_rotations as queries
from pkengine.engine.tasks import Tasks
from pkengine.errors import Conflict, NotFound, PkengineError
from pkengine.keys import SshFingerprint, SshPublicKey
from pkengine.ssh import SshKeyKind, SshKeyRing

#: On how many hosts at the same time.
_AT_ONCE = 8
#: How many hosts a sentence names.
_MOST_NAMED = 10
_DESCRIPTION = "Rotating the SSH key of this engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class SshKeyState:
    """The engine's SSH key, and how far its rotation is.

    Attributes:
        key: what hosts are let in by; the old one while it is rotated.
        successor: what takes its place, or None while nothing is rotated.
        is_running: hosts are worked on just now.
        hosts: all that are to have the successor, by name; empty while nothing is rotated.
    """

    key: SshPublicKey
    successor: SshPublicKey | None = None
    is_running: bool = False
    hosts: Sequence[HostKeyRotation] = ()

    @property
    def left(self) -> Sequence[HostKeyRotation]:
        """The hosts that do not have the successor alone."""
        return [host for host in self.hosts if host.status is not KeyRotationStatus.DONE]


class SshKeyRotation:
    """Rotates it.

    Args:
        ring: the keys.
        hosts, registry, access: the hosts.
        store, events, jobs: what is on disk.
        clock: what time it is.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        ring: SshKeyRing,
        hosts: Hosts,
        registry: HostRegistry,
        access: HostAccess,
        store: Store,
        events: Events,
        jobs: Jobs,
        clock: IReactorTime,
    ) -> None:
        self._ring = ring
        self._hosts = hosts
        self._registry = registry
        self._access = access
        self._store = store
        self._events = events
        self._jobs = jobs
        self._clock = clock
        self._tasks = Tasks()
        self._run: Deferred[None] | None = None
        self._is_beginning = False
        self._is_looking = False
        self._wanted: set[uuid.UUID] = set()
        self._up: set[uuid.UUID] = set()
        self._end_watch = hosts.subscribe(self._changed, lambda host: self._up.discard(host.id))

    async def start(self) -> None:
        """Take up a rotation that the engine left when it stopped."""
        if self._ring.successor is not None:
            job = self._jobs.prepare(_DESCRIPTION)
            await self._begin(job, self._ring.successor.kind, Origin())

    async def stop(self) -> None:
        """End the run; what it has not done, the next one does."""
        self._end_watch()
        await self._tasks.stop()

    async def state(self) -> SshKeyState:
        """Tell which key there is, and how far its rotation is."""
        successor = self._ring.successor
        if successor is None:
            return SshKeyState(key=self._ring.current.public)
        return SshKeyState(
            key=self._ring.current.public,
            successor=successor.public,
            is_running=self._is_busy,
            hosts=await self._all(successor.public.fingerprint()),
        )

    async def rotate(self, kind: SshKeyKind | None, origin: Origin) -> Job:
        """Make a new key and bring it to all hosts, or take up a rotation that is not finished.

        Args:
            kind: the type of the new key; None is Ed25519, or that of the rotation.
            origin: who asks.

        Raises:
            Conflict: a run is under way, or a rotation to a key of another type.
            KeyFileError: the key cannot be written.
        """
        if self._is_busy:
            raise Conflict("The SSH key of this engine is being rotated just now: see its job.")
        successor = self._ring.successor
        if successor is not None and kind is not None and kind is not successor.kind:
            raise Conflict(
                f"The SSH key of this engine is rotated to {_described(successor.public)} "
                "already. Finish that, or discard the old key, before another one is made."
            )
        job = self._jobs.prepare(_DESCRIPTION, origin=origin)
        return await self._tasks.shield(self._begin(job, kind or SshKeyKind.ED25519, origin))

    async def discard_old(self, origin: Origin) -> SshKeyState:
        """End the rotation: the old key is valid no longer, whichever hosts still have it.

        Raises:
            Conflict: nothing is rotated.
            KeyFileError: the files cannot be changed; both keys stay valid.
        """
        if self._ring.successor is None:
            raise Conflict("The SSH key of this engine is not being rotated.")
        if (run := self._run) is not None:
            run.cancel()
            await run
        state = await self.state()
        await self._tasks.shield(self._end(state, origin))
        return await self.state()

    # A run.

    @property
    def _is_busy(self) -> bool:
        return self._is_beginning or self._run is not None

    async def _begin(self, job: RunningJob, kind: SshKeyKind, origin: Origin) -> Job:
        self._is_beginning = True
        try:
            if self._ring.successor is None:
                old = self._ring.current.public
                new = self._ring.begin_rotation(kind).public
                await self._events.add(
                    EventCode.ENGINE_KEY_ROTATION_STARTED,
                    Severity.WARNING,
                    f"A new SSH key of this engine was made{_by(origin)}: {_described(new)}. It "
                    f"takes the place of {_described(old)} on all hosts; both are valid until "
                    "that is done.",
                    origin=origin,
                )
            await self._store.write(job.begin)
            self._run = self._tasks.spawn(_DESCRIPTION, self._go_on(job, origin))
            self._run.addBoth(self._ended)
        finally:
            self._is_beginning = False
        return job.job

    def _ended(self, _: object) -> None:
        self._run = None

    async def _go_on(self, job: RunningJob, origin: Origin) -> None:
        try:
            status = await self._work_on_all(job, origin)
        except CancelledError:
            status = StepStatus.ABORTED
        except Exception:
            self._log.failure("Rotating the SSH key failed")
            status = StepStatus.FAILED
        await job.finish(status)

    async def _work_on_all(self, job: RunningJob, origin: Origin) -> StepStatus:
        """Work on all hosts that are left, and on those that come while that goes on."""
        tried: set[uuid.UUID] = set()
        while True:
            state = await self.state()
            todo = [
                host
                for host in state.left
                if host.host_id not in tried or host.host_id in self._wanted
            ]
            if not todo:
                break
            tried.update(host.host_id for host in todo)
            self._wanted.clear()
            await in_pool(_AT_ONCE, lambda host: self._work_on(host, job, origin), todo)
        if state.left:
            await self._tell_left(state, origin)
            return StepStatus.FAILED
        await self._tasks.shield(self._end(state, origin))
        return StepStatus.FINISHED

    async def _work_on(self, host: HostKeyRotation, job: RunningJob, origin: Origin) -> None:
        step = (str(host.host_id), f"Host {host.host_name}")
        job.step(*step, StepStatus.STARTED)
        try:
            await self._exchange(host.host_id, origin)
            reason = ""
        except CancelledError:
            job.step(*step, StepStatus.ABORTED)
            raise
        except NotFound:
            job.step(*step, StepStatus.FINISHED)  # it was removed, and its key with it
            return
        except PkengineError as error:
            reason = str(error)
        except Exception as error:
            self._log.failure("The SSH key on {host} was not replaced", host=host.host_name)
            reason = f"The engine failed: {type(error).__name__}; see its log."
        await self._tasks.shield(self._store_outcome(host, reason, origin))
        job.step(*step, StepStatus.FAILED if reason else StepStatus.FINISHED)

    async def _exchange(self, host_id: uuid.UUID, origin: Origin) -> None:
        async with self._hosts.logins.logged_in(host_id, "rotate the SSH key on", origin) as (
            host,
            connection,
        ):
            if host.status is HostStatus.INSTALLING:
                raise Conflict(f"Host {host.name} is being installed: it is done after that.")
            await self._access.replace_ssh_key(connection)

    async def _store_outcome(self, known: HostKeyRotation, reason: str, origin: Origin) -> None:
        successor = self._ring.successor
        if successor is None:
            return
        fingerprint = successor.public.fingerprint()
        status = KeyRotationStatus.FAILED if reason else KeyRotationStatus.DONE
        rotation = replace(known, status=status, detail=reason, tried=utc_now(self._clock))

        def tell(host: Host) -> list[Event]:
            tell = self._registry.announcements
            return [
                tell.engine_key_kept(host, reason, origin)
                if reason
                else tell.engine_key_rotated(host, fingerprint, origin)
            ]

        def also(connection: Connection) -> None:
            queries.replace_rotation(connection, fingerprint, rotation)

        try:
            await self._registry.change(known.host_id, lambda host: host, tell, also=also)
        except NotFound:
            return

    # The end.

    async def _end(self, state: SshKeyState, origin: Origin) -> None:
        """Let the new key take the old one's place."""
        if state.successor is None:
            return
        fingerprint = state.successor.fingerprint()
        self._ring.end_rotation()
        await self._store.write(queries.forget_rotation, fingerprint)
        if not state.left:
            await self._events.add(
                EventCode.ENGINE_KEY_ROTATION_FINISHED,
                Severity.NORMAL,
                f"All {len(state.hosts)} hosts have the new SSH key of this engine, "
                f"{_described(state.successor)}. The old one, {_described(state.key)}, is valid "
                "no longer.",
                origin=origin,
            )
            return
        await self._events.add(
            EventCode.ENGINE_KEY_DISCARDED,
            Severity.WARNING,
            f"The old SSH key of this engine, {_described(state.key)}, was discarded{_by(origin)} "
            f"before {_named(state.left)} had the new one, {_described(state.successor)}. Install "
            "these with a password to bring it there, and remove the old one from their "
            "authorized_keys.",
            origin=origin,
        )

    async def _tell_left(self, state: SshKeyState, origin: Origin) -> None:
        await self._events.add(
            EventCode.ENGINE_KEY_ROTATION_FAILED,
            Severity.WARNING,
            f"The SSH key of this engine could not be replaced on {_named(state.left)}. Both keys "
            "stay valid; it is tried again when such a host is up again, when the engine starts, "
            "and when it is asked for.",
            origin=origin,
        )

    async def _all(self, fingerprint: SshFingerprint) -> list[HostKeyRotation]:
        return await self._store.read(queries.rotations, fingerprint)

    def _changed(self, host: Host) -> None:
        """A host that is up again, and may have been left over, is tried again."""
        was_up = host.id in self._up
        if host.status is not HostStatus.UP:
            self._up.discard(host.id)
            return
        self._up.add(host.id)
        if was_up or self._ring.successor is None:
            return
        self._wanted.add(host.id)
        if not self._is_busy and not self._is_looking:
            self._is_looking = True
            self._tasks.spawn(_DESCRIPTION, self._look_again())

    async def _look_again(self) -> None:
        """Begin a run, if one of the hosts that are up again is left over."""
        try:
            state = await self.state()
        finally:
            self._is_looking = False
        successor = self._ring.successor
        if self._is_busy or successor is None:
            return
        if self._wanted.isdisjoint(host.host_id for host in state.left):
            self._wanted.clear()
            return
        await self._begin(self._jobs.prepare(_DESCRIPTION), successor.kind, Origin())


def _by(origin: Origin) -> str:
    return f" by {origin.user}" if origin.user else ""


def _described(key: SshPublicKey) -> str:
    return f"{key.key_type} {key.fingerprint()}"


def _named(hosts: Sequence[HostKeyRotation]) -> str:
    names = ", ".join(host.host_name for host in hosts[:_MOST_NAMED])
    more = f" and {len(hosts) - _MOST_NAMED} more" if len(hosts) > _MOST_NAMED else ""
    return f"{len(hosts)} hosts ({names}{more})" if len(hosts) > 1 else f"Host {names}"
