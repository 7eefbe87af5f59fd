"""How a client judges the certificates of an HTTPS server, in memory."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pkengine.channel.server_certificate import AnyServer, CertifiedServer, PinnedServer
from pkengine.errors import ServerCertificateRefused
from pkengine.keys import KeyPair, Pin
from tests.auth.pinned import RawTls
from tests.channel.held import Recorder
from tests.channel.https import Authority

NAME = "engine.example"


class Handshakes(SynchronousTestCase):
    def setUp(self) -> None:
        self.authority = Authority()
        self.trusted = Path(self.mktemp())
        self.authority.write(self.trusted)
        previous = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = str(self.trusted)
        if previous is None:
            self.addCleanup(os.environ.pop, "SSL_CERT_FILE")
        else:
            self.addCleanup(os.environ.__setitem__, "SSL_CERT_FILE", previous)
        self.asked_for: list[bytes | None] = []

    def connect(
        self, judge: AnyServer | CertifiedServer | PinnedServer, context: SSL.Context
    ) -> BaseException | None:
        """Run a handshake; give why the client refuses the server, or None."""
        application, transport, clock = Recorder(), StringTransport(), Clock()
        factory = TLSMemoryBIOFactory(
            judge, True, Factory.forProtocol(lambda: application), clock=clock
        )
        client = factory.buildProtocol(None)
        client.makeConnection(transport)
        server = RawTls(context, is_client=False)
        application.transport.write(b"hello")
        clock.advance(0)
        while octets := transport.value():
            transport.clear()
            if answer := server.feed(octets):
                client.dataReceived(answer)
        client.connectionLost(Failure(ConnectionDone()))
        self.asked_for.append(server.connection.get_servername())
        [reason] = application.lost
        is_refused = isinstance(reason, ServerCertificateRefused)
        self.assertEqual(server.plain, b"" if is_refused else b"hello")
        return reason if is_refused else None

    def test_a_name_is_said_to_the_server_and_must_be_in_its_certificate(self) -> None:
        right = self.authority.issue([x509.DNSName(NAME)]).getContext()
        self.assertIsNone(self.connect(CertifiedServer(NAME), right))
        self.assertEqual(self.asked_for, [NAME.encode()])
        wrong = self.authority.issue([x509.DNSName("other.example")]).getContext()
        self.assertEqual(
            str(self.connect(CertifiedServer(NAME), wrong)),
            f"The certificate of {NAME} is for another name.",
        )

    def test_an_address_is_not_said_to_the_server(self) -> None:
        pair = KeyPair.generate("engine")
        options = CertificateOptions(privateKey=pair.private_key, certificate=pair.certificate)
        for address in ("192.0.2.1", "2001:db8::1"):
            self.assertIsNone(self.connect(PinnedServer(address, pair.pin), options.getContext()))
        self.assertEqual(self.asked_for, [None, None])

    def test_a_certificate_that_cannot_be_read_is_refused(self) -> None:
        not_ascii = b"\x30\x03\x82\x01\xff"  # GeneralNames with a dNSName (RFC 5280 §4.2.1.6)
        refusal = self.connect(CertifiedServer(NAME), self.authority.issue(not_ascii).getContext())
        self.assertIn(f"Judging the certificate of {NAME} failed", str(refusal))

    def trust(self, *lists: bytes) -> None:
        """Trust the authority, and what lists say about revoked certificates."""
        self.authority.write(self.trusted)
        with self.trusted.open("ab") as file:
            file.write(b"".join(lists))

    def test_a_certificate_that_its_authority_has_revoked_is_refused(self) -> None:
        options = self.authority.issue([x509.DNSName(NAME)])
        other = self.authority.issue([x509.DNSName(NAME)])
        self.trust(self.authority.revocation_list(options.certificate))
        self.assertEqual(
            str(self.connect(CertifiedServer(NAME), options.getContext())),
            f"The certificate of {NAME} was revoked.",
        )
        self.assertIsNone(self.connect(CertifiedServer(NAME), other.getContext()))

    def test_an_issuer_that_was_revoked_vouches_for_nobody(self) -> None:
        issuer = Authority("intermediate authority", self.authority)
        context = issuer.issue([x509.DNSName(NAME)]).getContext()
        context.add_extra_chain_cert(X509.from_cryptography(issuer.certificate))
        self.assertIsNone(self.connect(CertifiedServer(NAME), context))
        self.trust(self.authority.revocation_list(issuer.certificate), issuer.revocation_list())
        self.assertEqual(
            str(self.connect(CertifiedServer(NAME), context)),
            f"The issuer's certificate of {NAME} was revoked.",
        )
        self.trust(self.authority.revocation_list(), issuer.revocation_list())
        self.assertIsNone(self.connect(CertifiedServer(NAME), context))

    def test_where_revocation_is_checked_a_list_that_is_missing_or_old_lets_nobody_in(
        self,
    ) -> None:
        context = self.authority.issue([x509.DNSName(NAME)]).getContext()
        self.trust(Authority("somebody else").revocation_list())
        self.assertIn("none of its authority", str(self.connect(CertifiedServer(NAME), context)))
        self.trust(self.authority.revocation_list(valid_days=-1))
        self.assertIn("has expired", str(self.connect(CertifiedServer(NAME), context)))

    def test_without_the_file_the_system_alone_says_who_is_trusted(self) -> None:
        self.trusted.unlink()
        context = self.authority.issue([x509.DNSName(NAME)]).getContext()
        self.assertIn("not trusted here", str(self.connect(CertifiedServer(NAME), context)))

    def test_for_a_pin_the_issuers_behind_a_certificate_do_not_matter(self) -> None:
        unknown = Authority()
        options = unknown.issue([])
        context = options.getContext()
        context.add_extra_chain_cert(X509.from_cryptography(unknown.certificate))
        self.assertIn("not trusted here", str(self.connect(CertifiedServer(NAME), context)))
        right = Pin.of(options.certificate.public_key())
        self.assertIsNone(self.connect(PinnedServer(NAME, right), context))
        issuer = Pin.of(unknown.certificate.public_key())
        self.assertIn(
            f"shows the key {right}", str(self.connect(PinnedServer(NAME, issuer), context))
        )

    def test_where_the_peer_is_proved_above_tls_no_certificate_is_refused(self) -> None:
        expired = self.authority.issue([x509.DNSName("other.example")], valid_days=-1)
        self.assertIsNone(self.connect(AnyServer(NAME), expired.getContext()))
        not_ascii = b"\x30\x03\x82\x01\xff"
        unreadable = self.authority.issue(not_ascii).getContext()
        self.assertIsNone(self.connect(AnyServer(NAME), unreadable))
        self.assertEqual(self.asked_for, [NAME.encode()] * 2)
