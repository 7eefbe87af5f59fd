"""HTTP proxies that pass any octets on, by the method CONNECT (RFC 9110 §9.3.6)."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import h11
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from pkengine.errors import BadProxy, ChannelError
from pkengine.keys import Secret


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """Where a proxy is, and what it wants to know.

    Attributes:
        host, port: where it is.
        credentials: ``user:password`` for it, or None.
    """

    host: str
    port: int
    credentials: Secret | None = None

    @classmethod
    def parse(cls, text: str) -> HttpProxy:
        """Read a URL such as ``http://user:password@proxy.example:3128``.

        Raises:
            BadProxy: it is anything else.  The text is not shown, for the password in it.
        """
        try:
            url = urlsplit(text if "://" in text else f"http://{text}")
            host, port = url.hostname, url.port or 80
        except ValueError:
            raise _malformed() from None
        if url.scheme != "http" or not host:
            raise _malformed()
        credentials = None
        if url.username is not None:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
            credentials = Secret(pair.encode())
        return cls(host, port, credentials)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def proxy_from_environment(environment: Mapping[str, str], host: str) -> HttpProxy | None:
    """Give the proxy that ``https_proxy`` names, unless ``no_proxy`` excepts the host.

    Both names may also be in capitals.  ``no_proxy`` has hosts, domains, addresses and
    networks such as ``192.0.2.0/24``, separated by commas, or ``*``.

    Raises:
        BadProxy: what it names is malformed.
    """
    text = environment.get("https_proxy") or environment.get("HTTPS_PROXY")
    if not text:
        return None
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if any(_is_within(host.lower(), entry.strip().lower()) for entry in excepted.split(",")):
        return None
    return HttpProxy.parse(text)


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """Connects through a proxy.

    Args:
        endpoint: leads to the proxy.
        proxy: for its credentials, and for errors.
        host, port: what the proxy shall connect to.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, proxy: HttpProxy, host: str, port: int
    ) -> None:
        self._endpoint = endpoint
        self._proxy = proxy
        self._target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; whoever calls keeps the deadline.

        The Deferred fails with ChannelError where the proxy refuses, and with the errors of
        the endpoint below.
        """
        tunnel = _Tunnel(self._proxy, self._target, protocolFactory)

        def cancelled(_: Deferred[IProtocol]) -> None:
            tunnel.give_up(ConnectingCancelledError(self._target))
            connecting.cancel()

        result: Deferred[IProtocol] = Deferred(cancelled)
        tunnel.result = result
        connecting = connectProtocol(self._endpoint, tunnel)
        connecting.addErrback(tunnel.failed)
        return result


class _Tunnel(Protocol):
    """One connection: the proxy's answer at first, then octets go on to the protocol above."""

    result: Deferred[IProtocol] | None = None

    def __init__(self, proxy: HttpProxy, target: str, factory: IProtocolFactory) -> None:
        self._proxy = proxy
        self._target = target
        self._factory = factory
        self._http: h11.Connection | None = h11.Connection(h11.CLIENT)
        self._above: IProtocol | None = None

    def connectionMade(self) -> None:
        assert self._http is not None
        headers = [("Host", self._target)]
        if self._proxy.credentials is not None:
            pair = base64.b64encode(self._proxy.credentials.reveal()).decode("ascii")
            headers.append(("Proxy-Authorization", f"Basic {pair}"))
        request = h11.Request(method="CONNECT", target=self._target, headers=headers)
        transport: Any = self.transport
        transport.write(
            (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        )

    def dataReceived(self, data: bytes) -> None:
        if self._above is not None:
            self._above.dataReceived(data)
        elif self._http is not None:
            self._answer(self._http, data)

    def _answer(self, http: h11.Connection, data: bytes) -> None:
        try:
            http.receive_data(data)
            event = http.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = http.next_event()
        except h11.ProtocolError as error:
            self._refuse(f"answered what is not HTTP: {error}.")
            return
        if not isinstance(event, h11.Response):
            return
        if not 200 <= event.status_code < 300:
            self._refuse(f"answered {event.status_code} {_advice(event.status_code)}")
            return
        self._http = None
        self._begin(bytes(http.trailing_data[0]))

    def _begin(self, behind: bytes) -> None:
        transport: Any = self.transport
        address: IAddress = transport.getPeer()
        above = self._factory.buildProtocol(address)
        result, self.result = self.result, None
        assert result is not None, "an attempt that was given up hears no answer"
        if above is None:
            transport.abortConnection()
            result.errback(ConnectionClosed("the application takes no connection"))
            return
        self._above = above
        above.makeConnection(transport)
        if behind:
            above.dataReceived(behind)
        result.callback(above)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._above is not None:
            self._above.connectionLost(reason)
        else:
            error = ChannelError(
                f"The proxy {self._proxy} closed the connection without an answer."
            )
            self.failed(Failure(error))

    def _refuse(self, what: str) -> None:
        self.give_up(ChannelError(f"The proxy {self._proxy}, asked for {self._target}, {what}"))

    def failed(self, failure: Failure) -> None:
        self._http = None
        result, self.result = self.result, None
        if result is not None:
            result.errback(failure)

    def give_up(self, reason: Exception) -> None:
        self.failed(Failure(reason))
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()


def _advice(status: int) -> str:
    return {
        403: "Forbidden: it must be allowed to connect there.",
        407: "Proxy Authentication Required: give user and password in the URL of the proxy.",
    }.get(status, "and connects nobody.")


def _malformed() -> BadProxy:
    return BadProxy(
        "The URL of the HTTP proxy is malformed: expected one such as 'http://proxy.example:3128'."
    )


def _is_within(host: str, entry: str) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        domain = entry.removeprefix("*").removeprefix(".")
        return host == domain or host.endswith(f".{domain}")
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
