"""What the agent answers to engines: each verb, bound to this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

import pkengine
from pkengine.agent.accepted_keys import AcceptedKeys
from pkengine.agent.capabilities import read_capabilities
from pkengine.agent.hardware import read_hardware
from pkengine.agent.own_upgrade import OwnUpgrade
from pkengine.agent.state import StateFolder
from pkengine.agent.statistics import Statistics
from pkengine.agent.way_changes import WayChanges
from pkengine.channel import Channel, Verbs
from pkengine.channel.verbs import (
    ENGINE_CANCEL,
    ENGINE_COMMIT,
    ENGINE_PREPARE,
    ENGINE_TRY,
    GET_CAPABILITIES,
    GET_HARDWARE_INFO,
    GET_STATS,
    GET_VERSION,
    KEYS_ADD,
    KEYS_LIST,
    KEYS_REMOVE,
    PING,
    UPGRADE_BEGIN,
    UPGRADE_CHECK,
    UPGRADE_CONFIRM,
    UPGRADE_SEND,
    UPGRADE_START,
    UPGRADE_STATUS,
    AcceptedKey,
    AddKey,
    AgentVersion,
    BeginUpgrade,
    Capabilities,
    ConfirmUpgrade,
    HardwareInfo,
    HostStats,
    Nothing,
    PrepareWay,
    RemoveKey,
    SendPiece,
    StartUpgrade,
)

T = TypeVar("T")


class Host:
    """The machine and the agent on it, as far as engines may ask about them.

    Args:
        reactor: gives the time and the threads.
        state: the agent's state folder.
        bundle: the hash of the installed version, or empty.

    Attributes:
        uuid: the host's own identity.

    Raises:
        KeyFileError: the host's UUID cannot be read or kept.
    """

    def __init__(self, reactor: Any, state: StateFolder, bundle: str) -> None:
        self._reactor = reactor
        self._bundle = bundle
        self._started = reactor.seconds()
        self._statistics = Statistics(state.directory, reactor)
        self.uuid = state.host_uuid()

    def capabilities(self) -> Deferred[Capabilities]:
        """Look at what the machine is made of, in a thread."""
        return self._in_thread(lambda: read_capabilities(self.uuid))

    def hardware(self) -> Deferred[HardwareInfo]:
        """Ask the firmware, which may be slow, in a thread."""
        return self._in_thread(read_hardware)

    def statistics(self, caller: object) -> HostStats:
        """Tell how busy the machine has been since this caller asked last."""
        return self._statistics.read(caller)

    def version(self) -> AgentVersion:
        """Tell which software runs, and since when."""
        return AgentVersion(
            version=pkengine.__version__,
            python_version=platform.python_version(),
            bundle=self._bundle,
            started=self._started,
            pid=os.getpid(),
        )

    def _in_thread(self, read: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), read)


def answer_engines(
    verbs: Verbs, host: Host, keys: AcceptedKeys, ways: WayChanges, upgrade: OwnUpgrade
) -> None:
    """Answer the verbs that an engine may call."""

    def add_key(request: AddKey, channel: Channel) -> AcceptedKey:
        return keys.add(request, by=channel.peer_name)

    def remove_key(request: RemoveKey, channel: Channel) -> AcceptedKey:
        return keys.remove(request, by=channel.peer_name, may_be_last=request.may_be_last)

    verbs.add(PING, Nothing, lambda _, __: None)
    verbs.add(GET_CAPABILITIES, Nothing, lambda _, __: host.capabilities())
    verbs.add(GET_STATS, Nothing, lambda _, channel: host.statistics(channel))
    verbs.add(GET_HARDWARE_INFO, Nothing, lambda _, __: host.hardware())
    verbs.add(GET_VERSION, Nothing, lambda _, __: host.version())
    verbs.add(KEYS_LIST, Nothing, lambda _, __: keys.list())
    verbs.add(KEYS_ADD, AddKey, add_key)
    verbs.add(KEYS_REMOVE, RemoveKey, remove_key)
    verbs.add(ENGINE_PREPARE, PrepareWay, ways.prepare)
    verbs.add(ENGINE_TRY, Nothing, lambda _, channel: ways.attempt(channel))
    verbs.add(ENGINE_COMMIT, Nothing, lambda _, channel: ways.commit(channel))
    verbs.add(ENGINE_CANCEL, Nothing, lambda _, channel: ways.cancel(channel))
    verbs.add(UPGRADE_BEGIN, BeginUpgrade, upgrade.begin)
    verbs.add(UPGRADE_SEND, SendPiece, upgrade.send)
    verbs.add(UPGRADE_CHECK, Nothing, lambda _, channel: upgrade.check(channel))
    verbs.add(UPGRADE_START, StartUpgrade, upgrade.start)
    verbs.add(UPGRADE_CONFIRM, ConfirmUpgrade, upgrade.confirm)
    verbs.add(UPGRADE_STATUS, Nothing, lambda _, __: upgrade.status())
