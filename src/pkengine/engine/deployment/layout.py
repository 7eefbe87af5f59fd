"""Where the agent is put on a host."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

#: Below the home of a user without root; where this folder exists, the agent is put there.
OWN_FOLDER = ".local/share/pkagent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The places on a host that a deployment touches.

    Attributes:
        prefix: holds ``versions/<hash>`` and the links ``current`` and ``previous``.
        state: the agent's keys and settings.
        command: where a link to ``pkagent`` is made for people, or None.
        unit_path: where the systemd unit goes if systemd runs, or None for never.
    """

    prefix: str
    state: str
    command: str | None = None
    unit_path: str | None = None

    @classmethod
    def of_user(cls, home: str) -> Layout:
        """Give the places for one user, without root."""
        prefix = posixpath.join(home, OWN_FOLDER)
        return cls(prefix=prefix, state=posixpath.join(prefix, "state"))


#: For a host that is managed as a whole, by root.
SYSTEM_LAYOUT = Layout(
    prefix="/opt/pkagent",
    state="/var/lib/pkagent",
    command="/usr/local/bin/pkagent",
    unit_path="/etc/systemd/system/pkagent.service",
)
