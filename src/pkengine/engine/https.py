"""The HTTPS listener: where it is bound, what TLS it speaks, by which URL it is called."""

from __future__ import annotations

from typing import Any

from OpenSSL.crypto import X509, PKey
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
)
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from pkengine.engine.paced_connections import PacedConnections
from pkengine.engine.proxy_protocol import ProxiedConnections
from pkengine.engine.state import local_names
from pkengine.engine.trusted_proxies import TrustedProxies
from pkengine.errors import EngineError, InvalidTrustedProxies
from pkengine.keys import KeyPair
from pkengine.listening import listening_endpoint

#: The prefix, which Twisted's endpoints have as well, that asks for the PROXY protocol.
_PROXIED = "haproxy:"

_WILDCARDS = ("0.0.0.0", "::")


def listen_https(
    reactor: Any,
    where: str,
    key_pair: KeyPair,
    factory: IProtocolFactory,
    *,
    trusted_proxies: TrustedProxies = TrustedProxies(),  # noqa: B008 - it is immutable
) -> IListeningPort:
    """Listen now, before the reactor runs; what arrives waits until it does.

    Args:
        reactor: does the listening.
        where: a port on all addresses, or an endpoint of Twisted, which gets TLS on top
            unless it is an ``ssl:`` one with a certificate of its own.  With ``haproxy:`` in
            front each connection must begin with a header of the PROXY protocol.
        key_pair: the certificate to show.
        factory: speaks HTTP.
        trusted_proxies: who may send such a header.

    Raises:
        CannotListenThere: `where` is malformed.
        InvalidTrustedProxies: headers are asked for, and nobody may send them.
        EngineError: it cannot be listened on.
    """
    is_proxied = where.startswith(_PROXIED)
    endpoint = listening_endpoint(reactor, where.removeprefix(_PROXIED), example=8443)
    if not where.removeprefix(_PROXIED).startswith("ssl:"):
        options = CertificateOptions(
            privateKey=PKey.from_cryptography_key(key_pair.private_key),
            certificate=X509.from_cryptography(key_pair.certificate),
            acceptableProtocols=[b"http/1.1"],
        )
        factory = TLSMemoryBIOFactory(options, False, factory, reactor)
    factory = PacedConnections(factory, reactor)
    if is_proxied:
        if not trusted_proxies:
            raise InvalidTrustedProxies(
                f"Cannot listen on {where}: whoever connects there says who it is. Name the "
                "proxies that are believed with --trusted-proxies."
            )
        factory = ProxiedConnections(factory, trusted_proxies, reactor)
    outcome: list[IListeningPort | Failure] = []
    listening = endpoint.listen(factory)
    listening.addBoth(outcome.append)
    if not outcome:
        listening.cancel()
        raise EngineError(f"Cannot listen on {where}: this endpoint needs time to begin.")
    if isinstance(outcome[0], Failure):
        error = outcome[0].value
        cause = getattr(error, "socketError", error)
        reason = getattr(cause, "strerror", None) or str(cause)
        raise EngineError(
            f"Cannot listen for HTTPS on {where}: {reason}. Choose another port with --https, "
            "or stop what listens there."
        ) from error
    return outcome[0]


def origin_of(address: IAddress) -> str:
    """Give the URL by which this machine itself calls what listens on an address."""
    if not isinstance(address, (IPv4Address, IPv6Address)):
        return f"https://{local_names()[0]}"
    if address.host in _WILDCARDS:
        host = "localhost"
    else:
        host = f"[{address.host}]" if isinstance(address, IPv6Address) else address.host
    return f"https://{host}:{address.port}"
