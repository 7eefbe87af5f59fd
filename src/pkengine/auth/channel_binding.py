"""The channel binding of TLS 1.3 (RFC 9266): a value that only the two ends of it know.

Two ends that see the same value have one TLS connection between them; where a proxy ends
TLS, they see different ones.
"""

from pkengine.errors import AuthenticationError

#: The label of the exporter, which has no context (RFC 9266 §4.2).
BINDING_LABEL = b"EXPORTER-Channel-Binding"

#: Octets of the value.
BINDING_LENGTH = 32

#: What is found out about the path by comparing: no proxy ends TLS, one does, or nobody knows.
DIRECT, PROXIED, UNKNOWN = "direct", "proxied", "unknown"

_REASONS = {
    PROXIED: "TLS ends at a proxy between the two",
    UNKNOWN: "one of the two sees no TLS below, or does not tell what it sees",
}


def require_direct_path(path: str, peer: str) -> None:
    """Refuse a path on which TLS is not known to go from end to end.

    Raises:
        AuthenticationError: it is another one.
    """
    if path != DIRECT:
        raise AuthenticationError(
            f"The TLS path to {peer} is {path}, and a direct one is required: {_REASONS[path]}."
        )
