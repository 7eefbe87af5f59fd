"""What the demo plays on: an engine, and a proxy in front of it where one is wanted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkengine.cli.demo.engine_process import EngineProcess
from pkengine.cli.demo.proxy import ProxyProcess, free_port
from pkengine.cli.login import Login, resolve_login
from pkengine.keys import KeyPair, Pin


@dataclass(frozen=True, slots=True)
class Setting:
    """What the demo is to show.

    Attributes:
        mechanism: how agent and engine prove who they are; the agent dials the engine then.
            None: the engine dials the agent, by pin.
        behind: the proxy that ends TLS between them, or None.
        is_joining: the host joins by a code, without SSH.
    """

    mechanism: str | None = None
    behind: str | None = None
    is_joining: bool = False

    @property
    def is_dialling_in(self) -> bool:
        """Whether the agent dials the engine."""
        return self.is_joining or self.mechanism is not None or self.behind is not None


class Stage:
    """The engine and the proxy, in processes of their own.

    Args:
        reactor: runs them.
        folder: an empty one, for all that they write.
        setting: what the demo is to show.

    Attributes:
        engine: the engine.
        proxy: the proxy, or None.
        mechanism: how agent and engine prove who they are.
        agent_url: where agents reach the engine, or empty where they need not.
    """

    def __init__(self, reactor: Any, folder: Path, setting: Setting) -> None:
        self.setting = setting
        self.mechanism = setting.mechanism or "pin"
        self.engine = EngineProcess(reactor, folder, os.environ)
        self.proxy: ProxyProcess | None = None
        if setting.behind is not None:
            self.proxy = ProxyProcess(reactor, setting.behind, folder / "proxy", os.environ)
        self.agent_url = ""

    async def start(self) -> None:
        """Start them, and wait until they listen.

        Raises:
            EngineError: one of them does not start.
        """
        if not self.setting.is_dialling_in:
            await self.engine.start()
            return
        port = free_port()
        outside = port if self.proxy is None else self.proxy.port
        self.agent_url = f"wss://localhost:{outside}/pkengine/agent"
        arguments = ["--agent-url", self.agent_url, "--connection", "agent-dials"]
        arguments += ["--mechanism", self.mechanism]
        if self.proxy is not None:
            arguments += ["--agent-server", str(self.proxy.pin)]
            if self.proxy.is_forwarding:
                arguments += ["--trusted-proxies", "127.0.0.1"]
        await self.engine.start(port, arguments)
        if self.proxy is not None:
            await self.proxy.start(port, self.engine.state / "https.crt")

    async def stop(self) -> None:
        """End them."""
        if self.proxy is not None:
            await self.proxy.stop()
        await self.engine.stop()

    def login(self) -> Login:
        """Give the way into the engine's API as its administrator."""
        return resolve_login(
            url=None,
            user=None,
            password_file=None,
            ca_file=None,
            state=str(self.engine.state),
            environ={},
            ask_password=None,
        )

    def server_pin(self) -> Pin:
        """Give what the server is known by that agents reach."""
        if self.proxy is not None:
            return self.proxy.pin
        return KeyPair.load(self.engine.state, "https").pin

    def engine_key(self) -> KeyPair:
        """Give what agents know the engine by."""
        return KeyPair.load(self.engine.state, "engine")
