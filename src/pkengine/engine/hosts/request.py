"""Judge requests about hosts before anything is done for them."""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from pkengine.engine.model import (
    DEFAULT_SSH_PORT,
    DEFAULT_SSH_USER,
    Host,
    HostChange,
    HostKeySource,
    HostSsh,
    HostStatus,
    JumpHost,
    JumpLogin,
    NewHost,
    SshAuthenticationMethod,
    SshLogin,
)
from pkengine.errors import BadRequest, Conflict
from pkengine.ssh import HostKeyJudgement, HostKeyPolicy

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_USER = re.compile(r"[^\s:/\x00-\x1f\x7f-][^\s:/\x00-\x1f\x7f]{0,254}")
_JUMP = re.compile(r"(?:([^@]+)@)?(\[[0-9A-Fa-f:.]+\]|[^@:\[\]]+)(?::([0-9]{1,5}))?")
MAX_TEXT = 10_000
#: Each machine on the way costs a login, and time.
MOST_JUMPS = 4

#: In these statuses nothing runs that would notice a new SSH or agent port.
_PORTS_CHANGE_IN = (
    HostStatus.NON_RESPONSIVE,
    HostStatus.MAINTENANCE,
    HostStatus.DOWN,
    HostStatus.UNASSIGNED,
    HostStatus.INSTALL_FAILED,
    HostStatus.PENDING_APPROVAL,
)


def new_host(new: NewHost, default_cluster: uuid.UUID) -> Host:
    """Give the host that a request describes.

    Raises:
        BadRequest: something is missing or malformed.
    """
    missing = [name for name in ("name", "address") if not getattr(new, name)]
    if missing:
        raise BadRequest(f"Host [{', '.join(missing)}] required for add.")
    host = Host(
        id=uuid.uuid4(),
        name=new.name,
        address=new.address,
        cluster_id=new.cluster_id or default_cluster,
        status=HostStatus.INSTALLING,
        port=new.port,
        comment=new.comment,
        description=new.description,
        require_direct=new.require_direct,
    )
    return checked(replace(host, ssh=with_login(host.ssh, new.ssh)))


def changed_host(host: Host, change: HostChange) -> Host:
    """Give the host as a request wants it to be.

    Raises:
        BadRequest: something is malformed.
        Conflict: the host's status does not allow one of the changes.
    """
    if any(jump.fingerprint or jump.public_key for jump in change.ssh.jumps or ()):
        raise BadRequest(
            "The key of a jump host is given with a request that logs in, such as to install: an "
            "update does not go there."
        )
    new = checked(
        replace(
            host,
            name=_or(change.name, host.name),
            address=_or(change.address, host.address),
            port=_or(change.port, host.port),
            comment=_or(change.comment, host.comment),
            description=_or(change.description, host.description),
            cluster_id=_or(change.cluster_id, host.cluster_id),
            require_direct=_or(change.require_direct, host.require_direct),
            ssh=with_login(host.ssh, change.ssh),
        )
    )
    _restrict(host, "address", host.address, new.address, (HostStatus.INSTALL_FAILED,))
    _restrict(host, "port", host.port, new.port, _PORTS_CHANGE_IN)
    _restrict(host, "ssh.port", host.ssh.port, new.ssh.port, _PORTS_CHANGE_IN)
    _restrict(
        host,
        "cluster",
        host.cluster_id,
        new.cluster_id,
        (HostStatus.MAINTENANCE, HostStatus.INSTALL_FAILED),
    )
    return replace(
        new, reinstallation_required=host.reinstallation_required or new.port != host.port
    )


def differences(old: Host, new: Host) -> list[str]:
    """Say what is different, for the audit."""
    pairs = (
        ("name", old.name, new.name),
        ("address", old.address, new.address),
        ("port", old.port, new.port),
        ("SSH port", old.ssh.port, new.ssh.port),
        ("SSH user", old.ssh.user, new.ssh.user),
        ("SSH fingerprint", old.ssh.fingerprint, new.ssh.fingerprint),
        ("SSH host key", old.ssh.public_key, new.ssh.public_key),
        ("jump hosts", _joined(old.ssh.jumps), _joined(new.ssh.jumps)),
        ("cluster", old.cluster_id, new.cluster_id),
        ("require direct", old.require_direct, new.require_direct),
    )
    found = [
        f"{what} {before or 'none'} became {after or 'none'}"
        for what, before, after in pairs
        if before != after
    ]
    if (old.comment, old.description) != (new.comment, new.description):
        found.append("another comment or description")
    return found


def _joined(jumps: tuple[JumpHost, ...]) -> str:
    return ",".join(map(str, jumps))


def checked(host: Host) -> Host:
    """Give the host with its address in one form.

    Raises:
        BadRequest: something is malformed.
    """
    name(host.name)
    for what, port in (("port", host.port), ("SSH port", host.ssh.port)):
        if not 1 <= port <= 65535:
            raise BadRequest(f"The {what} {port} is out of range: expected 1 to 65535.")
    if not _USER.fullmatch(host.ssh.user):
        raise BadRequest(f"The SSH user name {host.ssh.user!r} is malformed.")
    for what, text in (("comment", host.comment), ("description", host.description)):
        if len(text) > MAX_TEXT:
            raise BadRequest(f"The {what} is too long: expected at most {MAX_TEXT} characters.")
    ssh = replace(host.ssh, jumps=_checked_jumps(host.ssh.jumps))
    return replace(host, address=address(host.address), ssh=ssh)


def name(text: str) -> str:
    """Give what may name a host.

    Raises:
        BadRequest: it is malformed.
    """
    if not _NAME.fullmatch(text):
        raise BadRequest(
            f"The Host name {text[:255]!r} is malformed: expected 1 to 255 of the letters "
            "A to Z, digits, '.', '_' and '-'."
        )
    return text


def shown_name(name: str) -> str:
    """Give a name as a text may show it, whatever somebody sent as one."""
    return name if _NAME.fullmatch(name) else repr(name[:255])


def address(text: str) -> str:
    """Give an IP address or a DNS name in the one form by which hosts are compared.

    Raises:
        BadRequest: it is neither.
    """
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        name = text.removesuffix(".").lower()
        if len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split(".")):
            return name
    raise BadRequest(f"The address {text!r} is neither a DNS name nor an IP address.")


def with_login(ssh: HostSsh, login: SshLogin) -> HostSsh:
    """Give the SSH settings with what a request says about them.

    A fingerprint or a key that is not that of the stored key displaces the stored key.

    Raises:
        BadRequest: fingerprint and key contradict each other.
    """
    ssh = replace(
        ssh,
        port=_or(login.port, ssh.port),
        user=_or(login.user, ssh.user),
        jumps=ssh.jumps if login.jumps is None else tuple(jump.host for jump in login.jumps),
    )
    key = login.public_key if login.public_key != ssh.public_key else None
    fingerprint = login.fingerprint if login.fingerprint != ssh.fingerprint else None
    if key is not None:
        if fingerprint is not None and not fingerprint.matches(key):
            raise BadRequest(
                f"The SSH fingerprint {fingerprint} is not that of the SSH public key given with "
                f"it, which is {key.fingerprint(fingerprint.algorithm)}: give the right one only."
            )
        return replace(
            ssh,
            public_key=key,
            fingerprint=key.fingerprint(),
            key_source=HostKeySource.GIVEN_KEY,
            proved_keys=(),
        )
    if fingerprint is None:
        return ssh
    if ssh.public_key is not None and fingerprint.matches(ssh.public_key):
        return replace(ssh, fingerprint=fingerprint)
    return replace(ssh, fingerprint=fingerprint, public_key=None, key_source=None, proved_keys=())


def way(ssh: HostSsh, login: SshLogin) -> tuple[JumpLogin, ...]:
    """Give the machines on the way to a host, with what a request says about them."""
    if login.jumps is not None:
        return checked_way(login.jumps)
    return tuple(JumpLogin(host=jump) for jump in ssh.jumps)


def checked_way(jumps: Sequence[JumpLogin]) -> tuple[JumpLogin, ...]:
    """Give the machines on a way with their addresses in one form.

    Raises:
        BadRequest: something is malformed.
    """
    hosts = _checked_jumps(tuple(jump.host for jump in jumps))
    for jump in jumps:
        if jump.public_key and jump.fingerprint and not jump.fingerprint.matches(jump.public_key):
            raise BadRequest(
                f"The SSH fingerprint {jump.fingerprint} is not that of the public key given for "
                f"the jump host {jump.host}: give the right one only."
            )
    return tuple(replace(jump, host=host) for jump, host in zip(jumps, hosts, strict=True))


def jump_hosts(text: str) -> tuple[JumpHost, ...]:
    """Read a way as OpenSSH's ``ProxyJump`` has it: ``[USER@]HOST[:PORT]``, with commas.

    Returns:
        Nothing where the text is ``none``, which is the direct way.

    Raises:
        BadRequest: it is malformed.
    """
    if text.strip().lower() == "none":
        return ()
    return _checked_jumps(tuple(_jump_host(part.strip()) for part in text.split(",")))


def _jump_host(text: str) -> JumpHost:
    match = _JUMP.fullmatch(text)
    if match is None:
        raise BadRequest(
            f"The jump host {text!r} is malformed: expected [USER@]HOST[:PORT], with an IPv6 "
            "address in brackets."
        )
    user, address, port = match.groups()
    return JumpHost(address, int(port or DEFAULT_SSH_PORT), user or DEFAULT_SSH_USER)


def _checked_jumps(jumps: tuple[JumpHost, ...]) -> tuple[JumpHost, ...]:
    if len(jumps) > MOST_JUMPS:
        raise BadRequest(
            f"There are {len(jumps)} jump hosts on the way: expected at most {MOST_JUMPS}."
        )
    for jump in jumps:
        if not 1 <= jump.port <= 65535:
            raise BadRequest(f"The jump port {jump.port} is out of range: expected 1 to 65535.")
        if not _USER.fullmatch(jump.user):
            raise BadRequest(f"The user name {jump.user!r} at a jump host is malformed.")
    return tuple(replace(jump, address=address(jump.address)) for jump in jumps)


def knows_ssh(host: Host) -> bool:
    """Tell whether a host may be logged in to: it was not one that joined by a code."""
    return not host.keys or host.ssh.public_key is not None or host.ssh.fingerprint is not None


def require_ssh(host: Host) -> None:
    """Refuse to log in to a host that joined by a code, unless its SSH key is known or given.

    Its address is what it said itself: whoever answers there may be anybody.

    Raises:
        Conflict: nothing is known of its SSH server.
    """
    if not knows_ssh(host):
        raise Conflict(
            f"Host {host.name} joined by a code, and nothing is known of its SSH server: do it on "
            "the host itself, or install the host with the fingerprint of its SSH key."
        )


def host_key_policy(ssh: HostSsh) -> HostKeyPolicy:
    """Tell what a host's key is to be compared with: what was given, else what is stored."""
    if ssh.public_key is None:
        return HostKeyPolicy(given=ssh.fingerprint)
    if ssh.key_source is HostKeySource.GIVEN_KEY:
        return HostKeyPolicy(given=ssh.public_key)
    return HostKeyPolicy(stored=(ssh.public_key, *ssh.proved_keys))


def judged(ssh: HostSsh, judgement: HostKeyJudgement) -> HostSsh:
    """Give the SSH settings with the key that was accepted.

    How the key first came to be trusted is kept when it is only met again.
    """
    if judgement.key in ssh.proved_keys:
        return replace(
            ssh,
            public_key=judgement.key,
            fingerprint=judgement.key.fingerprint(),
            key_source=HostKeySource.PROVED,
            proved_keys=tuple(key for key in ssh.proved_keys if key != judgement.key),
        )
    if judgement.key == ssh.public_key and ssh.key_source is not None:
        return ssh
    given = ssh.fingerprint
    return replace(
        ssh,
        public_key=judgement.key,
        fingerprint=given
        if given and given.matches(judgement.key)
        else judgement.key.fingerprint(),
        key_source=source_of(judgement.source),
        proved_keys=(),
    )


def source_of(source: str) -> HostKeySource:
    """Tell how a key that was just judged came to be trusted, by a host that has none stored."""
    return HostKeySource.KNOWN_HOSTS if source == "stored" else HostKeySource(source)


def uses_key(login: SshLogin) -> bool:
    """Tell whether to log in by the engine's own key: where asked to, or no password is given.

    Raises:
        BadRequest: a password is needed and missing.
    """
    if login.authentication_method is SshAuthenticationMethod.PASSWORD and not login.password:
        raise BadRequest(
            "SSH authentication by password was asked for, but no password was given."
        )
    if login.authentication_method is not None:
        return login.authentication_method is SshAuthenticationMethod.PUBLIC_KEY
    return not login.password


def _restrict(
    host: Host, what: str, old: object, new: object, statuses: tuple[HostStatus, ...]
) -> None:
    if old != new and host.status not in statuses:
        names = ", ".join(f"'{status.value}'" for status in statuses)
        raise Conflict(
            f"Cannot edit Host {host.name}. Its {what} can be changed only in the status "
            f"{names}; it is '{host.status.value}'."
        )


def _or(given: T | None, stored: T) -> T:
    return stored if given is None else given
