"""An HTTPS server of the tests' own, and what leads to it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from pkengine.channel.engine_url import parse_engine_url
from pkengine.keys import KeyPair


class Authority:
    """A certificate authority, and certificates of it for 127.0.0.1 or other names.

    Args:
        name: what it is called.
        issuer: who vouches for it; None for itself.
    """

    def __init__(self, name: str = "test authority", issuer: Authority | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = (issuer or self)._sign(
            self._name,
            self._key.public_key(),
            [],
            x509.BasicConstraints(ca=True, path_length=1 if issuer is None else 0),
            valid_days=1,
        )

    def issue(
        self,
        names: Sequence[x509.GeneralName] | bytes,
        *,
        valid_days: int = 1,
        begins: datetime.timedelta | None = None,
    ) -> CertificateOptions:
        """Make a certificate, and what a server needs to show it; negative days are past.

        It begins a day before, unless it is said how far from now.

        Octets for names are those of the extension, however malformed.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        basic = x509.BasicConstraints(ca=False, path_length=None)
        certificate = self._sign(
            name, key.public_key(), names, basic, valid_days=valid_days, begins=begins
        )
        return CertificateOptions(privateKey=key, certificate=certificate)

    def write(self, path: Path) -> None:
        """Write the authority's own certificate."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def revocation_list(self, *revoked: x509.Certificate, valid_days: int = 1) -> bytes:
        """Give its list of the certificates that it takes back, as PEM; negative days are past."""
        now = datetime.datetime.now(datetime.timezone.utc)
        end = now + datetime.timedelta(days=valid_days)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(min(now, end) - datetime.timedelta(days=1))
            .next_update(end)
        )
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName] | bytes,
        basic: x509.BasicConstraints,
        *,
        valid_days: int,
        begins: datetime.timedelta | None = None,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        end = now + datetime.timedelta(days=valid_days)
        begin = min(now, end) - datetime.timedelta(days=1) if begins is None else now + begins
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(basic, critical=True)
        )
        if names:
            extension = (
                x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, names)
                if isinstance(names, bytes)
                else x509.SubjectAlternativeName(names)
            )
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())


class Answering(Protocol):
    """Answers the first octets that come with fixed ones."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer

    def dataReceived(self, data: bytes) -> None:
        if self.answer is None:
            self.transport.loseConnection()
        else:
            self.transport.write(self.answer)


async def serve_https(
    test: TestCase,
    factory: IProtocolFactory,
    key_pair: KeyPair | None = None,
    *,
    options: CertificateOptions | None = None,
) -> int:
    """Serve something over TLS until the test ends; give the port."""
    if key_pair is not None:
        options = CertificateOptions(
            privateKey=key_pair.private_key, certificate=key_pair.certificate
        )
    server = TLSMemoryBIOFactory(options, False, factory)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(server)
    test.addCleanup(port.stopListening)
    return port.getHost().port


def answering(answer: bytes | None) -> Factory:
    """Make the factory of a server that gives one answer, or closes without any."""
    return Factory.forProtocol(lambda: Answering(answer))


def url_of(port: int, path: str = "/pkengine/agent") -> SplitResult:
    """Give the URL of a server of `serve_https`."""
    return parse_engine_url(f"wss://127.0.0.1:{port}{path}")
