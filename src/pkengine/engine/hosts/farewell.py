"""Ask the agent of a host that is being removed to accept this engine no longer."""

from __future__ import annotations

import contextlib

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.channel.verbs import KEYS_REMOVE, RemoveKey
from pkengine.engine.hosts.access import HostAccess
from pkengine.engine.model import Host
from pkengine.errors import ChannelClosed, PkengineError
from pkengine.keys import Pin

#: Somebody waits for the removal, and the host may be long gone.
TIMEOUT_S = 5.0

_log = Logger()


async def say_goodbye(access: HostAccess, host: Host, own_pin: Pin, clock: IReactorTime) -> str:
    """Ask the agent to drop the key of this engine.

    Returns:
        A sentence on how that went.
    """
    request = Deferred.fromCoroutine(_drop_key(access, host, own_pin))
    try:
        await request.addTimeout(TIMEOUT_S, clock)
    except (PkengineError, TimeoutError, ConnectError, OSError) as error:
        _log.info(
            "{host} could not be told that it is removed: {error}", host=host.name, error=error
        )
        return (
            "Its agent could not be told, so there the key of this engine stays accepted: if it "
            f"still runs, remove the key there with 'pkagent keys remove {own_pin}'."
        )
    return "Its agent accepts the key of this engine no longer."


async def _drop_key(access: HostAccess, host: Host, own_pin: Pin) -> None:
    channel = await access.connect(host)
    try:
        # The agent closes the connections of a key that it drops: this one, maybe unanswered.
        with contextlib.suppress(ChannelClosed):
            request = RemoveKey(pin=str(own_pin), may_be_last=True)
            await channel.call(KEYS_REMOVE, request, timeout_s=TIMEOUT_S)
    finally:
        channel.close()
