"""The ``pin`` mechanism without IO: the handshake, *ready*, and what attackers try."""

from __future__ import annotations

import datetime
import re
import warnings
from dataclasses import replace
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth import MemoryTrustStore, PinAuthenticator, TrustedPeer
from pkengine.auth.peer import Role
from pkengine.auth.ready import Ready
from pkengine.auth.tls import TlsSession
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IAuthenticator, IExchange, IProtection
from pkengine.keys import KeyPair, Pin
from tests.auth.pinned import (
    AGENT,
    ED25519,
    ENGINE,
    STRANGER,
    Ends,
    RawTls,
    ends,
    hostile_context,
    octets,
    pinned_context,
    run,
)


def certify(
    key: Any, issuer_key: Any = None, *, subject: str = "agent", issuer: str = "", ca: bool = False
) -> x509.Certificate:
    """Make a certificate that a test needs to be different."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer or subject))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2020, 1, 2))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key or key, hashes.SHA256())
    )


class BothEndsAgree(SynchronousTestCase):
    def test_both_ends_learn_who_the_other_is(self) -> None:
        both = ends()
        initiator, acceptor = both.dial()
        run(initiator, acceptor)
        for exchange, name, pin in (
            (initiator, "agent", AGENT.pin),
            (acceptor, "engine", ENGINE.pin),
        ):
            self.assertEqual(exchange.outcome.peer, TrustedPeer(name, pin))
            self.assertEqual(exchange.outcome.mechanism, "pin")
            self.assertIsNone(exchange.outcome.session_key)

    def test_the_parts_provide_their_interfaces(self) -> None:
        both = ends()
        initiator, acceptor = both.dial()
        self.assertTrue(IAuthenticator.providedBy(both.engine))
        self.assertTrue(IExchange.providedBy(initiator))
        run(initiator, acceptor)
        self.assertTrue(IProtection.providedBy(initiator.protection()))

    def test_both_ends_see_the_same_facts_and_the_same_channel_binding(self) -> None:
        initiator, acceptor = ends().dial()
        run(initiator, acceptor)
        facts = initiator.outcome.facts
        self.assertEqual(facts, acceptor.outcome.facts)
        self.assertEqual(facts["tls_version"], "TLSv1.3")
        self.assertTrue(facts["tls_group"])
        self.assertEqual(facts["cipher"], "TLS_AES_128_GCM_SHA256")
        self.assertEqual(len(bytes.fromhex(facts["channel_binding"])), 32)

    def paths(self, below_initiator: bytes, below_acceptor: bytes, both: Ends) -> set[str]:
        """Give what the two ends find out about the TLS connection below them."""
        initiator = both.engine.initiator("agent", below_initiator)
        acceptor = both.agent.acceptor(below_acceptor)
        run(initiator, acceptor)
        return {each.outcome.facts["tls_path"] for each in (initiator, acceptor)}

    def test_both_ends_learn_whether_a_proxy_ends_the_tls_below(self) -> None:
        one, other = b"1" * 32, b"2" * 32
        self.assertEqual(self.paths(one, one, ends()), {"direct"})
        self.assertEqual(self.paths(b"", b"", ends()), {"direct"})
        for below in ((one, other), (one, b""), (b"", other)):
            self.assertEqual(self.paths(*below, ends()), {"proxied"})

    def test_an_end_that_does_not_compare_leaves_the_path_unknown(self) -> None:
        self.patch(SSL.Connection, "set_alpn_protos", lambda *_: None)
        self.assertEqual(self.paths(b"1" * 32, b"1" * 32, ends()), {"unknown"})

    def test_a_client_that_offers_other_application_protocols_alone_leaves_it_unknown(
        self,
    ) -> None:
        offer = SSL.Connection.set_alpn_protos
        self.patch(SSL.Connection, "set_alpn_protos", lambda each, _: offer(each, [b"h2"]))
        self.assertEqual(self.paths(b"1" * 32, b"1" * 32, ends()), {"unknown"})
        with self.assertRaisesRegex(AuthenticationError, "is unknown, .* does not tell"):
            self.paths(b"1" * 32, b"1" * 32, ends(require_direct=True))

    def test_where_a_direct_path_is_required_no_other_is_accepted(self) -> None:
        one, other = b"1" * 32, b"2" * 32
        strict = ends(require_direct=True)
        self.assertEqual(self.paths(one, one, strict), {"direct"})
        for below in ((one, other), (one, b"")):
            with self.assertRaisesRegex(AuthenticationError, "is proxied, .* TLS ends at a proxy"):
                self.paths(*below, strict)
        engine_alone = replace(strict, agent=ends().agent)
        with self.assertRaisesRegex(AuthenticationError, "is proxied, and a direct one"):
            self.paths(one, other, engine_alone)

    def test_a_proxy_that_changes_what_is_said_of_the_path_breaks_the_handshake(self) -> None:
        both = ends()
        initiator = both.engine.initiator("agent", b"1" * 32)
        acceptor = both.agent.acceptor(b"2" * 32)  # as if behind a proxy
        hello = initiator.start()
        acceptor.start()
        name = sha256(b"1" * 32).hexdigest()[:32].encode()
        forged = sha256(b"2" * 32).hexdigest()[:32].encode()
        self.assertIn(name, hello)
        answer = acceptor.receive(hello.replace(name, forged))
        with self.assertRaises(AuthenticationError):
            initiator.receive(answer)

    def test_each_connection_has_a_channel_binding_of_its_own(self) -> None:
        bindings = set()
        for _ in range(2):
            initiator, acceptor = ends().dial()
            run(initiator, acceptor)
            bindings.add(initiator.outcome.facts["channel_binding"])
        self.assertEqual(len(bindings), 2)

    def test_a_post_quantum_key_exchange_is_used_unless_one_end_does_without(self) -> None:
        initiator, acceptor = ends().dial()
        run(initiator, acceptor)
        self.assertNotEqual(initiator.outcome.facts["tls_group"], "secp256r1")
        modern, plain = ends(), ends(post_quantum=False)
        for one, other in ((modern, plain), (plain, modern)):
            initiator, acceptor = one.engine.initiator(), other.agent.acceptor()
            run(initiator, acceptor)
            self.assertEqual(initiator.outcome.facts["tls_group"], "secp256r1")

    def test_kinds_of_keys_may_be_mixed(self) -> None:
        for engine, agent in ((ED25519, AGENT), (ENGINE, ED25519)):
            initiator, acceptor = ends(engine, agent).dial()
            run(initiator, acceptor)
            self.assertEqual(acceptor.outcome.peer.key, engine.pin)

    def test_messages_may_arrive_octet_by_octet(self) -> None:
        initiator, acceptor = ends().dial()
        run(initiator, acceptor, octets)
        self.assertIsNotNone(initiator.outcome)
        self.assertIsNotNone(acceptor.outcome)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 2000))
    def test_messages_may_be_split_anywhere(self, size: int) -> None:
        initiator, acceptor = ends().dial()
        run(
            initiator,
            acceptor,
            lambda data: [data[at : at + size] for at in range(0, len(data), size)],
        )
        self.assertIsNotNone(initiator.outcome)

    def test_an_expired_certificate_does_not_matter_and_its_key_does(self) -> None:
        expired = KeyPair(AGENT.private_key, certify(AGENT.private_key))
        initiator, acceptor = ends(agent=expired).dial()
        run(initiator, acceptor)
        self.assertEqual(initiator.outcome.peer.name, "agent")


class OpenStream(SynchronousTestCase):
    def setUp(self) -> None:
        initiator, acceptor = ends().dial()
        run(initiator, acceptor)
        self.engine, self.agent = initiator.protection(), acceptor.protection()
        self.assertEqual((self.engine.open(b""), self.agent.open(b"")), (b"", b""))

    def test_octets_arrive_as_they_were_sent_in_both_directions(self) -> None:
        for length in (1, 8192, 8193, 100_000):
            data = bytes(range(256)) * (length // 256 + 1)
            self.assertEqual(self.agent.open(self.engine.seal(data)), data)
            self.assertEqual(self.engine.open(self.agent.seal(data)), data)

    def test_octets_arrive_however_the_stream_is_split(self) -> None:
        sealed = self.engine.seal(b"first") + self.engine.seal(b"second")
        self.assertEqual(b"".join(map(self.agent.open, octets(sealed))), b"firstsecond")

    def test_nothing_readable_is_on_the_wire(self) -> None:
        self.assertNotIn(b"password", self.engine.seal(b"password" * 8))

    def test_the_close_of_the_peer_is_proved(self) -> None:
        last = self.engine.seal(b"last") + self.engine.close()
        self.assertFalse(self.agent.is_closed)
        self.assertEqual(self.agent.open(last), b"last")
        self.assertTrue(self.agent.is_closed)
        self.assertEqual(self.agent.open(b"anything"), b"")

    def test_octets_that_the_peer_did_not_send_end_the_stream_with_an_alert(self) -> None:
        sealed = bytearray(self.engine.seal(b"data"))
        sealed[-1] ^= 1
        with self.assertRaisesRegex(AuthenticationError, "TLS ended the connection"):
            self.agent.open(bytes(sealed))
        self.assertTrue(self.agent.pending())
        self.assertEqual(self.agent.close(), b"")

    def test_dropped_repeated_and_reordered_records_end_the_stream(self) -> None:
        for arrange in (lambda a, b: b, lambda a, b: a + a, lambda a, b: b + a):
            self.setUp()
            with self.assertRaises(AuthenticationError):
                self.agent.open(arrange(self.engine.seal(b"one"), self.engine.seal(b"two")))

    def test_octets_may_be_put_back(self) -> None:
        self.agent.unread(b"second ")
        self.agent.unread(b"first ")
        self.assertEqual(self.agent.open(self.engine.seal(b"third")), b"first second third")


class Refusals(SynchronousTestCase):
    """Whom an end refuses, and that nothing of it reaches an application."""

    def assert_refused(
        self, both: Ends, reason: str, *, by_acceptor: bool = True, expected: str | None = "agent"
    ) -> None:
        initiator, acceptor = both.engine.initiator(expected), both.agent.acceptor()
        refuser, other = (acceptor, initiator) if by_acceptor else (initiator, acceptor)
        with self.assertRaisesRegex(AuthenticationError, reason):
            run(initiator, acceptor)
        self.assertIsNone(refuser.outcome)
        self.assertIsNone(other.outcome)
        alert = refuser.pending()
        self.assertTrue(alert, "the other end must be able to tell a refusal from a lost line")
        with self.assertRaises(AuthenticationError):
            other.receive(alert)
        self.assertIsNone(other.outcome)

    def test_a_client_with_an_unpinned_key_is_refused(self) -> None:
        both = ends()
        both.agent_trust.remove(ENGINE.pin)
        self.assert_refused(both, re.escape(f"The peer's key {ENGINE.pin} is not trusted"))

    def test_a_server_with_an_unpinned_key_is_refused(self) -> None:
        both = ends()
        both.engine_trust.remove(AGENT.pin)
        self.assert_refused(both, re.escape(f"{AGENT.pin} is not trusted"), by_acceptor=False)

    def test_the_initiator_hears_that_its_own_key_is_not_accepted(self) -> None:
        both = ends()
        both.agent_trust.remove(ENGINE.pin)
        initiator, acceptor = both.dial()
        with self.assertRaises(AuthenticationError):
            run(initiator, acceptor)
        with self.assertRaisesRegex(
            AuthenticationError, re.escape(f"does not accept this end's key {ENGINE.pin}")
        ):
            initiator.receive(acceptor.pending())

    def test_another_peer_than_the_expected_is_refused(self) -> None:
        self.assert_refused(
            ends(),
            "The peer is 'agent' .*: expected 'agent-2'",
            by_acceptor=False,
            expected="agent-2",
        )

    def test_a_key_of_one_peer_is_not_accepted_under_the_name_of_another(self) -> None:
        both = ends()
        both.engine_trust.add(TrustedPeer("agent-2", STRANGER.pin))
        both.agent = PinAuthenticator(STRANGER, both.agent_trust)
        self.assert_refused(both, "The peer is 'agent-2'", by_acceptor=False)

    def test_a_host_that_poses_as_an_engine_to_another_host_is_refused(self) -> None:
        both = ends()
        first_host = PinAuthenticator(
            STRANGER, MemoryTrustStore([TrustedPeer("agent", AGENT.pin)])
        )
        both.engine = first_host
        self.assert_refused(both, "is not trusted")

    def test_an_end_that_meets_its_own_key_refuses_it_though_it_is_trusted(self) -> None:
        trust = MemoryTrustStore([TrustedPeer("agent", AGENT.pin), TrustedPeer("me", ENGINE.pin)])
        mirror = PinAuthenticator(ENGINE, trust)
        self.assert_refused(
            Ends(mirror, mirror, trust, trust), "own key", by_acceptor=False, expected=None
        )

    def test_a_peer_whose_record_names_another_mechanism_is_refused(self) -> None:
        both = ends()
        both.agent_trust.add(TrustedPeer("engine", ENGINE.pin, frozenset({"sign"})))
        self.assert_refused(both, "must use the mechanism 'sign': it used 'pin'")

    def test_a_peer_whose_record_names_pin_beside_another_mechanism_is_accepted(self) -> None:
        both = ends()
        both.agent_trust.add(TrustedPeer("engine", ENGINE.pin, frozenset({"pin", "sign"})))
        run(*both.dial())

    def test_a_peer_whose_trust_has_expired_is_refused(self) -> None:
        both = ends()
        past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
        both.agent_trust.add(TrustedPeer("engine", ENGINE.pin, expires=past))
        self.assert_refused(both, "is not trusted")

    def test_an_old_and_a_new_key_are_accepted_until_the_old_one_is_removed(self) -> None:
        both = ends()
        both.agent_trust.add(TrustedPeer("engine", STRANGER.pin))
        rolled_over = Ends(
            PinAuthenticator(STRANGER, both.engine_trust),
            both.agent,
            both.engine_trust,
            both.agent_trust,
        )
        for each in (both, rolled_over):
            initiator, acceptor = each.dial()
            run(initiator, acceptor)
            self.assertEqual(acceptor.outcome.peer.name, "engine")
        both.agent_trust.remove(ENGINE.pin)
        self.assert_refused(both, "is not trusted")
        initiator, acceptor = rolled_over.dial()
        run(initiator, acceptor)

    def test_an_error_while_judging_refuses_and_names_no_detail(self) -> None:
        class BrokenStore(MemoryTrustStore):
            def lookup(self, key: Any) -> TrustedPeer | None:
                raise RuntimeError("a detail of the store")

        both = ends()
        both.agent = PinAuthenticator(AGENT, BrokenStore())
        self.assert_refused(both, "^Judging the peer's key failed with RuntimeError.$")
        initiator, acceptor = ends().dial()
        run(initiator, acceptor)  # the error is no other connection's

    def test_trust_that_ends_between_handshake_and_ready_refuses_at_both_ends(self) -> None:
        both = ends()
        initiator, acceptor = both.dial()
        flight = acceptor.receive(initiator.start() + acceptor.start())
        finished = initiator.receive(flight)
        ready = acceptor.receive(finished)
        both.engine_trust.remove(AGENT.pin)
        with self.assertRaisesRegex(AuthenticationError, "not trusted"):
            initiator.receive(ready)
        self.assertIsNone(initiator.outcome)


class Exchanges(SynchronousTestCase):
    def test_an_exchange_is_used_once(self) -> None:
        initiator, acceptor = ends().dial()
        run(initiator, acceptor)
        initiator.protection()
        for misuse in (
            acceptor.start,
            initiator.protection,
            lambda: initiator.receive(b""),
            lambda: acceptor.receive(b""),
        ):
            with self.assertRaises(AuthenticationError):
                misuse()
        self.assertEqual(initiator.pending(), b"")

    def test_there_is_nothing_before_the_start_and_no_protection_before_the_end(self) -> None:
        initiator, acceptor = ends().dial()
        with self.assertRaises(AuthenticationError):
            acceptor.receive(b"")
        initiator.start()
        with self.assertRaises(AuthenticationError):
            initiator.protection()

    def test_an_exchange_that_failed_stays_failed(self) -> None:
        _, acceptor = ends().dial()
        acceptor.start()
        for _ in range(2):
            with self.assertRaises(AuthenticationError):
                acceptor.receive(b"GET / HTTP/1.0\r\n\r\n")

    def test_a_close_in_the_middle_of_the_handshake_is_refused(self) -> None:
        for exchange in ends().dial():
            exchange.start()
            with self.assertRaisesRegex(AuthenticationError, "handshake failed"):
                exchange.receive(b"\x15\x03\x03\x00\x02\x01\x00")

    @settings(max_examples=50, deadline=None)
    @given(st.binary(min_size=1, max_size=300))
    def test_any_octets_are_refused_or_waited_on(self, data: bytes) -> None:
        for exchange in ends().dial():
            exchange.start()
            try:
                exchange.receive(data)
            except AuthenticationError as error:
                self.assertTrue(str(error))
            self.assertIsNone(exchange.outcome)

    def test_octets_pipelined_behind_the_handshake_are_kept_in_order(self) -> None:
        both = ends()
        session = TlsSession(pinned_context(ENGINE), Role.INITIATOR, lambda _: None)
        acceptor = both.agent.acceptor()
        acceptor.start()
        session.shake_hands()
        session.shake_hands(acceptor.receive(session.pending()))
        long = b"x" * 20_000
        pipelined = session.pending() + session.seal(b"first ") + session.seal(long)
        acceptor.receive(pipelined)
        protection = acceptor.protection()
        self.assertEqual(protection.open(b""), b"first " + long)
        self.assertEqual(protection.open(session.seal(b" third")), b" third")


class HostileServer(SynchronousTestCase):
    """An initiator is authenticated only by a *ready* that fits."""

    def server(self, key_pair: KeyPair = AGENT) -> tuple[IExchange, RawTls]:
        initiator = ends().engine.initiator("agent")
        raw = RawTls(hostile_context(key_pair), is_client=False)
        reply = raw.feed(initiator.start())
        while reply:
            reply = raw.feed(initiator.receive(reply))
        self.assertTrue(raw.is_done)
        return initiator, raw

    def ready(self, **changes: Any) -> bytes:
        values = {
            "mechanism": "pin",
            "acceptor": str(AGENT.pin),
            "initiator": str(ENGINE.pin),
            "time": datetime.datetime.now(datetime.timezone.utc),
        }
        return Ready(**{**values, **changes}).encode()

    def test_a_finished_handshake_is_no_authentication(self) -> None:
        initiator, _ = self.server()
        self.assertIsNone(initiator.outcome)
        with self.assertRaises(AuthenticationError):
            initiator.protection()

    def test_a_ready_that_fits_authenticates_and_keeps_what_is_behind_it(self) -> None:
        initiator, raw = self.server()
        initiator.receive(raw.send(self.ready() + b"behind"))
        self.assertEqual(initiator.outcome.peer.name, "agent")
        self.assertEqual(initiator.protection().open(b""), b"behind")

    def test_a_ready_that_comes_in_pieces_is_waited_for(self) -> None:
        initiator, raw = self.server()
        for octet in octets(self.ready()):
            self.assertIsNone(initiator.outcome)
            initiator.receive(raw.send(octet))
        self.assertIsNotNone(initiator.outcome)

    def test_a_ready_of_other_ends_or_another_mechanism_is_refused(self) -> None:
        for changes in (
            {"mechanism": "hmac"},
            {"acceptor": str(STRANGER.pin)},
            {"initiator": str(STRANGER.pin)},
            {"acceptor": str(ENGINE.pin), "initiator": str(AGENT.pin)},
        ):
            initiator, raw = self.server()
            with self.assertRaisesRegex(AuthenticationError, "The acceptor is ready for"):
                initiator.receive(raw.send(self.ready(**changes)))
            self.assertIsNone(initiator.outcome)

    def test_application_octets_in_place_of_ready_are_refused(self) -> None:
        for data in (b"\x00\x05hello", b"HTTP/1.1 200 OK\r\n\r\n"):
            initiator, raw = self.server()
            with self.assertRaises(AuthenticationError):
                initiator.receive(raw.send(data))
            self.assertIsNone(initiator.outcome)

    def test_a_close_in_place_of_ready_is_no_authentication(self) -> None:
        initiator, raw = self.server()
        raw.connection.shutdown()
        with self.assertRaisesRegex(AuthenticationError, "without 'ready'"):
            initiator.receive(raw.out())


class HostileClient(SynchronousTestCase):
    """An acceptor that trusts the engine's key meets somebody who has not got it."""

    def attack(self, context: SSL.Context, reason: str) -> IExchange:
        acceptor = ends().agent.acceptor()
        acceptor.start()
        raw = RawTls(context, is_client=True)
        with self.assertRaisesRegex(AuthenticationError, reason):
            out = raw.feed()
            while out:
                out = raw.feed(acceptor.receive(out))
        self.assertIsNone(acceptor.outcome)
        raw.feed(acceptor.pending())
        self.assertIsNotNone(raw.error)
        self.assertEqual(raw.plain, b"", "a stranger must get no application octet")
        return acceptor

    def test_a_pinned_certificate_behind_a_strangers_own_is_refused(self) -> None:
        self.attack(
            hostile_context(
                STRANGER, change=lambda context: context.add_extra_chain_cert(ENGINE.certificate)
            ),
            "not trusted",
        )

    def test_a_certificate_that_a_pinned_key_has_issued_is_refused(self) -> None:
        authority = certify(ENGINE.private_key, subject="engine", ca=True)
        leaf_key = ec.generate_private_key(ec.SECP256R1())
        leaf = certify(leaf_key, ENGINE.private_key, subject="leaf", issuer="engine")

        def chain(context: SSL.Context) -> None:
            context.add_extra_chain_cert(authority)

        self.attack(hostile_context(KeyPair(leaf_key, leaf), change=chain), "handshake failed")

    def test_a_pinned_key_below_an_authority_is_judged_by_itself_alone(self) -> None:
        authority_key = ec.generate_private_key(ec.SECP256R1())
        leaf = certify(ENGINE.private_key, authority_key, subject="engine", issuer="authority")
        acceptor = ends().agent.acceptor()
        acceptor.start()
        raw = RawTls(hostile_context(KeyPair(ENGINE.private_key, leaf)), is_client=True)
        out = raw.feed()
        while out:
            out = raw.feed(acceptor.receive(out)) if acceptor.outcome is None else b""
        self.assertEqual(acceptor.outcome.peer.name, "engine")

    def test_a_copy_of_a_pinned_certificate_without_its_key_is_refused(self) -> None:
        # A private key that claims the pinned public half: OpenSSL loads it unseen.
        def point(pair: KeyPair) -> bytes:
            return pair.private_key.public_key().public_bytes(
                Encoding.X962, PublicFormat.UncompressedPoint
            )

        own = STRANGER.private_key.private_bytes(
            Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        self.assertIn(point(STRANGER), own)
        key = crypto.load_privatekey(
            crypto.FILETYPE_ASN1, own.replace(point(STRANGER), point(ENGINE))
        )
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(ENGINE.certificate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.use_privatekey(key)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        self.attack(context, "bad signature")

    def test_the_same_names_and_serial_number_with_another_key_are_refused(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        forged = (
            x509.CertificateBuilder()
            .subject_name(ENGINE.certificate.subject)
            .issuer_name(ENGINE.certificate.issuer)
            .public_key(key.public_key())
            .serial_number(ENGINE.certificate.serial_number)
            .not_valid_before(ENGINE.certificate.not_valid_before_utc)
            .not_valid_after(ENGINE.certificate.not_valid_after_utc)
            .sign(key, hashes.SHA256())
        )
        self.attack(hostile_context(KeyPair(key, forged)), "not trusted")

    def test_no_certificate_is_refused(self) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        self.attack(context, "did not return a certificate|handshake failed")

    def test_other_kinds_of_keys_are_refused_even_if_pinned(self) -> None:
        for key in (
            rsa.generate_private_key(65537, 2048),
            ec.generate_private_key(ec.SECP384R1()),
        ):
            self.attack(hostile_context(KeyPair(key, certify(key))), "neither P-256 nor Ed25519")

    def test_older_versions_of_tls_are_refused(self) -> None:
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_1_VERSION):

            def older(context: SSL.Context, version: int = version) -> None:
                context.set_min_proto_version(version)
                context.set_max_proto_version(version)
                context.set_cipher_list(b"ALL:@SECLEVEL=0")

            self.attack(hostile_context(ENGINE, change=older), "unsupported protocol|version")

    def test_ciphers_without_authentication_or_encryption_are_refused(self) -> None:
        def weak(context: SSL.Context) -> None:
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
            context.set_cipher_list(b"aNULL:eNULL:@SECLEVEL=0")

        self.attack(hostile_context(ENGINE, change=weak), "unsupported protocol|version")

    def test_a_session_is_not_resumed_so_that_a_removed_key_is_judged_again(self) -> None:
        both = ends()
        context = hostile_context(ENGINE)
        first, acceptor = RawTls(context, is_client=True), both.agent.acceptor()
        acceptor.start()
        out = first.feed()
        while out and acceptor.outcome is None:
            out = first.feed(acceptor.receive(out))
        self.assertIsNotNone(acceptor.outcome)
        session = first.connection.get_session()
        both.agent_trust.remove(ENGINE.pin)
        second, acceptor = RawTls(context, is_client=True), both.agent.acceptor()
        assert session is not None
        second.connection.set_session(session)
        acceptor.start()
        with self.assertRaisesRegex(AuthenticationError, "not trusted"):
            out = second.feed()
            while out:
                out = second.feed(acceptor.receive(out))

    def test_application_octets_before_the_handshake_ends_reach_nobody(self) -> None:
        acceptor = ends().agent.acceptor()
        acceptor.start()
        raw = RawTls(hostile_context(STRANGER), is_client=True)
        flight = raw.feed()
        while not raw.is_done:
            flight = raw.feed(acceptor.receive(flight))
        early = raw.send(b'{"jsonrpc":"2.0","method":"Host.ping2"}')
        with self.assertRaisesRegex(AuthenticationError, "not trusted"):
            acceptor.receive(flight + early)
        self.assertIsNone(acceptor.outcome)
        with self.assertRaises(AuthenticationError):
            acceptor.protection()


class Sessions(SynchronousTestCase):
    def test_a_certificate_shown_after_the_handshake_is_refused(self) -> None:
        session = TlsSession(pinned_context(AGENT), Role.ACCEPTOR, lambda _: None)
        peer = TlsSession(pinned_context(ENGINE), Role.INITIATOR, lambda _: None)
        peer.shake_hands()
        session.shake_hands(peer.pending())
        peer.shake_hands(session.pending())
        self.assertTrue(session.shake_hands(peer.pending()))
        certificate = session._connection.get_peer_certificate()
        assert certificate is not None
        self.assertFalse(session.accepts(certificate, 0))

    def test_another_certificate_than_the_one_judged_is_refused(self) -> None:
        session = TlsSession(pinned_context(AGENT), Role.ACCEPTOR, lambda _: None)
        peer = TlsSession(pinned_context(ENGINE), Role.INITIATOR, lambda _: None)
        peer.shake_hands()
        session.shake_hands(peer.pending())
        session.peer_pin = Pin(b"x" * 32)
        peer.shake_hands(session.pending())
        with self.assertRaisesRegex(AuthenticationError, "not the one that was judged"):
            session.shake_hands(peer.pending())

    def test_only_the_leaf_is_judged(self) -> None:
        session = TlsSession(pinned_context(AGENT), Role.ACCEPTOR, lambda _: None)
        self.assertFalse(session.accepts(None, 1))  # type: ignore[arg-type]
