r"""Endpoint strings: ``pk:`` puts authentication on any endpoint that has a string.

::

    pk:tcp\:8443:trust=/etc/app/trust
    pk:tcp\:engine.example\:8443:trust=/etc/app/trust:peer=engine-1
    pk:tcp\:8443\:interface\=127.0.0.1:trust=/etc/app/trust:mechanism=hmac

The first part is the endpoint below, with a backslash before each colon and equals sign.
Then:

``trust=DIR``
    the trust folder.
``identity=DIR``
    the folder of the key pair, where it is not the trust folder.
``mechanism=NAME``
    ``pin`` where it is not given.
``peer=NAME``
    for a client: which peer must answer; any trusted one where it is not given.
``timeout=SECONDS``
    how long authentication may take; 10 where it is not given.

More arguments go to the mechanism: ``requireDirect=yes`` for those that pass a proxy,
``postQuantum=no`` for `pin`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ServerParser:
    """Reads the server's form."""

    prefix = "pk"

    def parseStreamServer(  # type: ignore[override]  # the arguments of the string, by name
        self,
        reactor: Any,
        endpoint: str,
        *,
        trust: str,
        identity: str | None = None,
        mechanism: str = "pin",
        timeout: str = "10",
        **arguments: str,
    ) -> IStreamServerEndpoint:
        """Build the endpoint.

        Raises:
            PkengineError: the folder, the mechanism or a key cannot be used.
        """
        from twisted.internet.endpoints import serverFromString

        from pkengine.auth.endpoints import AuthenticatedServerEndpoint
        from pkengine.auth.mechanisms import authenticator_from_folder

        return AuthenticatedServerEndpoint(
            reactor,
            serverFromString(reactor, endpoint),
            authenticator_from_folder(mechanism, trust, identity=identity, **arguments),
            timeout_s=float(timeout),
        )


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class ClientParser:
    """Reads the client's form."""

    prefix = "pk"

    def parseStreamClient(  # type: ignore[override]  # the arguments of the string, by name
        self,
        reactor: Any,
        endpoint: str,
        *,
        trust: str,
        identity: str | None = None,
        mechanism: str = "pin",
        peer: str | None = None,
        timeout: str = "10",
        **arguments: str,
    ) -> IStreamClientEndpoint:
        """Build the endpoint.

        Raises:
            PkengineError: the folder, the mechanism or a key cannot be used.
        """
        from twisted.internet.endpoints import clientFromString

        from pkengine.auth.endpoints import AuthenticatedClientEndpoint
        from pkengine.auth.mechanisms import authenticator_from_folder

        return AuthenticatedClientEndpoint(
            reactor,
            clientFromString(reactor, endpoint),
            authenticator_from_folder(mechanism, trust, identity=identity, **arguments),
            peer,
            timeout_s=float(timeout),
        )
