"""What keeps an installed agent in good order: look, prove the keys, restart.

None of it changes whom the engine trusts: a host is met by the key that it has.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

from twisted.internet.defer import TimeoutError
from twisted.internet.error import ConnectError, ConnectionClosed

from pkengine.channel.verbs import KEYS_LIST, AcceptedKey, Nothing
from pkengine.engine.events import EventCode
from pkengine.engine.hosts.access import HostAccess, LoggedIn
from pkengine.engine.hosts.agent_report import AgentReport, examine
from pkengine.engine.hosts.farewell import keys_at_agent
from pkengine.engine.hosts.known_logins import KnownLogins
from pkengine.engine.hosts.operation_context import OperationContext
from pkengine.engine.jobs import RunningJob
from pkengine.engine.model import Host, HostStatus, Job, Origin, Severity, SshLogin, StepStatus
from pkengine.errors import Conflict, PkengineError

_UNREACHABLE = (PkengineError, ConnectError, ConnectionClosed, TimeoutError, OSError)
_CALL_TIMEOUT_S = 30.0


class Upkeep:
    """Does it, one thing at a time for each host.

    Args:
        context: what operations on hosts share.
        logins: log in to hosts that are known.
    """

    def __init__(self, context: OperationContext, logins: KnownLogins) -> None:
        self._registry = context.registry
        self._tell = context.announcements
        self._access = context.access
        self._monitor = context.monitor
        self._jobs = context.jobs
        self._events = context.events
        self._turns = context.turns
        self._own_pin = context.own_pin
        self._logins = logins

    async def refresh(self, host_id: uuid.UUID, origin: Origin) -> Job:
        """Ask a host's agent anew what it and its host are; this waits for the answer.

        Raises:
            NotFound: there is no such host.
            Conflict: no key of it is trusted, or it does not answer.
        """
        async with self._waiting("refresh", "Refreshing", host_id, origin) as (host, job):
            report = await report_of(self._access, host)
            await self._registry.change(host.id, lambda host: learnt(host, report))
            self._monitor.retry(host.id)
        return job.job

    async def prove_keys(self, host_id: uuid.UUID, origin: Origin) -> Job:
        """Let engine and host prove their keys to each other; this waits for the end.

        There is no certificate between them that expires, so nothing is renewed.  What this
        finds out is whether the host still has the key that is trusted, and whether its
        agent accepts that of this engine without an end.

        Raises:
            NotFound: there is no such host.
            Conflict: no key of it is trusted, or the proof failed.
        """
        waiting = self._waiting("enroll certificate for", "Enrolling", host_id, origin)
        async with waiting as (host, job):
            await self._note(EventCode.HOST_ENROLLMENT_STARTED, host, "is asked for", origin)
            try:
                accepted = await self._accepted_key(host)
            except Conflict as error:
                text = f"Host {host.name} and the engine did not prove their keys. {error}"
                await self._events.add(
                    EventCode.HOST_ENROLLMENT_FAILED,
                    Severity.ERROR,
                    text,
                    host=host,
                    origin=origin,
                )
                raise
            await self._note(
                EventCode.HOST_ENROLLED,
                host,
                f"succeeded: its agent has the key {host.keys[0].key} and accepts that of this "
                f"engine as '{accepted.name}'. Neither expires, and nothing was replaced",
                origin,
            )
        return job.job

    async def is_answering(self, host_id: uuid.UUID) -> bool:
        """Tell whether a host's agent answers now.

        Raises:
            NotFound: there is no such host.
        """
        host = await self._registry.get(host_id)
        if self._monitor.authenticated(host_id) is not None:
            return True
        if not host.keys:
            return False
        try:
            (await self._access.connect(host)).close()
        except _UNREACHABLE:
            return False
        return True

    async def restart_agent(self, host_id: uuid.UUID, login: SshLogin, origin: Origin) -> Job:
        """Restart a host's agent by SSH; this waits until it is done.

        Raises:
            NotFound: there is no such host.
            Conflict: no key of it is trusted.
            SshError, DeploymentError: the host refused.
        """
        text = "The agent on Host {host} was restarted by SSH."
        return await self._by_ssh(
            host_id,
            login,
            origin,
            "restart the agent of",
            "Restarting the agent of",
            (EventCode.HOST_AGENT_RESTARTED, text),
            self._access.restart_agent,
        )

    async def reboot(self, host_id: uuid.UUID, login: SshLogin, origin: Origin) -> Job:
        """Reboot a host by SSH; this waits until the host has begun.

        Raises:
            NotFound: there is no such host.
            Conflict: no key of it is trusted.
            SshError: the host refused.
        """
        return await self._by_ssh(
            host_id,
            login,
            origin,
            "restart",
            "Restarting",
            (EventCode.HOST_RESTARTED, "Host {host} was restarted by SSH."),
            self._access.reboot,
        )

    async def _by_ssh(
        self,
        host_id: uuid.UUID,
        login: SshLogin,
        origin: Origin,
        verb: str,
        doing: str,
        told: tuple[EventCode, str],
        act: Callable[[LoggedIn, Host], Awaitable[None]],
    ) -> Job:
        async with self._waiting(verb, doing, host_id, origin) as (host, job):
            connection = await self._logins.log_in(host, login, verb, origin)
            try:
                await act(connection, host)
            finally:
                await connection.close()
            code, text = told
            event = self._tell.kept(code, host, text.format(host=host.name), origin)
            await self._registry.change(host_id, lambda host: host, lambda _: [event])
            self._monitor.retry(host_id)
        return job.job

    @contextlib.asynccontextmanager
    async def _waiting(
        self, verb: str, doing: str, host_id: uuid.UUID, origin: Origin
    ) -> AsyncIterator[tuple[Host, RunningJob]]:
        """Have a trusted host alone, under a job that ends with what is done meanwhile."""
        host = await self._registry.get(host_id)
        with self._turns.taking(verb, host.name, host_id):
            require_trust(host, verb)
            job = self._jobs.prepare(f"{doing} Host {host.name}", host_id=host_id, origin=origin)
            await self._registry.change(host_id, lambda host: host, also=job.begin)
            try:
                yield host, job
            except BaseException:
                await job.finish(StepStatus.FAILED)
                raise
            await job.finish()

    async def _accepted_key(self, host: Host) -> AcceptedKey:
        with as_conflict(host):
            channel = await self._access.connect(host)
            try:
                keys: list[AcceptedKey] = await channel.call(
                    KEYS_LIST,
                    Nothing(),
                    result_type=list[AcceptedKey],
                    timeout_s=_CALL_TIMEOUT_S,
                )
            finally:
                channel.close()
        own = set(map(str, keys_at_agent(host, self._own_pin)))
        for key in keys:
            if key.pin in own and key.expires is None:
                return key
        raise Conflict(
            f"The agent of Host {host.name} does not accept the key of this engine without an "
            "end: install the host again."
        )

    async def _note(self, code: EventCode, host: Host, what: str, origin: Origin) -> None:
        text = f"Certificate enrollment of Host {host.name} {what}."
        await self._events.add(code, Severity.NORMAL, text, host=host, origin=origin)


async def report_of(access: HostAccess, host: Host) -> AgentReport:
    """Ask a host's agent, on a connection of its own, what it and its host are.

    Raises:
        Conflict: it does not answer by the key that is trusted.
    """
    with as_conflict(host):
        channel = await access.connect(host)
        try:
            return await examine(channel)
        finally:
            channel.close()


@contextlib.contextmanager
def as_conflict(host: Host) -> Iterator[None]:
    """Say of a host that does not answer that it does not."""
    try:
        yield
    except _UNREACHABLE as error:
        # The channel knows a host by its id, a person by its name.
        reason = str(error).replace(str(host.id), host.name) or type(error).__name__
        raise Conflict(f"The agent of Host {host.name} does not answer. {reason}") from error


def require_trust(host: Host, verb: str) -> None:
    """Refuse a host that is not installed, or has joined and waits for approval.

    Raises:
        Conflict: no key of its agent is trusted, or for nothing but staying connected.
    """
    if host.status is HostStatus.PENDING_APPROVAL and host.keys:
        raise Conflict(f"Cannot {verb} Host {host.name}. It waits for approval: approve it first.")
    if not host.keys:
        raise Conflict(
            f"Cannot {verb} Host {host.name}. No key of its agent is trusted: install it first."
        )


def learnt(host: Host, report: AgentReport) -> Host:
    """Give the host with what its agent said."""
    return replace(
        host,
        capabilities=report.capabilities,
        hardware=report.hardware,
        agent_version=report.version.version,
    )
