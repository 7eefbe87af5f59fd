"""Reach an SSH server and judge its key: over TCP, or through another host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import (
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from pkengine.errors import HostKeyMismatch, HostUnreachable, SshError
from pkengine.ssh.forwarding import ForwardedEndpoint
from pkengine.ssh.host_keys import HostKeyVerifier, IHostKeyVerifier
from pkengine.ssh.session import ConnectionService
from pkengine.ssh.transport import OfferTooNarrow, SshTransport
from pkengine.ssh.wire import readable

T = TypeVar("T")

DEFAULT_PORT = 22
DEFAULT_USER = "root"


class IReactor(IReactorTime, IReactorTCP, IReactorPluggableNameResolver):
    """What is needed of a reactor: time, TCP, and the resolution of names."""


@dataclass(frozen=True, slots=True)
class SshTarget:
    """Where to log in, and as whom.

    Attributes:
        address: a DNS name, an IPv4 address or an IPv6 address.
    """

    address: str
    port: int = DEFAULT_PORT
    user: str = DEFAULT_USER

    def __str__(self) -> str:
        return self.address if self.port == DEFAULT_PORT else f"{self.address} port {self.port}"


class Deadline:
    """One limit for all the steps of an operation."""

    def __init__(self, reactor: IReactor, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._reactor = reactor
        self._end = reactor.seconds() + timeout_s

    def limit(self, step: Deferred[T]) -> Deferred[T]:
        """Cancel the step, and fail with TimeoutError, at the end of the time."""
        return step.addTimeout(max(0.0, self._end - self._reactor.seconds()), self._reactor)


async def reach(
    reactor: IReactor,
    target: SshTarget,
    verifier: HostKeyVerifier,
    deadline: Deadline,
    carrier: ConnectionService | None,
) -> SshTransport:
    """Open connections until the host's key is accepted, or finally refused.

    Args:
        reactor: gives time and the network.
        target: where to.
        verifier: judges the host's key.
        deadline: the limit for all of it.
        carrier: the connection of the host to go through, or None for the direct way.

    Raises:
        HostUnreachable: no SSH server answers, or it shares no algorithm with this side.
        HostKeyRefused: the host's key must not be trusted.
    """
    refusal: HostKeyMismatch | None = None
    while True:
        try:
            return await open_transport(reactor, target, verifier, deadline, carrier)
        except HostKeyMismatch as error:
            refusal = error
        except SshError as error:
            if refusal is None:
                raise
            raise verifier.mismatch(not_compared=str(error)) from error
        if not verifier.try_next_type():
            raise refusal


async def open_transport(
    reactor: IReactor,
    target: SshTarget,
    verifier: IHostKeyVerifier,
    deadline: Deadline,
    carrier: ConnectionService | None,
) -> SshTransport:
    """Open a connection, or two, and exchange keys on it; as `reach`."""
    try:
        return await _open(reactor, target, verifier, deadline, carrier, is_wide=False)
    except OfferTooNarrow:
        return await _open(reactor, target, verifier, deadline, carrier, is_wide=True)


async def _open(
    reactor: IReactor,
    target: SshTarget,
    verifier: IHostKeyVerifier,
    deadline: Deadline,
    carrier: ConnectionService | None,
    *,
    is_wide: bool,
) -> SshTransport:
    timeout_s = deadline.timeout_s
    endpoint = _endpoint(reactor, target, timeout_s, carrier)
    transport = SshTransport(str(target), verifier, reactor, is_wide=is_wide)
    try:
        await deadline.limit(_cancellable(endpoint.connect(_OneConnection(transport))))
    except (CancelledError, GeneratorExit):
        raise
    except TimeoutError:
        raise HostUnreachable(
            f"{target} did not answer within {timeout_s:g} s. Check the address, the port, and "
            "that no firewall is in between."
        ) from None
    except Exception as error:  # what resolving and connecting fail with has no common root
        raise HostUnreachable(
            f"{target} cannot be reached: {readable(str(error))} Check the address and the port."
        ) from error
    try:
        await deadline.limit(transport.secured)
    except TimeoutError:
        stalled = HostUnreachable(
            f"{target} accepted the connection, but did not send {transport.stage} within "
            f"{timeout_s:g} s. Check that an SSH server, and nothing else, listens on that port."
        )
        transport.end(stalled)
        raise stalled from None
    except SshError:
        raise
    except BaseException:
        transport.end(HostUnreachable(f"The connection to {target} was given up."))
        raise
    return transport


class _OneConnection(Factory):
    """Gives the protocol of one connection, and does not tell the log of it."""

    noisy = False

    def __init__(self, transport: SshTransport) -> None:
        self._transport = transport

    def buildProtocol(self, addr: object) -> SshTransport:
        return self._transport


def _endpoint(
    reactor: IReactor, target: SshTarget, timeout_s: float, carrier: ConnectionService | None
) -> IStreamClientEndpoint:
    if carrier is not None:
        return ForwardedEndpoint(carrier, target.address, target.port)
    # The endpoint's own limit, in whole seconds, must not come before the deadline.
    where = (reactor, target.address, target.port, int(timeout_s) + 2)
    # An address needs no resolver, which would take as long as the key exchange.
    if isIPAddress(target.address):
        return TCP4ClientEndpoint(*where)
    if isIPv6Address(target.address):
        return TCP6ClientEndpoint(*where)
    return HostnameEndpoint(*where)


def _cancellable(connecting: Deferred[T]) -> Deferred[T]:
    """Let a cancelled attempt fail as such; the endpoint calls it a failed DNS lookup."""

    def cancel(outcome: Deferred[T]) -> None:
        outcome.errback(CancelledError())
        connecting.cancel()

    def finish(result: T | Failure) -> None:
        if not outcome.called:
            outcome.callback(result)

    outcome: Deferred[T] = Deferred(cancel)
    connecting.addBoth(finish)
    return outcome
