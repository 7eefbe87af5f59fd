"""The URL at which an engine takes agents, and the endpoint that leads there."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, urlsplit

from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)

from pkengine.channel.http_proxy import HttpProxy, TunnelEndpoint
from pkengine.channel.server_certificate import AnyServer, CertifiedServer, PinnedServer
from pkengine.channel.websocket_client import WebSocketClientEndpoint
from pkengine.errors import InvalidEngineUrl
from pkengine.keys.pin import Pin

#: Where an engine takes agents when its URL has no path.
AGENT_PATH = "/pkengine/agent"

#: Where it takes hosts that join by a code, if its `AGENT_PATH` is where it usually is.
JOIN_PATH = f"{AGENT_PATH}/join"

#: Stands for a pin where the HTTPS server's certificate comes from a certificate authority.
AUTHORITY = "authority"

_HTTPS_PORT = 443


def parse_engine_url(text: str) -> SplitResult:
    """Read a URL such as ``wss://engine.example/pkengine/agent``.

    ``https`` is taken for ``wss``, and a missing path for `AGENT_PATH`.

    Raises:
        InvalidEngineUrl: it is anything else.
    """
    try:
        url = urlsplit(text.strip())
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if (
        not host
        or port == 0
        or url.scheme not in ("wss", "https")
        or url.username is not None
        or url.fragment
        or not text.isascii()
        or any(character.isspace() for character in text.strip())
    ):
        raise InvalidEngineUrl(
            f"{text!r} is not the URL of an engine: expected one such as "
            "'wss://engine.example:8443/pkengine/agent'."
        )
    path = url.path if url.path not in ("", "/") else AGENT_PATH
    return url._replace(scheme="wss", path=path)


def engine_endpoint(
    reactor: Any, url: SplitResult, *, pin: Pin | None, proxy: HttpProxy | None = None
) -> IStreamClientEndpoint:
    """Make the endpoint that leads to an engine by HTTPS.

    Args:
        reactor: does the connecting.
        url: from `parse_engine_url`.
        pin: of the engine's HTTPS key; None where a certificate authority vouches for it.
        proxy: what to connect through, or None.
    """
    host = url.hostname or ""
    server = CertifiedServer(host) if pin is None else PinnedServer(host, pin)
    return _endpoint(reactor, url, server, proxy)


def joining_endpoint(
    reactor: Any, url: SplitResult, *, proxy: HttpProxy | None = None
) -> IStreamClientEndpoint:
    """Make the endpoint that leads to where an engine takes hosts that know a code.

    Who answers there is not judged by its certificate: the code proves the engine.

    Args:
        reactor: does the connecting.
        url: of where the engine takes agents, from `parse_engine_url`.
        proxy: what to connect through, or None.
    """
    url = url._replace(path=f"{url.path.rstrip('/')}/{JOIN_PATH.rpartition('/')[2]}")
    return _endpoint(reactor, url, AnyServer(url.hostname or ""), proxy)


def _endpoint(
    reactor: Any,
    url: SplitResult,
    server: IOpenSSLClientConnectionCreator,
    proxy: HttpProxy | None,
) -> IStreamClientEndpoint:
    host, port = url.hostname or "", url.port or _HTTPS_PORT
    way: IStreamClientEndpoint
    if proxy is None:
        way = HostnameEndpoint(reactor, host, port)
    else:
        way = TunnelEndpoint(HostnameEndpoint(reactor, proxy.host, proxy.port), proxy, host, port)
    return WebSocketClientEndpoint(reactor, wrapClientTLS(server, way), url)
