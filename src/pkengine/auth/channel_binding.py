"""The channel binding of TLS 1.3 (RFC 9266): a value that only the two ends of it know.

Two ends that see the same value have one TLS connection between them; where a proxy ends
TLS, they see different ones.
"""

#: The label of the exporter, which has no context (RFC 9266 §4.2).
BINDING_LABEL = b"EXPORTER-Channel-Binding"

#: Octets of the value.
BINDING_LENGTH = 32
