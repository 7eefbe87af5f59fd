"""What hosts are told about dialling this engine."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pkengine.channel.engine_url import AUTHORITY, parse_engine_url
from pkengine.keys import Pin

NOWHERE_TO_DIAL = (
    "Agents cannot dial this engine, because it does not know where they reach it: start it "
    "with --agent-url URL."
)


@dataclass(frozen=True, slots=True)
class DialIn:
    """Where agents reach this engine, and how they know its HTTPS server.

    Attributes:
        url: from `parse_engine_url`, as text.
        server: the pin of the server's key, or `AUTHORITY`.
    """

    url: str
    server: str

    @classmethod
    def parse(cls, url: str, server: str | None, *, own: Pin) -> DialIn:
        """Read what an administrator says.

        Args:
            url: where agents reach this engine, perhaps through a proxy.
            server: the pin of the key that is shown there, `AUTHORITY`, or None.
            own: the pin of the engine's own HTTPS key, which stands where `server` is None.

        Raises:
            InvalidEngineUrl, InvalidKeyText: one of them is malformed.
        """
        if server is None:
            server = str(own)
        elif server != AUTHORITY:
            server = str(Pin.parse(server))
        return cls(parse_engine_url(url).geturl(), server)

    def settings(
        self, engine: str, mechanism: str, *, host_id: str = "", share: str | None = None
    ) -> str:
        """Give what ``pkagent init --dial`` reads; nothing in it is secret.

        Args:
            engine: what agents call this engine.
            mechanism: how the agent and the engine prove who they are.
            host_id: what the engine calls the host.
            share: the engine's share of the key that it and the agent agree on, where the
                mechanism takes one; see `KeyAgreement`.
        """
        way = {"url": self.url, "mechanism": mechanism, "server": self.server}
        settings: dict[str, object] = {"name": engine, "engine": way}
        if share is not None:
            settings |= {"hostId": host_id, "share": share}
        return json.dumps(settings)
