"""What is said when a host joins by a code, on the channel that the code has authenticated.

The host asks to be taken in, by `HOST_JOIN`.  Before the engine answers that, it changes the
way by which the two meet, from the code to a lasting one, as for any other change of the way:
`PrepareWay`, ``Engine.try`` and ``Engine.commit``.
"""

from __future__ import annotations

import msgspec

HOST_JOIN = "Host.join"


class JoinRequest(msgspec.Struct, frozen=True, rename="camel"):
    """The parameters of ``Host.join``; the host says it of itself, and proves none of it.

    Attributes:
        name: its host name.
        address: by which it reaches the engine, or empty.
        url: at which it has found the engine.
        version: of its software.
    """

    name: str
    address: str
    url: str
    version: str


class Joined(msgspec.Struct, frozen=True, rename="camel"):
    """The result of ``Host.join``.

    Attributes:
        engine: what the host calls the engine.
        host_name: what the engine calls the host.
        is_approved: it needs no approval.
    """

    engine: str
    host_name: str
    is_approved: bool
