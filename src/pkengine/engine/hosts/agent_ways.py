"""The ways in which the engine and a host's agent come together, and which one a host has.

A *way* is which end dials, and by which mechanism the two prove who they are.  Where the
engine dials, TLS is end to end, so mutual TLS proves both ends and nothing else would add to
that.  Where the agent dials, a proxy may end TLS, and each mechanism has its use.
"""

from __future__ import annotations

from dataclasses import replace

from pkengine.auth.mechanisms import OWN_MECHANISMS
from pkengine.engine.hosts.dial_in import NOWHERE_TO_DIAL
from pkengine.engine.model import Host, HostConnection, WayChoice
from pkengine.errors import BadRequest

_ENGINE_DIALS, _AGENT_DIALS = HostConnection.ENGINE_DIALS, HostConnection.AGENT_DIALS
_DIALLED_BY = "pin"


class AgentWays:
    """The ways of one engine.

    Args:
        default: for hosts of which nothing else is said.
        is_dialled: it is known where agents reach this engine.

    Raises:
        BadRequest: the default cannot be gone.
    """

    def __init__(self, default: WayChoice, *, is_dialled: bool) -> None:
        self._is_dialled = is_dialled
        self._default = self._completed(default, _ENGINE_DIALS, _DIALLED_BY)

    @property
    def mechanism(self) -> str:
        """How hosts of which nothing else is said, and their engine, prove who they are."""
        return self._default[1]

    def applied(self, host: Host, choice: WayChoice, *, is_new: bool = False) -> Host:
        """Give a host with the way that is chosen for it.

        Args:
            host: what the choice leaves open stays as it is there.
            choice: what a request says.
            is_new: take the engine's default for what the choice leaves open.

        Raises:
            BadRequest: there is no such way, or not at this engine.
        """
        if choice == WayChoice() and not is_new:
            return host
        connection, mechanism = self._default if is_new else (host.connection, host.mechanism)
        connection, mechanism = self._completed(choice, connection, mechanism)
        return replace(host, connection=connection, mechanism=mechanism)

    def _completed(
        self, choice: WayChoice, connection: HostConnection, mechanism: str
    ) -> tuple[HostConnection, str]:
        connection = choice.connection or connection
        if choice.mechanism is not None:
            mechanism = choice.mechanism
        elif connection is _ENGINE_DIALS:
            mechanism = _DIALLED_BY  # there is no other
        check_way(WayChoice(connection=connection, mechanism=mechanism))
        if connection is _AGENT_DIALS and not self._is_dialled:
            raise BadRequest(NOWHERE_TO_DIAL)
        return connection, mechanism


def check_way(choice: WayChoice) -> None:
    """Refuse a choice that contradicts itself.

    Raises:
        BadRequest: there is no such mechanism, or it does not go with the connection.
    """
    mechanism = choice.mechanism
    if mechanism is not None and mechanism not in OWN_MECHANISMS:
        raise BadRequest(
            f"There is no mechanism {mechanism[:40]!r}: expected one of "
            f"{', '.join(OWN_MECHANISMS)}."
        )
    if choice.connection is _ENGINE_DIALS and mechanism not in (None, _DIALLED_BY):
        raise BadRequest(
            f"The mechanism '{mechanism}' needs the connection '{_AGENT_DIALS.value}', and the "
            f"connection is '{_ENGINE_DIALS.value}', where TLS is end to end and "
            f"'{_DIALLED_BY}' proves both ends: choose the other connection, or '{_DIALLED_BY}'."
        )


def connection_of(text: str) -> HostConnection:
    """Read which end dials.

    Raises:
        BadRequest: it is neither.
    """
    try:
        return HostConnection(text)
    except ValueError:
        raise BadRequest(
            f"There is no connection {text[:40]!r}: expected "
            f"{' or '.join(each.value for each in HostConnection)}."
        ) from None


def is_other_way(host: Host, choice: WayChoice) -> bool:
    """Tell whether a request names another way than a host has."""
    return (choice.connection or host.connection) is not host.connection or (
        choice.mechanism or host.mechanism
    ) != host.mechanism
