"""The verbs that an agent answers on its own host only, over the control socket.

Beside these there are ``Keys.list``, ``Keys.add`` and ``Keys.remove`` as engines have them.
"""

from __future__ import annotations

import msgspec

from pkengine.channel.verbs import AcceptedKey, Time

GET_STATUS = "Status.get"


class ListeningAddress(msgspec.Struct, frozen=True, rename="camel"):
    """Where an agent can be reached; a UNIX socket has its path, and no port."""

    address: str
    port: int | None = None

    def __str__(self) -> str:
        if self.port is None:
            return self.address
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


class Connection(msgspec.Struct, frozen=True, rename="camel"):
    """One engine that is connected; ``address`` is where it comes from."""

    name: str
    pin: str
    mechanism: str
    address: str
    since: Time


class DialledStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One engine that the agent dials.

    Attributes:
        state: ``dialling``, ``connected``, or ``waiting`` for the next attempt.
        since: when that state began.
        last_failure: why the last attempt failed or the last connection ended, or empty.
    """

    name: str
    url: str
    mechanism: str
    state: str
    since: Time
    last_failure: str = ""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """``Status.get``: how the agent is doing.

    Attributes:
        pin: the agent's own key.
        uuid: the host's identity, as engines see it.
        bundle: the hash of the installed version, or empty.
        state: the path of the state folder.
        listening: where engines can reach it.
        listens_on_demand: it listens only while an engine is accepted that it does not dial.
        engines: the keys that are accepted now.
        connections: the engines that are connected now, whoever dialled.
        dialled: the engines that the agent dials.
    """

    pin: str
    uuid: str
    version: str
    bundle: str
    pid: int
    started: Time
    state: str
    listening: list[ListeningAddress]
    engines: list[AcceptedKey]
    connections: list[Connection]
    dialled: list[DialledStatus] = []
    listens_on_demand: bool = False
