"""The mechanisms that are installed, found as Twisted plugins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from twisted.plugin import IPlugin, getPlugins
from twisted.python.reflect import namedAny
from zope.interface import implementer

from pkengine.errors import UnknownMechanism
from pkengine.interfaces import (
    IAuthenticator,
    IAuthenticatorPlugin,
    ISharedKeyStore,
    ITrustStore,
)
from pkengine.keys.keypair import KeyPair

#: The mechanisms that come with pkengine.
OWN_MECHANISMS = ("pin", "sign", "hmac", "spake2plus")


@implementer(IPlugin, IAuthenticatorPlugin)
class AuthenticatorPlugin:
    """Declares a mechanism; its code is imported when it is chosen.

    Args:
        mechanism: the mechanism's name.
        factory: the full name of what builds the authenticator from a `TrustFolder` and
            the mechanism's own arguments, which are text.
    """

    def __init__(self, mechanism: str, factory: str) -> None:
        self.mechanism = mechanism
        self._factory = factory

    def authenticator(self, folder: object, **arguments: str) -> IAuthenticator:
        """Build the authenticator; see `IAuthenticatorPlugin.authenticator`."""
        return cast(IAuthenticator, namedAny(self._factory)(folder, **arguments))


@dataclass(frozen=True)
class IdentityParts:
    """Who one end is and whom it trusts, from which each mechanism takes what it needs.

    Attributes:
        key_pair: the public key.
        trust: the peers.
        secrets: what is shared with them.
    """

    key_pair: KeyPair
    trust: ITrustStore
    secrets: ISharedKeyStore

    def authenticator(self, mechanism: str) -> IAuthenticator:
        """Build the authenticator of one of pkengine's own mechanisms.

        Raises:
            UnknownMechanism: it is none of them.
        """
        from pkengine.auth.akep2 import HmacAuthenticator
        from pkengine.auth.pake import Spake2PlusAuthenticator
        from pkengine.auth.pin import PinAuthenticator
        from pkengine.auth.sigma import SignAuthenticator

        if mechanism == "pin":
            return PinAuthenticator(self.key_pair, self.trust)
        if mechanism == "sign":
            return SignAuthenticator(self.key_pair, self.trust)
        if mechanism == "hmac":
            return HmacAuthenticator(self.secrets, self.trust)
        if mechanism == "spake2plus":
            return Spake2PlusAuthenticator(self.secrets, self.trust)
        raise UnknownMechanism(
            f"There is no mechanism {mechanism!r}: expected one of {', '.join(OWN_MECHANISMS)}."
        )


def find_mechanism(mechanism: str) -> IAuthenticatorPlugin:
    """Find an installed mechanism.

    Raises:
        UnknownMechanism: there is none of that name.
    """
    found = {plugin.mechanism: plugin for plugin in getPlugins(IAuthenticatorPlugin)}
    try:
        return found[mechanism]
    except KeyError:
        raise UnknownMechanism(
            f"There is no mechanism {mechanism!r}: expected one of {', '.join(sorted(found))}."
        ) from None


def authenticator_from_folder(
    mechanism: str, directory: str, *, identity: str | None = None, **arguments: str
) -> IAuthenticator:
    """Build an authenticator from texts, such as those of an endpoint string.

    Args:
        mechanism: the mechanism's name.
        directory: the trust folder.
        identity: the folder of the key pair, where it is not the trust folder.
        arguments: the mechanism's own.

    Raises:
        UnknownMechanism: there is none of that name.
        KeyFileError: a key or a secret is missing, broken or too open.
        TrustFileError: the list of peers is malformed.
    """
    from pkengine.auth.folder import TrustFolder

    folder = TrustFolder(Path(directory), Path(identity) if identity else None)
    return find_mechanism(mechanism).authenticator(folder, **arguments)
