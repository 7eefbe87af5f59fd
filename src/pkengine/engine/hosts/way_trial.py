"""Another way between the engine and one agent, tried over the network; see `rekeying`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.peer import Role
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS
from pkengine.channel.jsonrpc import METHOD_NOT_FOUND
from pkengine.channel.verbs import (
    ENGINE_CANCEL,
    ENGINE_COMMIT,
    ENGINE_PREPARE,
    ENGINE_TRY,
    CommittedWay,
    Nothing,
    PreparedWay,
    PrepareWay,
)
from pkengine.engine.hosts.agent_report import AgentChannel
from pkengine.engine.hosts.arrivals import Arrivals, Expected
from pkengine.engine.hosts.dial_in import DialIn
from pkengine.engine.hosts.trust import AgentKey, peer_name
from pkengine.engine.model import Host, HostConnection
from pkengine.errors import CallRefused, ChannelError, Conflict
from pkengine.keys import Pin

#: The agent answers these at once.
ANSWER_TIMEOUT_S = 20.0
#: The agent dials meanwhile, which has a deadline of its own there.
TRY_TIMEOUT_S = 45.0
#: An agent that says it is connected has come before it says so.
ARRIVAL_TIMEOUT_S = 5.0


class WayTrial:
    """One way, from the first word about it to the commit.

    Args:
        wanted: the host as it shall connect.
        living: a channel to its agent.
        engine: what agents call this engine.
        engine_pin: its key.
        dial_in: where agents reach it, or None.
        arrivals: the agents that dial in.
        dial: connects to the agent of a host by the keys that are trusted for it.
        clock: for deadlines.
    """

    def __init__(
        self,
        wanted: Host,
        living: AgentChannel,
        *,
        engine: str,
        engine_pin: Pin,
        dial_in: DialIn | None,
        arrivals: Arrivals,
        dial: Callable[[Host], Awaitable[AgentChannel]],
        clock: IReactorTime,
    ) -> None:
        self._wanted = wanted
        self._living = living
        self._engine = engine
        self._engine_pin = engine_pin
        self._dial_in = dial_in
        self._arrivals = arrivals
        self._dial = dial
        self._clock = clock
        self._expected: Expected | None = None
        self._new: AgentChannel | None = None

    async def prepare(self) -> AgentKey:
        """Let the agent accept the way, too; give the key by which it will come.

        Raises:
            Conflict: the agent refuses.
            ChannelError: it does not answer.
        """
        host = self._wanted
        is_dialled = host.connection is HostConnection.AGENT_DIALS
        agreement = None
        if host.mechanism in SHARED_KEY_MECHANISMS:
            agreement = KeyAgreement(
                host.mechanism, local=self._engine, peer=peer_name(host.id), role=Role.ACCEPTOR
            )
        settings = self._dial_in if is_dialled else None
        request = PrepareWay(
            name=self._engine,
            host_id=peer_name(host.id),
            engine_pin=str(self._engine_pin),
            connection=host.connection.value,
            mechanism=host.mechanism,  # type: ignore[arg-type]  # one of ours, as `AgentWays` checks
            url=settings.url if settings else "",
            server=settings.server if settings else "",
            share=agreement.share if agreement else None,
        )
        try:
            prepared: PreparedWay = await self._living.call(
                ENGINE_PREPARE, request, result_type=PreparedWay, timeout_s=ANSWER_TIMEOUT_S
            )
        except CallRefused as error:
            raise Conflict(_refusal(host, error)) from error
        if agreement is None:
            return Pin.parse(prepared.pin)
        return agreement.agree(prepared.share or "")

    async def meet(self, key: AgentKey) -> None:
        """Connect by the way; the engine trusts the key already.

        Raises:
            Conflict: the agent cannot reach this engine, and says why.
            ChannelError, AuthenticationError: there is no connection.
        """
        host = self._wanted
        if host.connection is HostConnection.ENGINE_DIALS:
            self._new = await self._dial(host)
            return
        key_id = key if isinstance(key, Pin) else key.key_id
        self._expected = self._arrivals.expect(host.id, key_id, host.mechanism)
        try:
            await self._living.call(ENGINE_TRY, Nothing(), timeout_s=TRY_TIMEOUT_S)
        except CallRefused as error:
            raise Conflict(_refusal(host, error)) from error
        arrived: Deferred[AgentChannel] = Deferred.fromCoroutine(self._expected.arrived())
        self._new = await arrived.addTimeout(
            ARRIVAL_TIMEOUT_S,
            self._clock,
            onTimeoutCancel=lambda _, __: _raise(
                ChannelError(
                    f"The agent of Host {host.name} says that it has dialled {self._url}, and was "
                    "not taken in here: another engine answers there, or an event says why."
                )
            ),
        )

    async def commit(self) -> None:
        """Let the agent come by this way only.

        Raises:
            ChannelError: nobody knows whether it has changed, before it comes again.
        """
        assert self._new is not None, "a way is committed after a connection by it"
        if not (await commit_on(self._new)).is_new:
            raise ChannelError("The agent had given up the new way already.")

    def adopt(self) -> None:
        """Use the new connection in place of any that the agent has made before."""
        if self._expected is not None:
            self._expected.adopt()
            self._expected = self._new = None

    async def give_up(self) -> None:
        """Let the agent forget the way.

        Raises:
            ChannelError: it does not answer; then it forgets by itself.
        """
        await self._living.call(ENGINE_CANCEL, Nothing(), timeout_s=ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """End the connections that were used for the trial, unless the new one was adopted."""
        if self._expected is not None:
            self._expected.end()
        elif self._new is not None:
            self._new.close()
        self._living.close()

    @property
    def _url(self) -> str:
        return self._dial_in.url if self._dial_in else ""


async def commit_on(channel: AgentChannel) -> CommittedWay:
    """Let an agent come only by the way by which a channel came.

    Raises:
        CallRefused, ChannelError: it does not.
    """
    committed: CommittedWay = await channel.call(
        ENGINE_COMMIT, Nothing(), result_type=CommittedWay, timeout_s=ANSWER_TIMEOUT_S
    )
    return committed


def _refusal(host: Host, error: CallRefused) -> str:
    if error.code == METHOD_NOT_FOUND:
        return (
            f"The agent of Host {host.name} is too old to connect otherwise while it runs: "
            "upgrade it first, or install the host again."
        )
    return f"The agent of Host {host.name} refuses. {error}"


def _raise(error: Exception) -> AgentChannel:
    raise error
