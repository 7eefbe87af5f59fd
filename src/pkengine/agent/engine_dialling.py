"""How the agent reaches an engine that it dials: by HTTPS, and perhaps through a proxy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from pkengine.agent.dialled_engines import NO_PROXY, DialledEngine
from pkengine.channel import Channel, Verbs, connect_channel
from pkengine.channel.engine_url import engine_endpoint
from pkengine.channel.http_proxy import HttpProxy, proxy_from_environment
from pkengine.interfaces import IAuthenticator


class EngineDialling:
    """Opens channels to engines.

    Args:
        reactor: does the connecting.
        authenticators: gives the authenticator of a mechanism.
        verbs: what engines may call.
        environment: names the HTTP proxy, where an engine's own settings do not.
    """

    def __init__(
        self,
        reactor: Any,
        authenticators: Callable[[str], IAuthenticator],
        verbs: Verbs,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._reactor = reactor
        self._authenticators = authenticators
        self._verbs = verbs
        self._environment = environment

    async def connect(self, name: str, engine: DialledEngine) -> Channel:
        """Open a channel to the engine of that name; both ends have proved who they are.

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
        authenticator = self._authenticators(engine.mechanism)
        return await connect_channel(
            self._reactor, endpoint, authenticator, expected=name, verbs=self._verbs
        )

    def _proxy(self, engine: DialledEngine, host: str) -> HttpProxy | None:
        if engine.proxy is None:
            return proxy_from_environment(self._environment, host)
        return None if engine.proxy == NO_PROXY else HttpProxy.parse(engine.proxy)
