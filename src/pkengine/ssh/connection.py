"""A connection to a host on which the user is logged in: run commands, send files, prove keys."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable
from typing import BinaryIO

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from pkengine.errors import (
    HostKeyRefused,
    SshCommandFailed,
    SshConnectionLost,
    SshError,
)
from pkengine.keys import SshPublicKey
from pkengine.ssh.forwarding import ForwardedEndpoint
from pkengine.ssh.host_key_rotation import (
    PROOF,
    HostKeyUpdate,
    first_without_proof,
    proof_request,
    unproven,
)
from pkengine.ssh.host_key_rotation import update as host_key_update
from pkengine.ssh.host_keys import HostKeyJudgement, HostKeyPolicy
from pkengine.ssh.reach import Deadline, IReactor, SshTarget
from pkengine.ssh.session import CommandChannel, CommandResult, ConnectionService
from pkengine.ssh.sudo import SudoDialogue
from pkengine.ssh.transport import SshTransport
from pkengine.ssh.userauth import SshCredentials
from pkengine.ssh.wire import readable

#: The most that a command may write, unless its caller says more.
MAX_OUTPUT = 4 * 1024 * 1024
_CLOSE_TIMEOUT_S = 2.0


class SshConnection:
    """A connection to a host on which the user is logged in.

    Attributes:
        target: where it leads.
        judgement: the host's key and why it was accepted.
        authenticated_by: ``publickey``, ``password``, ``keyboard-interactive``; or ``none``
            where the host asked for no proof at all.
        authenticated_key: the public key that it accepted, where it was by a key.
        through: the connection to the host on the way, or None; it is closed with this one.
    """

    def __init__(
        self,
        reactor: IReactor,
        transport: SshTransport,
        service: ConnectionService,
        target: SshTarget,
        policy: HostKeyPolicy,
        credentials: SshCredentials,
        judgement: HostKeyJudgement,
        authenticated_by: str,
        authenticated_key: SshPublicKey | None = None,
        through: SshConnection | None = None,
    ) -> None:
        self.target = target
        self.judgement = judgement
        self.authenticated_by = authenticated_by
        self.authenticated_key = authenticated_key
        self._reactor = reactor
        self._transport = transport
        self._policy = policy
        self.service = service
        self.through = through
        if through is not None:
            self._transport.when_lost().addCallback(lambda _: through.close())
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
        heard: Callable[[bytes], None] | None = None,
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
            heard: called with each piece of its standard output, as it comes.

        Raises:
            SshCommandFailed: it did not end in time, or, with check, not with exit status 0.
            SudoRefused: the user may not become root.
            SshConnectionLost: the connection ended before the command did.
        """
        source = None if stdin is None else io.BytesIO(stdin)
        channel = self._channel(command, as_root, source, max_output=max_output, heard=heard)
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
        heard: Callable[[bytes], None] | None = None,
        timeout_s: float = 600.0,
    ) -> CommandResult:
        """Run a command and stream a file to its standard input, in constant memory.

        Args:
            command: a shell command, such as ``cat > FILE``.
            source: is read as the host takes it.
            size: how many octets it has.
            as_root: as for `run`.
            progress: called with how many octets were sent, and with the size.
            heard: as for `run`.
            timeout_s: the limit for all of it.

        Raises:
            SshCommandFailed: as for `run`, or the command ended before all was sent.
            SudoRefused, SshConnectionLost: as for `run`.
        """
        report = None if progress is None else lambda sent: progress(sent, size)
        channel = self._channel(command, as_root, source, size=size, progress=report, heard=heard)
        result = self._checked(command, await self._outcome(channel, timeout_s))
        if channel.sent < size:
            raise SshCommandFailed(
                f"{_quoted(command)} on {self.target} ended after {channel.sent} of {size} octets "
                "of its input.",
                result.exit_status,
                readable(result.stderr, 2000),
            )
        return result

    def endpoint(self, address: str, port: int) -> ForwardedEndpoint:
        """Give what connects from the host to an address that it can reach."""
        return ForwardedEndpoint(self.service, address, port)

    async def prove_host_keys(self, *, timeout_s: float = 10.0) -> HostKeyUpdate | None:
        """Learn which keys the host has now; it must prove those that were not known.

        Known are those of the policy and the one of this connection.  With the answer, a
        rotation that the old key proves can be recorded without asking anybody.

        Returns:
            What changed, which may be nothing; None where the host does not tell.

        Raises:
            HostKeyRefused: the host names a key and does not prove that it holds it.
            SshConnectionLost: the connection ended before the answer.
            SshError: the host does not answer in time.
        """
        deadline = Deadline(self._reactor, timeout_s)
        try:
            return await deadline.limit(Deferred.fromCoroutine(self._prove_host_keys()))
        except TimeoutError:
            raise SshError(
                f"{self.target} did not prove its host keys within {timeout_s:g} s."
            ) from None

    async def _prove_host_keys(self) -> HostKeyUpdate | None:
        if self.service.announced_host_keys is None:
            # The announcement comes before all answers, if it comes.
            await self.service.ask(b"keepalive@openssh.com")
        announced = self.service.announced_host_keys
        if announced is None:
            return None
        shown, policy = self.judgement.key, self._policy
        given = (policy.given,) if isinstance(policy.given, SshPublicKey) else ()
        known = tuple(dict.fromkeys((*policy.stored, *given, shown)))
        wanted = unproven(announced, known, policy.revoked)
        if wanted:
            answer = await self.service.ask(PROOF, proof_request(wanted))
            bad = first_without_proof(wanted, answer, self._transport.sessionID or b"")
            if bad is not None:
                raise HostKeyRefused(
                    f"{self.target} says that {bad.key_type} {bad.fingerprint()} is one of its "
                    "SSH host keys too, and does not prove it. The key was not recorded. Check "
                    "the host's sshd, and that nothing is between it and the engine."
                )
        return host_key_update(announced, known, wanted, shown)

    def _channel(
        self,
        command: str,
        as_root: bool,
        source: BinaryIO | None,
        *,
        size: int | None = None,
        max_output: int = MAX_OUTPUT,
        progress: Callable[[int], None] | None = None,
        heard: Callable[[bytes], None] | None = None,
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
            heard=heard,
        )

    async def _outcome(self, channel: CommandChannel, timeout_s: float) -> CommandResult:
        if self._transport.ended_by is not None:
            raise SshConnectionLost(
                f"No command can run on {self.target} any more: {self._transport.ended_by}"
            )
        self.service.openChannel(channel)
        try:
            return await Deadline(self._reactor, timeout_s).limit(channel.result)
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
        lost.addBoth(lambda _: cut.cancel() if cut.active() else None)
        through = self.through
        return lost if through is None else lost.addCallback(lambda _: through.close())


class _ClosedHere(SshConnectionLost):
    """Marks that it was this side that closed the connection."""


def _quoted(command: str) -> str:
    return f"'{readable(command, 80)}'"
