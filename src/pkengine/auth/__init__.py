"""The authenticators: how two ends of a connection prove who they are."""

from pkengine.auth.endpoints import AuthenticatedClientEndpoint, AuthenticatedServerEndpoint
from pkengine.auth.peer import Authenticated, Role, TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.trust import (
    FileTrustStore,
    MemoryTrustStore,
    format_trust_line,
    parse_trust_line,
)

__all__ = [
    "Authenticated",
    "AuthenticatedClientEndpoint",
    "AuthenticatedServerEndpoint",
    "FileTrustStore",
    "MemoryTrustStore",
    "PinAuthenticator",
    "Role",
    "TrustedPeer",
    "format_trust_line",
    "parse_trust_line",
]
