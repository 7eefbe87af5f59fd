"""The one exception tree of pkengine.

The text of each error is a sentence for a person: it names the thing, what was expected,
what was found and what to do next.  The same sentence reaches the command line, the REST
fault and the event log, so nothing secret may ever be part of it.
"""

from __future__ import annotations

from collections.abc import Iterable


class PkengineError(Exception):
    """The root of every error that pkengine raises on purpose."""


class CannotListenThere(PkengineError):
    """What was said to listen on is no port and no endpoint."""


# Keys, pins and the files that hold them.


class InvalidKeyText(PkengineError, ValueError):
    """A pin, a fingerprint or a public key is not written in its one text form."""


class InvalidJoinCode(PkengineError, ValueError):
    """What was typed as the code of an invitation cannot be one."""


class KeyFileError(PkengineError):
    """A file that holds a key or a secret is missing, unreadable, broken or too open."""


class TrustFileError(PkengineError):
    """A line of a trust file is malformed; the text says which file and which line."""


# Authentication and the channel.


class AuthenticationError(PkengineError):
    """The other side did not prove who it is.

    The wire shows only that the connection closed: the reason in this error is for the
    local log.
    """


class UnknownMechanism(PkengineError):
    """No mechanism of that name is installed."""


class AuthenticationTimeout(AuthenticationError):
    """The other side did not finish authentication before the deadline."""


class ChannelError(PkengineError):
    """A channel to a peer cannot do what was asked of it."""


class ChannelClosed(ChannelError):
    """The channel closed before, or while, the call was under way."""


class ChannelSuperseded(ChannelClosed):
    """The peer has connected anew, and the newer channel is the one to use."""


class ServerCertificateRefused(ChannelError):
    """An HTTPS server did not show the key, or a certificate for the name, that was expected."""


class InvalidEngineUrl(ChannelError, ValueError):
    """What shall be the URL of an engine is none."""


class BadProxy(ChannelError):
    """What names an HTTP proxy is malformed."""


class ProtocolViolation(ChannelError):
    """The peer sent what the protocol forbids, so the connection was ended."""


class CallTimeout(ChannelError):
    """The peer did not answer a call before its deadline."""


class CallRefused(ChannelError):
    """The peer answered a call with a JSON-RPC error.

    Attributes:
        code: the JSON-RPC error code.
        data: what the peer added, or None.
    """

    def __init__(self, message: str, code: int, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


# SSH.


class SshError(PkengineError):
    """Something went wrong on the way to a host by SSH.

    Attributes:
        jump: the jump host at which it did; empty where it was the host itself.
    """

    jump = ""

    def __str__(self) -> str:
        text = super().__str__()
        return f"At the jump host {self.jump}, on the way: {text}" if self.jump else text


class HostUnreachable(SshError):
    """No SSH server answered at the address in time."""


class HostKeyRefused(SshError):
    """The host showed a key that must not be trusted; no credential was sent."""


class HostKeyMismatch(HostKeyRefused):
    """The host showed another key, of the expected type, than the one expected.

    Attributes:
        found: the keys that it showed, each a line of OpenSSH's form.
    """

    def __init__(self, message: str, found: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.found = tuple(found)


class HostKeyTypeUnavailable(HostKeyRefused):
    """The host has no key of the expected type, so nothing could be compared."""


class HostKeyRevoked(HostKeyRefused):
    """The host's key, or the one that signed its certificate, is marked as revoked."""


class DnsError(SshError):
    """A host's fingerprints could not be looked up in DNS."""


class InvalidResolver(SshError, ValueError):
    """What is named is no DNS resolver whose word can be believed."""


class KnownHostsError(SshError):
    """A line of a ``known_hosts`` file is malformed; the text says which file and which line."""


class SshAuthenticationFailed(SshError):
    """The host refused every credential that was offered, each of them once."""


class InvalidKeyLimits(SshError, ValueError):
    """Options for the engine's line in ``authorized_keys`` are not such as sshd takes."""


class KeyAgentError(SshError):
    """There is no ssh-agent, or it does not do what is asked of it."""


class SshCommandFailed(SshError):
    """A command on the host did not end with exit status 0.

    Attributes:
        exit_status: the exit status, or None where a signal or a lost connection ended it.
        stderr: what the command wrote to standard error, cut to a readable length.
    """

    def __init__(self, message: str, exit_status: int | None = None, stderr: str = "") -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.stderr = stderr


class SudoRefused(SshError):
    """The user may not become root on the host."""


class SudoNotAllowed(SudoRefused):
    """The user may not become root whatever password is given: the host has no sudo for them."""


class SshConnectionLost(SshError):
    """The SSH connection ended while something was under way on it."""


# The agent.


class AgentError(PkengineError):
    """The agent cannot run as it was told to, or refuses what was asked of it."""


class AgentNotRunning(AgentError):
    """No agent answers on its control socket."""


class AgentAccessDenied(AgentError):
    """Only root and the agent's own user may use its control socket and its state."""


# Deployment and the engine.


class DeploymentError(PkengineError):
    """A step of a deployment failed.

    Attributes:
        step: the name of the step.
        reason: why it failed, without that name.
    """

    def __init__(self, step: str, message: str) -> None:
        super().__init__(f"Step '{step}': {message}")
        self.step = step
        self.reason = message


class EngineError(PkengineError):
    """The engine refuses a request."""


class InvalidTrustedProxies(EngineError, ValueError):
    """What shall name the trusted proxies is malformed, or some must be named and none are."""


class BadRequest(EngineError):
    """The request is malformed or incomplete."""


class NotFound(EngineError):
    """There is no such thing."""


class Conflict(EngineError):
    """The request does not fit the state that the thing is in."""


class NotAuthorized(EngineError):
    """Name, password or token are not accepted, or do not allow this."""


class Forbidden(NotAuthorized):
    """It is known who asks, and that user may not do this."""


class TooManyAttempts(EngineError):
    """There were too many wrong logins, or too many at once; nothing was checked.

    Attributes:
        retry_after_s: after how many seconds another attempt is looked at.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BundleError(EngineError):
    """The agent's archive cannot be made from what is installed with the engine."""


class StoreError(EngineError):
    """The database cannot be used."""
