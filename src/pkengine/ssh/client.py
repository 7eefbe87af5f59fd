"""Connect to a host by SSH: judge its key, log in; or fetch its keys alone."""

from __future__ import annotations

from twisted.internet.defer import TimeoutError

from pkengine.errors import SshConnectionLost
from pkengine.keys import SshPublicKey
from pkengine.ssh.connection import SshConnection
from pkengine.ssh.host_keys import (
    HostKeyCollector,
    HostKeyJudgement,
    HostKeyPolicy,
    HostKeyVerifier,
)
from pkengine.ssh.reach import (
    DEFAULT_PORT,
    Deadline,
    IReactor,
    SshTarget,
    open_transport,
    reach,
)
from pkengine.ssh.session import ConnectionService
from pkengine.ssh.transport import SshTransport
from pkengine.ssh.userauth import LoginService, SshCredentials


async def connect_ssh(
    reactor: IReactor,
    target: SshTarget,
    policy: HostKeyPolicy,
    credentials: SshCredentials,
    *,
    through: SshConnection | None = None,
    timeout_s: float = 20.0,
) -> SshConnection:
    """Connect, judge the host's key, and only then log in.

    Args:
        reactor: gives time and the network.
        target: where to, and as whom.
        policy: what the host's key is compared with.
        credentials: what proves the user.
        through: the connection to a host on the way, as by ``ssh -J``; it carries the octets
            of a connection of which that host can read nothing.  It is closed with the new
            connection; where this fails, that is left to the caller.
        timeout_s: the limit for everything until the login is done.

    Raises:
        HostUnreachable: no SSH server answers, or it shares no algorithm with this side.
        HostKeyMismatch, HostKeyTypeUnavailable, HostKeyRevoked: the key of the host must not
            be trusted; no message of authentication was sent to it.
        SshAuthenticationFailed: no credential was accepted; each was offered once.
        SshConnectionLost: the connection ended, or stalled, during the login.
    """
    deadline = Deadline(reactor, timeout_s)
    return await _connect(
        reactor, target, policy, credentials, deadline, _carrier(through), through
    )


async def connect_again(
    reactor: IReactor,
    connection: SshConnection,
    credentials: SshCredentials,
    *,
    timeout_s: float = 20.0,
) -> SshConnection:
    """Log in to the same host and as the same user by other credentials.

    The host has to show the same key.  The new connection goes the way of the one that there is,
    which has to outlive it.

    Raises:
        SshError: as for `connect_ssh`.
    """
    return await _connect(
        reactor,
        connection.target,
        HostKeyPolicy(given=connection.judgement.key),
        credentials,
        Deadline(reactor, timeout_s),
        _carrier(connection.through),
        None,
    )


async def _connect(
    reactor: IReactor,
    target: SshTarget,
    policy: HostKeyPolicy,
    credentials: SshCredentials,
    deadline: Deadline,
    carrier: ConnectionService | None,
    through: SshConnection | None,
) -> SshConnection:
    verifier = HostKeyVerifier(str(target), policy, name=target.address, now=reactor.seconds)
    transport = await reach(reactor, target, verifier, deadline, carrier)
    service = ConnectionService()
    method, key = await _log_in(transport, target, credentials, service, deadline)
    assert verifier.judgement is not None
    return SshConnection(
        reactor,
        transport,
        service,
        target,
        policy,
        credentials,
        verifier.judgement,
        method,
        key,
        through,
    )


def _carrier(through: SshConnection | None) -> ConnectionService | None:
    """Give what opens channels to the next host."""
    return None if through is None else through.service


async def _log_in(
    transport: SshTransport,
    target: SshTarget,
    credentials: SshCredentials,
    service: ConnectionService,
    deadline: Deadline,
) -> tuple[str, SshPublicKey | None]:
    login = LoginService(target.user, credentials, service)
    try:
        transport.requestService(login)
        return await deadline.limit(login.done), login.accepted_key
    except TimeoutError:
        stalled = SshConnectionLost(
            f"{target} did not send {transport.stage} within {deadline.timeout_s:g} s."
        )
        transport.end(stalled)
        raise stalled from None
    except BaseException:
        if transport.ended_by is None:
            transport.end(SshConnectionLost(f"The login to {target} was given up."))
        raise


async def fetch_host_keys(
    reactor: IReactor,
    address: str,
    port: int = DEFAULT_PORT,
    *,
    through: SshConnection | None = None,
    timeout_s: float = 10.0,
) -> list[SshPublicKey]:
    """Fetch the keys of all types that a host offers, without logging in.

    The host proved that it holds each key; whether it is the right host, it did not.

    Args:
        reactor: gives time and the network.
        address: the host's name or address.
        port: where its sshd listens.
        through: the connection to a host on the way, which is left open; None goes directly.
        timeout_s: the limit for all of it.

    Raises:
        HostUnreachable: no SSH server answers, or it offers no type that is understood.
    """
    deadline = Deadline(reactor, timeout_s)
    target = SshTarget(address, port)
    keys: list[SshPublicKey] = []
    collector = HostKeyCollector()
    wanted: tuple[str, ...] = ()
    while True:
        transport = await open_transport(reactor, target, collector, deadline, _carrier(through))
        transport.end(SshConnectionLost(f"The key of {target} was fetched."))
        await transport.when_lost()
        assert collector.shown is not None
        keys.append(collector.shown)
        wanted = wanted or collector.types
        missing = [t for t in wanted if t not in {key.key_type for key in keys}]
        if not missing:
            return keys
        collector = HostKeyCollector(missing[:1])


async def judge_host_key(
    reactor: IReactor,
    target: SshTarget,
    policy: HostKeyPolicy,
    *,
    through: SshConnection | None = None,
    timeout_s: float = 10.0,
) -> HostKeyJudgement:
    """Judge a host's key as `connect_ssh` does, and go away.

    Raises:
        HostUnreachable, HostKeyRefused: as for `connect_ssh`.
    """
    deadline = Deadline(reactor, timeout_s)
    verifier = HostKeyVerifier(str(target), policy, name=target.address, now=reactor.seconds)
    transport = await reach(reactor, target, verifier, deadline, _carrier(through))
    transport.end(SshConnectionLost(f"The key of {target} was judged."))
    await transport.when_lost()
    assert verifier.judgement is not None
    return verifier.judgement
