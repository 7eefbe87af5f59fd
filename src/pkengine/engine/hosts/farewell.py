"""Ask the agent of a host that is being removed to accept this engine no longer."""

from __future__ import annotations

import contextlib

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkengine.auth.peer import PeerKey
from pkengine.channel.verbs import KEYS_REMOVE, RemoveKey
from pkengine.engine.hosts.access import HostAccess
from pkengine.engine.model import Host
from pkengine.errors import ChannelClosed, PkengineError
from pkengine.keys import Pin
from pkengine.keys.key_id import KeyId

#: Somebody waits for the removal, and the host may be long gone.
TIMEOUT_S = 5.0

_log = Logger()


async def say_goodbye(access: HostAccess, host: Host, own_pin: Pin, clock: IReactorTime) -> str:
    """Ask the agent to drop every key of this engine.

    Returns:
        A sentence on how that went.
    """
    request = Deferred.fromCoroutine(_drop_keys(access, host, own_pin))
    try:
        await request.addTimeout(TIMEOUT_S, clock)
    except (PkengineError, TimeoutError, ConnectError, OSError) as error:
        _log.info(
            "{host} could not be told that it is removed: {error}", host=host.name, error=error
        )
        keys = keys_at_agent(host, own_pin)
        commands = " && ".join(f"pkagent keys remove {key}" for key in keys)
        return (
            "Its agent could not be told, so there the key of this engine stays accepted: if it "
            f"still runs, remove the key there with '{commands}'."
        )
    return "Its agent accepts the key of this engine no longer."


def keys_at_agent(host: Host, own_pin: Pin) -> tuple[PeerKey, ...]:
    """Give the keys by which a host's agent knows this engine: its pin, or what they share."""
    keys = (key.key if isinstance(key.key, KeyId) else own_pin for key in host.keys)
    return tuple(dict.fromkeys(keys))


async def _drop_keys(access: HostAccess, host: Host, own_pin: Pin) -> None:
    channel = await access.connect(host)
    proved = channel.authenticated.peer.key
    last = proved if isinstance(proved, KeyId) else own_pin
    try:
        # The agent closes the connections of a key that it drops: this one, maybe unanswered.
        for key in sorted(keys_at_agent(host, own_pin), key=lambda key: key == last):
            with contextlib.suppress(ChannelClosed):
                request = RemoveKey(pin=str(key), may_be_last=True)
                await channel.call(KEYS_REMOVE, request, timeout_s=TIMEOUT_S)
    finally:
        channel.close()
