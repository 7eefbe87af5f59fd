"""The life cycle of a host: which statuses there are, and which trigger moves which.

`TRANSITIONS` is the whole machine: what it does not list, cannot happen.  A request that
does not fit is refused with a sentence; a report that does not fit, such as an answer from
a host that was put into maintenance meanwhile, changes nothing.

``python -m pkengine.engine.hosts.lifecycle`` prints the machine as a Mermaid diagram.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import replace

from pkengine.engine.model import Host, HostStatus
from pkengine.errors import Conflict


class Trigger(enum.Enum):
    """What moves a host from one status to another."""

    # What somebody asks for.
    INSTALL = "install"
    APPROVE = "approve"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    REMOVE = "remove"
    # What a host asks for itself.
    REGISTER = "register"
    # What an administrator decides about a host that joined by a code.
    ACCEPTED = "accepted"
    ACCEPTED_INACTIVE = "accepted, not activated"
    # What comes of it.
    INSTALLED = "installed"
    INSTALLED_INACTIVE = "installed, not activated"
    INSTALL_FAILED = "installation failed"
    QUIET = "nothing runs any more"
    # What monitoring sees.
    ANSWERED = "agent answered"
    LOST = "connection lost"
    GRACE_ENDED = "no answer in time"
    UNFIT = "agent cannot serve"
    # What a start of the engine finds.
    ENGINE_STARTED = "engine started"


#: Status of a host that does not exist, or no more.
ABSENT = None

_S, _T = HostStatus, Trigger

TRANSITIONS: dict[tuple[HostStatus | None, Trigger], HostStatus | None] = {
    (ABSENT, _T.INSTALL): _S.INSTALLING,
    (ABSENT, _T.REGISTER): _S.PENDING_APPROVAL,
    (_S.PENDING_APPROVAL, _T.APPROVE): _S.INSTALLING,
    (_S.PENDING_APPROVAL, _T.ACCEPTED): _S.UNASSIGNED,
    (_S.PENDING_APPROVAL, _T.ACCEPTED_INACTIVE): _S.MAINTENANCE,
    (_S.INSTALLING, _T.INSTALLED): _S.INITIALIZING,
    (_S.INSTALLING, _T.INSTALLED_INACTIVE): _S.MAINTENANCE,
    (_S.INSTALLING, _T.INSTALL_FAILED): _S.INSTALL_FAILED,
    (_S.INSTALLING, _T.ENGINE_STARTED): _S.INSTALL_FAILED,  # the engine was interrupted
    #
    (_S.MAINTENANCE, _T.INSTALL): _S.INSTALLING,
    (_S.INSTALL_FAILED, _T.INSTALL): _S.INSTALLING,
    (_S.NON_OPERATIONAL, _T.INSTALL): _S.INSTALLING,
    (_S.NON_RESPONSIVE, _T.INSTALL): _S.INSTALLING,
    #
    (_S.INITIALIZING, _T.ANSWERED): _S.UP,
    (_S.UNASSIGNED, _T.ANSWERED): _S.UP,
    (_S.CONNECTING, _T.ANSWERED): _S.UP,
    (_S.NON_RESPONSIVE, _T.ANSWERED): _S.UP,
    (_S.NON_OPERATIONAL, _T.ANSWERED): _S.UP,
    (_S.INITIALIZING, _T.LOST): _S.CONNECTING,
    (_S.UNASSIGNED, _T.LOST): _S.CONNECTING,
    (_S.UP, _T.LOST): _S.CONNECTING,
    (_S.NON_OPERATIONAL, _T.LOST): _S.CONNECTING,
    (_S.CONNECTING, _T.GRACE_ENDED): _S.NON_RESPONSIVE,
    (_S.INITIALIZING, _T.UNFIT): _S.NON_OPERATIONAL,
    (_S.UNASSIGNED, _T.UNFIT): _S.NON_OPERATIONAL,
    (_S.UP, _T.UNFIT): _S.NON_OPERATIONAL,
    (_S.CONNECTING, _T.UNFIT): _S.NON_OPERATIONAL,
    (_S.NON_RESPONSIVE, _T.UNFIT): _S.NON_OPERATIONAL,
    #
    (_S.INITIALIZING, _T.DEACTIVATE): _S.PREPARING_FOR_MAINTENANCE,
    (_S.UNASSIGNED, _T.DEACTIVATE): _S.PREPARING_FOR_MAINTENANCE,
    (_S.UP, _T.DEACTIVATE): _S.PREPARING_FOR_MAINTENANCE,
    (_S.CONNECTING, _T.DEACTIVATE): _S.PREPARING_FOR_MAINTENANCE,
    (_S.NON_RESPONSIVE, _T.DEACTIVATE): _S.PREPARING_FOR_MAINTENANCE,
    (_S.NON_OPERATIONAL, _T.DEACTIVATE): _S.PREPARING_FOR_MAINTENANCE,
    (_S.INSTALL_FAILED, _T.DEACTIVATE): _S.PREPARING_FOR_MAINTENANCE,
    (_S.PREPARING_FOR_MAINTENANCE, _T.QUIET): _S.MAINTENANCE,
    (_S.PREPARING_FOR_MAINTENANCE, _T.ENGINE_STARTED): _S.MAINTENANCE,
    (_S.MAINTENANCE, _T.ACTIVATE): _S.UNASSIGNED,
    (_S.NON_OPERATIONAL, _T.ACTIVATE): _S.UNASSIGNED,
    (_S.NON_RESPONSIVE, _T.ACTIVATE): _S.UNASSIGNED,
    #
    (_S.INITIALIZING, _T.ENGINE_STARTED): _S.UNASSIGNED,
    (_S.UP, _T.ENGINE_STARTED): _S.UNASSIGNED,
    (_S.CONNECTING, _T.ENGINE_STARTED): _S.UNASSIGNED,
    #
    (_S.MAINTENANCE, _T.REMOVE): ABSENT,
    (_S.INSTALL_FAILED, _T.REMOVE): ABSENT,
    (_S.PENDING_APPROVAL, _T.REMOVE): ABSENT,
    (_S.NON_RESPONSIVE, _T.REMOVE): ABSENT,
    (_S.NON_OPERATIONAL, _T.REMOVE): ABSENT,
    (_S.UNASSIGNED, _T.REMOVE): ABSENT,
}

#: In these statuses the engine keeps, or tries to make, a connection to the agent.
MONITORED = frozenset(
    (
        _S.INITIALIZING,
        _S.UNASSIGNED,
        _S.UP,
        _S.CONNECTING,
        _S.NON_RESPONSIVE,
        _S.NON_OPERATIONAL,
    )
)

_UNTRUSTED = (_S.INSTALLING, _S.INSTALL_FAILED, _S.PENDING_APPROVAL)
_BUSY = (_S.INSTALLING, _S.PREPARING_FOR_MAINTENANCE)


def permits(status: HostStatus, trigger: Trigger) -> bool:
    """Tell whether the machine has that transition."""
    return (status, trigger) in TRANSITIONS


def advance(host: Host, trigger: Trigger, *, detail: str = "") -> Host:
    """Give the host in its next status, with `detail` for the reason.

    A host that is being installed, or whose installation failed, has no trusted key.

    Raises:
        Conflict: a host in this status cannot do that.
    """
    require(host, trigger)
    status = TRANSITIONS[host.status, trigger]
    if status is ABSENT:
        raise ValueError("A host that is removed has no next status.")
    if status in _UNTRUSTED:
        host = replace(host, keys=(), next_way=None)
    return replace(host, status=status, status_detail=detail)


def require(host: Host, trigger: Trigger) -> None:
    """Refuse what a host in this status cannot do.

    Raises:
        Conflict: with a sentence that says what to do first.
    """
    if not permits(host.status, trigger):
        raise Conflict(_refusal(host, trigger))
    if trigger is Trigger.ACTIVATE and not host.keys:
        raise Conflict(
            f"Cannot activate Host {host.name}. No key of its agent is trusted: install it first."
        )


def _refusal(host: Host, trigger: Trigger) -> str:
    verb = {
        _T.INSTALL: "install",
        _T.APPROVE: "approve",
        _T.ACCEPTED: "approve",
        _T.ACCEPTED_INACTIVE: "approve",
        _T.ACTIVATE: "activate",
        _T.DEACTIVATE: "switch to Maintenance mode",
        _T.REMOVE: "remove",
    }.get(trigger, f"go on after '{trigger.value}' with")
    start = f"Cannot {verb} Host {host.name}."
    if host.status in _BUSY:
        return f"{start} Its status is '{host.status.value}': wait until that is over."
    if trigger is _T.ACTIVATE and host.status in MONITORED:
        return f"{start} It is already active: its status is '{host.status.value}'."
    if trigger is _T.DEACTIVATE and host.status is _S.MAINTENANCE:
        return f"{start} Host is already in Maintenance mode."
    if trigger in (_T.APPROVE, _T.ACCEPTED, _T.ACCEPTED_INACTIVE):
        return f"{start} Its status is '{host.status.value}': it does not wait for approval."
    if host.status is _S.PENDING_APPROVAL:
        return f"{start} It waits for approval: approve it first."
    if trigger is _T.ACTIVATE:
        return f"{start} Its status is '{host.status.value}': install it first."
    return (
        f"{start} Its status is '{host.status.value}': "
        "please switch Host to Maintenance mode first."
    )


def mermaid() -> str:
    """Draw the machine as a Mermaid state diagram, for the documentation."""
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in _edges())]) + "\n"


def _edges() -> Iterator[str]:
    for (before, trigger), after in TRANSITIONS.items():
        source = before.value if before else "[*]"
        target = after.value if after else "[*]"
        yield f"{source} --> {target}: {trigger.value}"


if __name__ == "__main__":
    print(mermaid(), end="")
