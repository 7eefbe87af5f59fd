"""The channels of agents that have dialled in, kept for whoever needs one to their host.

An agent that dials in comes when it likes and stays.  The engine's parts open and close
connections as they need them, so what they get here is a *lease*: it is closed like a
channel, and the channel stays.  An agent that comes anew while its former connection seems
to live has proved its key again, so the newer connection is the one that counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from pkengine.auth.peer import Authenticated, PeerKey
from pkengine.channel import Channel
from pkengine.channel.connection import CALL_TIMEOUT_S
from pkengine.errors import ChannelClosed, ChannelSuperseded


class Arrivals:
    """At most one channel for each host, the newest."""

    def __init__(self) -> None:
        self._arrivals: dict[uuid.UUID, _Arrival] = {}
        self._awaiting: dict[uuid.UUID, list[Deferred[None]]] = {}
        self._expected: dict[uuid.UUID, Expected] = {}

    def add(self, host_id: uuid.UUID, channel: Channel) -> Channel | None:
        """Keep the channel of an agent until it ends.

        Returns:
            The older channel of the same host, which ends now, or None.
        """
        expected = self._expected.get(host_id)
        if expected is not None and expected.takes(channel):
            return None
        return self._keep(host_id, channel)

    def expect(self, host_id: uuid.UUID, key: PeerKey, mechanism: str) -> Expected:
        """Keep the next channel by a key and a mechanism apart from the others of its host."""
        expected = self._expected[host_id] = Expected(
            key,
            mechanism,
            adopt=lambda channel: self._keep(host_id, channel),
            over=lambda: self._expected.pop(host_id, None),
        )
        return expected

    def _keep(self, host_id: uuid.UUID, channel: Channel) -> Channel | None:
        arrival, former = _Arrival(channel), self._arrivals.get(host_id)
        self._arrivals[host_id] = arrival

        def ended(reason: ChannelClosed) -> ChannelClosed:
            if self._arrivals.get(host_id) is arrival:
                del self._arrivals[host_id]
            arrival.ended(reason)
            return reason

        channel.closed.addCallback(ended)
        if former is not None:
            former.superseded()
        for waiting in self._awaiting.pop(host_id, ()):
            waiting.callback(None)
        return former.channel if former is not None else None

    def lease(self, host_id: uuid.UUID) -> Lease | None:
        """Give the use of a host's channel, or None where its agent has not dialled in."""
        arrival = self._arrivals.get(host_id)
        return arrival.lease() if arrival is not None else None

    async def awaited(self, host_id: uuid.UUID) -> Lease:
        """Wait until the agent of a host has dialled in, for as long as nobody cancels."""
        while (lease := self.lease(host_id)) is None:
            arrived: Deferred[None] = Deferred()
            self._awaiting.setdefault(host_id, []).append(arrived)
            try:
                await arrived
            except BaseException:
                self._forget(host_id, arrived)
                raise
        return lease

    def _forget(self, host_id: uuid.UUID, arrived: Deferred[None]) -> None:
        awaiting = self._awaiting.get(host_id, [])
        if arrived in awaiting:
            awaiting.remove(arrived)
        if not awaiting:
            self._awaiting.pop(host_id, None)


class Expected:
    """An arrival that is awaited, for a trial; until it is adopted nobody else uses it.

    Args:
        key, mechanism: by what the agent comes.
        adopt: makes the channel the one of its host.
        over: is called when nothing is expected any more.
    """

    def __init__(
        self,
        key: PeerKey,
        mechanism: str,
        *,
        adopt: Callable[[Channel], object],
        over: Callable[[], object],
    ) -> None:
        self._key = key
        self._mechanism = mechanism
        self._adopt = adopt
        self._over = over
        self._channel: Channel | None = None
        self._arrived: Deferred[None] = Deferred()

    def takes(self, channel: Channel) -> bool:
        """Take a channel, if it is the first one that was meant."""
        met = channel.authenticated
        if self._channel is not None or (met.peer.key, met.mechanism) != (
            self._key,
            self._mechanism,
        ):
            return False
        self._channel = channel
        self._arrived.callback(None)
        return True

    async def arrived(self) -> Channel:
        """Wait for the channel."""
        await self._arrived
        assert self._channel is not None, "it has come"
        return self._channel

    def adopt(self) -> None:
        """Make the channel the one of its host."""
        assert self._channel is not None, "it has come"
        self._over()
        self._adopt(self._channel)

    def end(self) -> None:
        """Expect it no longer; where it has come, it is closed."""
        self._over()
        if self._channel is not None:
            self._channel.close()


class _Arrival:
    """A channel, and the leases of it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._leases: set[Lease] = set()

    def lease(self) -> Lease:
        lease = Lease(self.channel, self._leases.discard)
        self._leases.add(lease)
        return lease

    def superseded(self) -> None:
        """Tell the users that the agent has a newer channel, and end this one."""
        self.ended(
            ChannelSuperseded(
                f"{self.channel.peer_name} has connected anew, and the newer connection is used."
            )
        )
        # Not in order: the agent is gone from the other end, or will be told to be.
        self.channel.abort()

    def ended(self, reason: ChannelClosed) -> None:
        """Tell the users that the channel is at its end."""
        for lease in tuple(self._leases):
            lease.end(reason)


class Lease:
    """The use of a channel that others use as well; an `AgentChannel`.

    Attributes:
        authenticated: who the agent is and how that was proved.
        closed: fires with the reason when the channel has ended, or the lease was closed.
    """

    def __init__(self, channel: Channel, given_back: Callable[[Lease], None]) -> None:
        self.authenticated: Authenticated = channel.authenticated
        self.closed: Deferred[Any] = Deferred()
        self._channel = channel
        self._given_back = given_back
        self._end: ChannelClosed | None = None

    def call(
        self,
        method: str,
        params: Any = None,
        *,
        result_type: Any = Any,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Deferred[Any]:
        """Call a verb; see `Channel.call`."""
        if self._end is not None:
            return fail(self._end)
        call = self._channel.call(method, params, result_type=result_type, timeout_s=timeout_s)
        return call.addErrback(self._why)

    def _why(self, failure: Failure) -> Failure:
        """Give the reason of this lease's end where a call failed because of that."""
        is_over = self._end is not None and failure.check(ChannelClosed)
        return Failure(self._end) if is_over else failure

    def close(self) -> None:
        """Use the channel no longer; it stays."""
        self.end(ChannelClosed(f"The channel to {self._channel.peer_name} was given back."))

    def abort(self) -> None:
        """End the channel now, for everybody: its agent does not do what it should."""
        self._channel.abort()

    def end(self, reason: ChannelClosed) -> None:
        """Tell the user of this lease that it is over, once."""
        if self._end is None:
            self._end = reason
            self._given_back(self)
            self.closed.callback(reason)
