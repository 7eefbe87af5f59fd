"""SSHFP records, asked of a real DNS server on the loopback."""

from __future__ import annotations

import hashlib

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.names import dns
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pkengine.errors import DnsError, HostKeyMismatch, InvalidResolver
from pkengine.ssh import HostKeyPolicy
from pkengine.ssh.sshfp import ValidatingResolver, published_fingerprints
from tests.ssh.clock import ClockedReactor
from tests.ssh.server import host_key, public
from tests.ssh.test_client import ClientTestCase

KEY, OTHER = host_key("ssh-ed25519"), host_key("ssh-ed25519", 2)
NAME = "node1.example.org"


def record(key, kind: int = 2, fingerprint: bytes | None = None) -> dns.RRHeader:
    blob = public(key).blob
    digest = hashlib.sha256(blob).digest() if fingerprint is None else fingerprint
    return dns.RRHeader(NAME, dns.SSHFP, payload=dns.Record_SSHFP(4, kind, digest))


class _Server(dns.DNSDatagramProtocol):
    """Answers every query with the same records."""

    def __init__(self, records, **header):
        super().__init__(self, reactor)
        self.records, self.header, self.asked = records, header, []

    def messageReceived(self, message, protocol, address=None):
        self.asked.append((message.queries[0].name.name.decode(), bool(message.authenticData)))
        answer = dns.Message(message.id, answer=1, **self.header)
        answer.queries, answer.answers = message.queries, self.records
        if self.records is not None:
            self.writeMessage(answer, address)


class SshfpTests(TestCase):
    def serve(self, records, *, authenticData=1, **header) -> tuple[_Server, ValidatingResolver]:
        server = _Server(records, authenticData=authenticData, **header)
        port = reactor.listenUDP(0, server, "127.0.0.1")
        self.addCleanup(port.stopListening)
        return server, ValidatingResolver("127.0.0.1", port.getHost().port)

    def look_up(self, resolver, **options):
        return published_fingerprints(options.pop("on", reactor), resolver, NAME, **options)

    async def test_sha256_fingerprints_are_found_once_each(self):
        records = [record(KEY), record(KEY), record(OTHER), record(KEY, 1, bytes(20))]
        server, resolver = self.serve(records)
        found = await self.look_up(resolver)
        self.assertEqual(found, (public(KEY).fingerprint(), public(OTHER).fingerprint()))
        self.assertEqual(server.asked, [(NAME, True)])

    async def test_without_the_word_of_the_resolver_nothing_is_believed(self):
        _, resolver = self.serve([record(KEY)], authenticData=0)
        self.assertEqual(await self.look_up(resolver), ())

    async def test_a_name_without_records_has_no_fingerprints(self):
        for code in (dns.OK, dns.ENAME):
            _, resolver = self.serve([], rCode=code)
            self.assertEqual(await self.look_up(resolver), ())

    async def test_records_of_the_wrong_length_are_left_out(self):
        _, resolver = self.serve([record(KEY, 2, b"short"), record(KEY, 3), record(OTHER)])
        self.assertEqual(await self.look_up(resolver), (public(OTHER).fingerprint(),))

    async def test_a_failure_of_the_resolver_is_told(self):
        for header, words in (({"rCode": dns.ESERVER}, "forged"), ({"trunc": 1}, "than fit")):
            _, resolver = self.serve([record(KEY)], **header)
            error = await self.assertFailure(ensureDeferred(self.look_up(resolver)), DnsError)
            self.assertIn(NAME, str(error))
            self.assertIn(words, str(error))

    async def test_a_resolver_that_does_not_answer_is_left_at_the_deadline(self):
        _, resolver = self.serve(None)
        clock = ClockedReactor()
        looking = ensureDeferred(self.look_up(resolver, on=clock, timeout_s=5))
        clock.advance(5)
        error = await self.assertFailure(looking, DnsError)
        self.assertIn("did not answer within 5 s", str(error))


class ResolverTests(SynchronousTestCase):
    def test_a_resolver_across_the_network_is_not_believed_unless_the_way_is_safe(self):
        error = self.assertRaises(ValueError, ValidatingResolver, "192.0.2.1")
        self.assertIn("192.0.2.1 is not on this machine", str(error))
        ValidatingResolver("192.0.2.1", has_safe_path=True)
        ValidatingResolver("::1")

    def test_it_is_read_with_and_without_a_port(self):
        for text, address, port in (
            ("127.0.0.53", "127.0.0.53", 53),
            ("127.0.0.1:5353", "127.0.0.1", 5353),
            ("::1", "::1", 53),
            ("[::1]:5353", "::1", 5353),
        ):
            read = ValidatingResolver.parse(text)
            self.assertEqual((read.address, read.port), (address, port))
        for text in ("", "localhost", "127.0.0.1:x", "[::1", "192.0.2.1", "[]:53", "1:2"):
            self.assertRaises(InvalidResolver, ValidatingResolver.parse, text)


class PolicyTests(ClientTestCase):
    async def test_a_key_that_dns_names_is_accepted_and_another_refused(self):
        server = self.serve(KEY, host_key("ecdsa-sha2-nistp256"))
        ecdsa = public(host_key("ecdsa-sha2-nistp256"))
        for key in (public(KEY), ecdsa):
            policy = HostKeyPolicy(published=(public(OTHER).fingerprint(), key.fingerprint()))
            connection = await self.connect(server, policy)
            self.assertEqual(connection.judgement.source, "dns")
            self.assertEqual(connection.judgement.key, key)
        policy = HostKeyPolicy(published=(public(OTHER).fingerprint(),))
        text = await self.refused(HostKeyMismatch, self.connect(server, policy))
        self.assertIn(f"expected one of those in DNS, {public(OTHER).fingerprint()}", text)
        self.assertEqual(len(server.passwords), 2)
