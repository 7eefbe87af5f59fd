"""How the agent reaches an engine that it dials: by HTTPS, and perhaps through a proxy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pkengine.agent.dialled_engines import NO_PROXY, DialledEngine
from pkengine.auth.mechanisms import IdentityParts
from pkengine.auth.shared_key import MemorySharedKeys, SharedKey
from pkengine.channel import Channel, Verbs, connect_channel
from pkengine.channel.engine_url import engine_endpoint
from pkengine.channel.http_proxy import HttpProxy, proxy_from_environment

#: Together with a whole fleet an agent has to wait for its turn.
_TIMEOUT_S = 60.0


class EngineDialling:
    """Opens channels to engines.

    Args:
        reactor: does the connecting.
        parts: who the agent is, and whom it accepts.
        verbs: what engines may call.
        environment: names the HTTP proxy, where an engine's own settings do not.
    """

    def __init__(
        self,
        reactor: Any,
        parts: IdentityParts,
        verbs: Verbs,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._reactor = reactor
        self._parts = parts
        self._verbs = verbs
        self._environment = environment

    async def connect(
        self, name: str, engine: DialledEngine, secret: SharedKey | None = None
    ) -> Channel:
        """Open a channel to the engine of that name; both ends have proved who they are.

        Args:
            name: what the agent calls the engine.
            engine: how to reach it.
            secret: what to prove in place of what is on disk.

        Raises:
            AuthenticationError: one end did not prove who it is.
            ChannelError: there was no connection, or the settings are malformed.
        """
        url = engine.parsed_url()
        endpoint = engine_endpoint(
            self._reactor,
            # The engine must know the mechanism before the first octet.
            url._replace(path=f"{url.path.rstrip('/')}/{engine.mechanism}"),
            pin=engine.server_pin(),
            proxy=self._proxy(engine, url.hostname or ""),
        )
        parts = self._parts
        if secret is not None:
            parts = replace(parts, secrets=MemorySharedKeys([secret]))
        return await connect_channel(
            self._reactor,
            endpoint,
            parts.authenticator(engine.mechanism),
            expected=name,
            verbs=self._verbs,
            timeout_s=_TIMEOUT_S,
        )

    def _proxy(self, engine: DialledEngine, host: str) -> HttpProxy | None:
        if engine.proxy is None:
            return proxy_from_environment(self._environment, host)
        return None if engine.proxy == NO_PROXY else HttpProxy.parse(engine.proxy)
