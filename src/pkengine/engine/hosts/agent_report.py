"""What an agent says of itself and of its host when a connection to it is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from pkengine.auth.peer import Authenticated
from pkengine.channel.verbs import (
    GET_CAPABILITIES,
    GET_HARDWARE_INFO,
    GET_VERSION,
    AgentVersion,
    Capabilities,
    HardwareInfo,
    Nothing,
)

#: An agent may have to ask the firmware; it has no reason to take longer.
CALL_TIMEOUT_S = 30.0


class AgentChannel(Protocol):
    """What the engine needs of a `pkengine.channel.Channel`."""

    @property
    def authenticated(self) -> Authenticated:
        """Who answered, and how that was proved."""

    @property
    def closed(self) -> Deferred[Any]:
        """Fires when the channel has closed."""

    def call(
        self, method: str, params: Any = None, *, result_type: Any = ..., timeout_s: float = ...
    ) -> Deferred[Any]:
        """Call a verb."""

    def close(self) -> object:
        """End the connection in order."""

    def abort(self) -> object:
        """End the connection now."""


@dataclass(frozen=True, slots=True)
class AgentReport:
    """The answers to the three questions that every new connection begins with."""

    capabilities: Capabilities
    hardware: HardwareInfo
    version: AgentVersion


async def examine(channel: AgentChannel) -> AgentReport:
    """Ask an agent what it and its host are.

    Raises:
        ChannelError: it did not answer, or not sensibly.
    """

    def ask(verb: str, result_type: type) -> Deferred[Any]:
        return channel.call(verb, Nothing(), result_type=result_type, timeout_s=CALL_TIMEOUT_S)

    return AgentReport(
        capabilities=await ask(GET_CAPABILITIES, Capabilities),
        hardware=await ask(GET_HARDWARE_INFO, HardwareInfo),
        version=await ask(GET_VERSION, AgentVersion),
    )
