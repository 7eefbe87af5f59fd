"""How a client knows an HTTPS server: by the pin of its key, or by a certificate authority.

Or not at all, where neither is known yet and something within the connection proves the
peer.  Which of these it is, somebody has decided; none stands in for another.  All judge in
OpenSSL's verify callback, so that a server that is refused never finishes the handshake.
"""

from __future__ import annotations

import abc
import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import Certificate
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from pkengine.errors import ServerCertificateRefused
from pkengine.keys.pin import Pin

#: OpenSSL's X509_V_ERR_… as parts of sentences; see X509_STORE_CTX_get_error(3).
_UNTRUSTED = "comes from a certificate authority that is not trusted here: see SSL_CERT_FILE"
_FINDINGS = {
    3: "cannot be checked: SSL_CERT_FILE has lists of revoked certificates, and none of its "
    "authority is among them",
    7: _UNTRUSTED,  # an authority of the same name is
    9: "is not valid yet: compare the clocks of both machines",
    10: "has expired",
    12: "cannot be checked: the list of revoked certificates in SSL_CERT_FILE has expired",
    18: "is self-signed: pin its key, or have a certificate authority sign it",
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: "comes without the certificate of its issuer: the server must send the whole chain",
    23: "was revoked",
}


class _Server(abc.ABC):
    """What both ways have in common.

    Args:
        host: the server's name or address.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._is_address = isIPAddress(host) or isIPv6Address(host)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        # A resumed session would not be judged again.
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_verify(SSL.VERIFY_PEER, self._verify)
        self._context = context

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tlsProtocol)
        if not self._is_address:  # RFC 6066 §3 knows names only
            connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection

    def _verify(
        self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int
    ) -> bool:
        """Judge one certificate of the chain; an exception would not end the handshake."""
        try:
            refusal = self._refusal(certificate.to_cryptography(), error, depth, bool(ok))
        except Exception as failure:
            refusal = f"Judging the certificate of {self._host} failed: {failure!r}."
        if refusal is None:
            return True
        protocol: TLSMemoryBIOProtocol = connection.get_app_data()
        protocol.failVerification(Failure(ServerCertificateRefused(refusal)))
        return False

    @abc.abstractmethod
    def _refusal(self, certificate: Certificate, error: int, depth: int, ok: bool) -> str | None:
        """Say what is wrong with a certificate, or give None."""


@implementer(IOpenSSLClientConnectionCreator)
class AnyServer(_Server):
    """Takes whatever server answers: for what proves within the connection who it is."""

    def _refusal(self, certificate: Certificate, error: int, depth: int, ok: bool) -> str | None:
        return None


@implementer(IOpenSSLClientConnectionCreator)
class PinnedServer(_Server):
    """Knows a server by the pin of its key; name, issuer and validity do not matter.

    Args:
        host: the server's name or address, for SNI and for errors.
        pin: of the key that its certificate must have, of whatever type.
    """

    def __init__(self, host: str, pin: Pin) -> None:
        super().__init__(host)
        self._pin = pin

    def _refusal(self, certificate: Certificate, error: int, depth: int, ok: bool) -> str | None:
        if depth != 0:
            return None  # what stands behind the server's own certificate says nothing
        key = certificate.public_key()
        found = Pin.of_spki(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        if found == self._pin:
            return None
        return (
            f"{self._host} shows the key {found}, expected {self._pin}: a proxy ends TLS in "
            "between, the engine's HTTPS key was changed, or somebody pretends to be it."
        )


@implementer(IOpenSSLClientConnectionCreator)
class CertifiedServer(_Server):
    """Knows a server by a certificate for its name or address, from a trusted authority.

    Trusted are those of the system, or of the file that the environment variable
    ``SSL_CERT_FILE`` names.  Where that file also has lists of revoked certificates (RFC 5280
    §5, as PEM), each authority of a chain must have one that is valid, and is believed.

    Args:
        host: the server's name or address.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self._context.set_default_verify_paths()
        if _has_revocation_lists():
            flags = X509StoreFlags.CRL_CHECK | X509StoreFlags.CRL_CHECK_ALL
            store = self._context.get_cert_store()
            assert store is not None, "a new context has one"
            store.set_flags(flags)
        ascii_name = host if self._is_address else host.encode("idna").decode("ascii")
        self._identity = IPAddress_ID(host) if self._is_address else DNS_ID(ascii_name)

    def _refusal(self, certificate: Certificate, error: int, depth: int, ok: bool) -> str | None:
        if not ok:
            finding = _FINDINGS.get(error, f"is refused by OpenSSL (error {error})")
            which = "certificate" if depth == 0 else "issuer's certificate"
            return f"The {which} of {self._host} {finding}."
        if depth != 0:
            return None
        try:
            verify_service_identity(extract_patterns(certificate), [self._identity], [])
        except (VerificationError, CertificateError):
            return f"The certificate of {self._host} is for another name."
        return None


def _has_revocation_lists() -> bool:
    """Tell whether the file of trusted authorities also says what was revoked."""
    try:
        trusted = Path(os.environ.get("SSL_CERT_FILE", "")).read_bytes()
    except OSError:
        return False  # then nobody is trusted who is not known to the system
    return b"-----BEGIN X509 CRL-----" in trusted
