"""Connect to a host by SSH: judge its key, log in, run commands, send files."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.interfaces import IReactorPluggableNameResolver, IReactorTime
from twisted.python.failure import Failure

from pkengine.errors import (
    HostKeyMismatch,
    HostUnreachable,
    SshCommandFailed,
    SshConnectionLost,
    SshError,
)
from pkengine.keys import SshPublicKey
from pkengine.ssh.host_keys import (
    HostKeyCollector,
    HostKeyJudgement,
    HostKeyPolicy,
    HostKeyVerifier,
    IHostKeyVerifier,
)
from pkengine.ssh.session import CommandChannel, CommandResult, ConnectionService
from pkengine.ssh.sudo import SudoDialogue
from pkengine.ssh.transport import SshTransport
from pkengine.ssh.userauth import LoginService, SshCredentials
from pkengine.ssh.wire import readable

T = TypeVar("T")

DEFAULT_PORT = 22
DEFAULT_USER = "root"
#: The most that a command may write, unless its caller says more.
MAX_OUTPUT = 4 * 1024 * 1024
_CLOSE_TIMEOUT_S = 2.0


class IReactor(IReactorTime, IReactorPluggableNameResolver):
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


class _Deadline:
    """One limit for all the steps of an operation."""

    def __init__(self, reactor: IReactor, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._reactor = reactor
        self._end = reactor.seconds() + timeout_s

    def limit(self, step: Deferred[T]) -> Deferred[T]:
        """Cancel the step, and fail with TimeoutError, at the end of the time."""
        return step.addTimeout(max(0.0, self._end - self._reactor.seconds()), self._reactor)


async def connect_ssh(
    reactor: IReactor,
    target: SshTarget,
    policy: HostKeyPolicy,
    credentials: SshCredentials,
    *,
    timeout_s: float = 20.0,
) -> SshConnection:
    """Connect, judge the host's key, and only then log in.

    Args:
        reactor: gives time and the network.
        target: where to, and as whom.
        policy: what the host's key is compared with.
        credentials: what proves the user.
        timeout_s: the limit for everything until the login is done.

    Raises:
        HostUnreachable: no SSH server answers, or it shares no algorithm with this side.
        HostKeyMismatch, HostKeyTypeUnavailable: the host's key must not be trusted; no
            message of authentication was sent.
        SshAuthenticationFailed: no credential was accepted; each was offered once.
        SshConnectionLost: the connection ended, or stalled, during the login.
    """
    deadline = _Deadline(reactor, timeout_s)
    verifier = HostKeyVerifier(str(target), policy, name=target.address, now=reactor.seconds)
    transport = await _reach(reactor, target, verifier, deadline)
    judgement = verifier.judgement
    assert judgement is not None
    service = ConnectionService()
    login = LoginService(target.user, credentials, service)
    try:
        transport.requestService(login)
        method = await deadline.limit(login.done)
    except TimeoutError:
        stalled = SshConnectionLost(
            f"{target} did not send {transport.stage} within {timeout_s:g} s."
        )
        transport.end(stalled)
        raise stalled from None
    except BaseException:
        if transport.ended_by is None:
            transport.end(SshConnectionLost(f"The login to {target} was given up."))
        raise
    return SshConnection(reactor, transport, service, target, credentials, judgement, method)


async def fetch_host_keys(
    reactor: IReactor, address: str, port: int = DEFAULT_PORT, *, timeout_s: float = 10.0
) -> list[SshPublicKey]:
    """Fetch the keys of all types that a host offers, without logging in.

    The host proved that it holds each key; whether it is the right host, it did not.

    Raises:
        HostUnreachable: no SSH server answers, or it offers no type that is understood.
    """
    deadline = _Deadline(reactor, timeout_s)
    target = SshTarget(address, port)
    keys: list[SshPublicKey] = []
    collector = HostKeyCollector()
    wanted: tuple[str, ...] = ()
    while True:
        transport = await _open(reactor, target, collector, deadline)
        transport.end(SshConnectionLost(f"The key of {target} was fetched."))
        await transport.when_lost()
        assert collector.shown is not None
        keys.append(collector.shown)
        wanted = wanted or collector.types
        missing = [t for t in wanted if t not in {key.key_type for key in keys}]
        if not missing:
            return keys
        collector = HostKeyCollector(missing[:1])


async def _reach(
    reactor: IReactor, target: SshTarget, verifier: HostKeyVerifier, deadline: _Deadline
) -> SshTransport:
    """Open connections until the host's key is accepted, or finally refused."""
    refusal: HostKeyMismatch | None = None
    while True:
        try:
            return await _open(reactor, target, verifier, deadline)
        except HostKeyMismatch as error:
            refusal = error
        except SshError as error:
            if refusal is None:
                raise
            raise verifier.mismatch(not_compared=str(error)) from error
        if not verifier.try_next_type():
            raise refusal


async def _open(
    reactor: IReactor, target: SshTarget, verifier: IHostKeyVerifier, deadline: _Deadline
) -> SshTransport:
    """Open one connection and exchange keys on it."""
    timeout_s = deadline.timeout_s
    # The endpoint's own limit, in whole seconds, must not come before the deadline.
    endpoint = HostnameEndpoint(reactor, target.address, target.port, timeout=int(timeout_s) + 2)
    transport = SshTransport(str(target), verifier, reactor)
    try:
        await deadline.limit(_cancellable(connectProtocol(endpoint, transport)))
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


class SshConnection:
    """A connection to a host on which the user is logged in.

    Attributes:
        target: where it leads.
        judgement: the host's key and why it was accepted.
        authenticated_by: ``publickey``, ``password``, ``keyboard-interactive``; or ``none``
            where the host asked for no proof at all.
    """

    def __init__(
        self,
        reactor: IReactor,
        transport: SshTransport,
        service: ConnectionService,
        target: SshTarget,
        credentials: SshCredentials,
        judgement: HostKeyJudgement,
        authenticated_by: str,
    ) -> None:
        self.target = target
        self.judgement = judgement
        self.authenticated_by = authenticated_by
        self._reactor = reactor
        self._transport = transport
        self._service = service
        self._sudo_password = credentials.for_sudo

    async def run(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        as_root: bool = False,
        timeout_s: float = 60.0,
        check: bool = True,
        max_output: int = MAX_OUTPUT,
    ) -> CommandResult:
        """Run a command in the user's shell on the host and wait for its end.

        Cancelling it, or its deadline, asks the host to end the command.

        Args:
            command: a shell command; never put a secret there, other users of the host see it.
            stdin: its standard input; None is an empty one.
            as_root: run it as root, by sudo where the user is not root.
            timeout_s: the limit for all of it.
            check: raise where the exit status is not 0.
            max_output: the most that it may write.

        Raises:
            SshCommandFailed: it did not end in time, or, with check, not with exit status 0.
            SudoRefused: the user may not become root.
            SshConnectionLost: the connection ended before the command did.
        """
        source = None if stdin is None else io.BytesIO(stdin)
        channel = self._channel(command, as_root, source, max_output=max_output)
        result = await self._outcome(channel, timeout_s)
        return self._checked(command, result) if check else result

    async def send(
        self,
        command: str,
        source: BinaryIO,
        size: int,
        *,
        as_root: bool = False,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float = 600.0,
    ) -> CommandResult:
        """Run a command and stream a file to its standard input, in constant memory.

        Args:
            command: a shell command, such as ``cat > FILE``.
            source: is read as the host takes it.
            size: how many octets it has.
            as_root: as for `run`.
            progress: called with how many octets were sent, and with the size.
            timeout_s: the limit for all of it.

        Raises:
            SshCommandFailed: as for `run`, or the command ended before all was sent.
            SudoRefused, SshConnectionLost: as for `run`.
        """
        report = None if progress is None else lambda sent: progress(sent, size)
        channel = self._channel(command, as_root, source, size=size, progress=report)
        result = self._checked(command, await self._outcome(channel, timeout_s))
        if channel.sent < size:
            raise SshCommandFailed(
                f"{_quoted(command)} on {self.target} ended after {channel.sent} of {size} octets "
                "of its input.",
                result.exit_status,
                readable(result.stderr, 2000),
            )
        return result

    def _channel(
        self,
        command: str,
        as_root: bool,
        source: BinaryIO | None,
        *,
        size: int | None = None,
        max_output: int = MAX_OUTPUT,
        progress: Callable[[int], None] | None = None,
    ) -> CommandChannel:
        dialogue = None
        if as_root and self.target.user != "root":
            dialogue = SudoDialogue(
                command,
                user=self.target.user,
                where=str(self.target),
                password=self._sudo_password,
                mark=secrets.token_hex(16),
            )
        return CommandChannel(
            command if dialogue is None else dialogue.command_line,
            where=str(self.target),
            what=_quoted(command),
            source=source,
            size=size,
            dialogue=dialogue,
            max_output=max_output,
            progress=progress,
        )

    async def _outcome(self, channel: CommandChannel, timeout_s: float) -> CommandResult:
        if self._transport.ended_by is not None:
            raise SshConnectionLost(
                f"No command can run on {self.target} any more: {self._transport.ended_by}"
            )
        self._service.openChannel(channel)
        try:
            return await _Deadline(self._reactor, timeout_s).limit(channel.result)
        except TimeoutError:
            late = channel.timed_out(timeout_s)
            channel.give_up(late)
            raise late from None
        except CancelledError:
            channel.give_up(SshError("The command was cancelled."))
            raise

    def _checked(self, command: str, result: CommandResult) -> CommandResult:
        if result.exit_status == 0:
            return result
        stderr = readable(result.stderr, 2000)
        words = readable(stderr or readable(result.stdout))
        raise SshCommandFailed(
            f"{_quoted(command)} on {self.target} {result.ending}"
            + (f": {words}" if words else "."),
            result.exit_status,
            stderr,
        )

    @property
    def closed(self) -> Deferred[SshError | None]:
        """A new Deferred that fires when the connection is gone, with why it was lost.

        The reason is None where this side closed it.
        """
        return self._transport.when_lost().addCallback(lambda _: self._reason())

    def _reason(self) -> SshError | None:
        reason = self._transport.ended_by
        return None if isinstance(reason, _ClosedHere) else reason

    def close(self) -> Deferred[None]:
        """Say goodbye and close; commands that still run fail.

        Returns:
            A Deferred that fires when nothing of the connection is left in the reactor.
        """
        reason = _ClosedHere(f"The SSH connection to {self.target} was closed.")
        self._transport.disconnect(reason)
        lost = self._transport.when_lost()
        cut = self._reactor.callLater(_CLOSE_TIMEOUT_S, self._transport.end, reason)
        return lost.addBoth(lambda _: cut.cancel() if cut.active() else None)


class _ClosedHere(SshConnectionLost):
    """Marks that it was this side that closed the connection."""


def _quoted(command: str) -> str:
    return f"'{readable(command, 80)}'"
