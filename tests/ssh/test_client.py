"""Connecting and logging in, against a server that records what it is sent."""

from __future__ import annotations

import socket

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from pkengine.errors import (
    HostKeyMismatch,
    HostKeyTypeUnavailable,
    HostUnreachable,
    SshAuthenticationFailed,
    SshConnectionLost,
)
from pkengine.keys import Secret
from pkengine.ssh import (
    HostKeyPolicy,
    SshConnection,
    SshCredentials,
    SshTarget,
    connect_ssh,
    fetch_host_keys,
)
from tests.ssh.server import (
    ECDH_INIT,
    KEXINIT,
    PASSWORD,
    SERVICE_REQUEST,
    USER,
    USERAUTH_REQUEST,
    Login,
    SshServer,
    host_key,
    public,
)

ED25519, ECDSA, RSA = (
    host_key(key_type) for key_type in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")
)
OTHER = host_key("ssh-ed25519", 2)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class ClientTestCase(TestCase):
    def serve(self, *keys: Key, login: Login | None = None, **options) -> SshServer:
        interface = options.pop("interface", "127.0.0.1")
        server = SshServer(*keys, login=login, **options).listen(interface)
        self.addCleanup(lambda: ensureDeferred(server.stop()))
        return server

    async def connect(
        self,
        server: SshServer,
        policy: HostKeyPolicy | None = None,
        *,
        password: str | None = PASSWORD,
        user: str = USER,
        address: str = "127.0.0.1",
        **credentials,
    ) -> SshConnection:
        connection = await connect_ssh(
            reactor,
            SshTarget(address, server.port, user),
            policy or HostKeyPolicy(),
            SshCredentials(Secret(password) if password is not None else None, **credentials),
        )
        self.addCleanup(connection.close)
        return connection

    async def refused(self, error: type[Exception], attempt) -> str:
        return str(await self.assertFailure(ensureDeferred(attempt), error))


class HostKeyTests(ClientTestCase):
    def assert_nothing_followed_the_key_exchange(self, server: SshServer) -> None:
        for connection in server.connections:
            self.assertEqual(connection.numbers, [KEXINIT, ECDH_INIT])
        self.assertEqual(server.passwords, [])

    async def test_the_first_key_is_trusted_and_recorded_as_first_use(self):
        connection = await self.connect(self.serve(ED25519))
        self.assertEqual(connection.judgement.source, "first_use")
        self.assertEqual(connection.judgement.key, public(ED25519))

    async def test_the_expected_key_is_accepted_whatever_its_type(self):
        server = self.serve(ED25519, ECDSA, RSA)
        for key in (ED25519, ECDSA, RSA):
            for policy, source in (
                (HostKeyPolicy(given=public(key)), "given_key"),
                (HostKeyPolicy(given=public(key).fingerprint()), "given_fingerprint"),
                (HostKeyPolicy(given=public(key).fingerprint("MD5")), "given_fingerprint"),
                (HostKeyPolicy(stored=(public(key),)), "stored"),
            ):
                connection = await self.connect(server, policy)
                self.assertEqual(connection.judgement.source, source)
                self.assertEqual(connection.judgement.key, public(key))

    async def test_after_a_mismatch_nothing_is_sent_but_key_exchange(self):
        wrong = public(OTHER)
        for policy in (
            HostKeyPolicy(given=wrong),
            HostKeyPolicy(given=wrong.fingerprint()),
            HostKeyPolicy(stored=(wrong,)),
        ):
            server = self.serve(ED25519)
            text = await self.refused(HostKeyMismatch, self.connect(server, policy))
            self.assertIn(str(wrong.fingerprint()), text)
            self.assertIn(f"ssh-ed25519 {public(ED25519).fingerprint()}", text)
            await server.connections[0].lost
            self.assert_nothing_followed_the_key_exchange(server)

    async def test_a_wrong_fingerprint_is_compared_with_every_key_the_host_offers(self):
        server = self.serve(ED25519, ECDSA, RSA)
        policy = HostKeyPolicy(given=public(OTHER).fingerprint())
        text = await self.refused(HostKeyMismatch, self.connect(server, policy))
        for key in (ED25519, ECDSA, RSA):
            self.assertIn(f"{public(key).key_type} {public(key).fingerprint()}", text)
        self.assertEqual(len(server.connections), 3)
        self.assert_nothing_followed_the_key_exchange(server)

    async def test_a_host_without_the_expected_key_type_is_told_apart(self):
        server = self.serve(ECDSA)
        policy = HostKeyPolicy(stored=(public(ED25519),))
        text = await self.refused(HostKeyTypeUnavailable, self.connect(server, policy))
        self.assertIn("the host offers ecdsa-sha2-nistp256", text)
        self.assertEqual(server.connections[0].numbers, [KEXINIT])

    async def test_a_host_that_cannot_show_its_other_keys_still_gives_a_mismatch(self):
        server = self.serve(ED25519, ECDSA)
        server.behaviours[ECDH_INIT] = lambda transport: (
            transport is server.connections[0] or transport.transport.abortConnection()
        )
        policy = HostKeyPolicy(given=public(OTHER).fingerprint())
        text = await self.refused(HostKeyMismatch, self.connect(server, policy))
        self.assertIn(str(public(ED25519).fingerprint()), text)
        self.assertIn("could not be compared", text)

    async def test_a_key_that_changes_between_connections_is_refused(self):
        server = self.serve(ED25519)
        first = await self.connect(server)
        server.use_keys(OTHER)
        policy = HostKeyPolicy(stored=(first.judgement.key,))
        await self.refused(HostKeyMismatch, self.connect(server, policy))
        self.assertEqual(server.connections[1].numbers, [KEXINIT, ECDH_INIT])
        self.assertEqual(server.passwords, [PASSWORD])

    async def test_a_host_that_does_not_hold_the_key_it_shows_is_refused(self):
        server = self.serve(ED25519)
        server.publicKeys = {b"ssh-ed25519": OTHER.public()}
        policy = HostKeyPolicy(given=public(OTHER))
        await self.refused(HostUnreachable, self.connect(server, policy))
        self.assertNotIn(SERVICE_REQUEST, server.connections[0].numbers)

    async def test_a_host_that_signs_with_sha1_is_refused(self):
        server = self.serve(RSA)

        class Sha1Key:
            def sign(self, data, signatureType):
                return RSA.sign(data, b"ssh-rsa")

            supportedSignatureAlgorithms = RSA.supportedSignatureAlgorithms

        server.privateKeys = {b"ssh-rsa": Sha1Key()}
        text = await self.refused(HostUnreachable, self.connect(server))
        self.assertIn("is not genuine, or not rsa-sha2-512", text)
        self.assertNotIn(SERVICE_REQUEST, server.connections[0].numbers)

    async def test_the_keys_of_all_types_are_fetched_without_a_login(self):
        server = self.serve(ED25519, ECDSA, RSA)
        keys = await fetch_host_keys(reactor, "127.0.0.1", server.port)
        self.assertEqual(keys, [public(key) for key in (ED25519, ECDSA, RSA)])
        for connection in server.connections:
            await connection.lost
            self.assertLessEqual(set(connection.numbers), {KEXINIT, ECDH_INIT, 21})


class LoginTests(ClientTestCase):
    async def test_a_key_pair_serves_several_fetches_and_one_login(self):
        server = self.serve(ED25519, ECDSA)
        fetched = [await fetch_host_keys(reactor, "127.0.0.1", server.port) for _ in range(2)]
        self.assertEqual(fetched[0], fetched[1])
        for _ in range(2):
            await self.connect(server)
        ours = [dict(connection.messages)[ECDH_INIT] for connection in server.connections]
        kexinits = [dict(connection.messages)[KEXINIT] for connection in server.connections]
        self.assertEqual(len(set(ours[:4])), 1)
        self.assertEqual(len(set(ours)), 3)
        self.assertEqual(len(set(kexinits)), 6)  # so each signature is over something new

    async def test_a_password_lets_the_user_in(self):
        connection = await self.connect(self.serve())
        self.assertEqual(connection.authenticated_by, "password")
        self.assertEqual((await connection.run("echo hello")).stdout, b"hello\n")

    async def test_a_wrong_password_arrives_once_and_the_error_says_what_the_host_accepts(self):
        server = self.serve(login=Login(banner=b"Property of\r\nACME"))
        attempt = self.connect(server, password="wrong guess")
        text = await self.refused(SshAuthenticationFailed, attempt)
        self.assertEqual(server.passwords, ["wrong guess"])
        for words in ("127.0.0.1", USER, "password", "publickey, password", "Property of ACME"):
            self.assertIn(words, text)
        self.assertNotIn("wrong guess", text)

    async def test_both_ways_to_give_a_password_do_not_make_two_attempts(self):
        server = self.serve(login=Login(methods=["password", "keyboard-interactive"]))
        await self.refused(SshAuthenticationFailed, self.connect(server, password="wrong"))
        self.assertEqual(server.passwords, ["wrong"])

    async def test_a_password_is_not_sent_to_a_host_that_takes_none(self):
        server = self.serve(login=Login(methods=["publickey"]))
        text = await self.refused(SshAuthenticationFailed, self.connect(server))
        self.assertEqual(server.passwords, [])
        self.assertIn("Tried, once each: nothing. The host accepts: publickey.", text)

    async def test_one_hidden_question_is_answered_with_the_password(self):
        server = self.serve(login=Login(methods=["keyboard-interactive"]))
        connection = await self.connect(server)
        self.assertEqual(connection.authenticated_by, "keyboard-interactive")

    async def test_an_empty_round_of_questions_is_answered(self):
        prompts = ((), (("Password: ", False),), ())
        server = self.serve(login=Login(methods=["keyboard-interactive"], prompts=prompts))
        await self.connect(server)
        self.assertEqual(server.passwords, [PASSWORD])

    async def test_other_questions_are_not_answered(self):
        for prompts in (
            (("Password: ", False), ("Code: ", False)),
            (("Login: ", True),),
        ):
            server = self.serve(
                login=Login(
                    methods=["keyboard-interactive"], prompts=(prompts,), instruction="Take care"
                )
            )
            text = await self.refused(SshAuthenticationFailed, self.connect(server))
            self.assertEqual(server.passwords, [])
            self.assertIn(prompts[-1][0].strip(), text)
            self.assertIn("Take care", text)

    async def test_a_second_hidden_question_does_not_get_the_password_again(self):
        prompts = ((("Password: ", False),), (("Verification code: ", False),))
        server = self.serve(login=Login(methods=["keyboard-interactive"], prompts=prompts))
        text = await self.refused(SshAuthenticationFailed, self.connect(server))
        self.assertEqual(server.passwords, [PASSWORD])
        self.assertIn("Verification code:", text)

    async def test_questions_without_end_are_not_answered_for_ever(self):
        login = Login(methods=["keyboard-interactive"], prompts=((),) * 100)
        server = self.serve(login=login)
        text = await self.refused(SshAuthenticationFailed, self.connect(server))
        self.assertIn("too many questions", text)

    async def test_an_expired_password_is_called_that(self):
        server = self.serve(login=Login(password_expired=True))
        text = await self.refused(SshAuthenticationFailed, self.connect(server))
        self.assertIn("expired", text)
        self.assertEqual(server.passwords, [PASSWORD])

    async def test_a_key_of_each_type_lets_the_user_in(self):
        for key in (
            ed25519.Ed25519PrivateKey.generate(),
            ec.generate_private_key(ec.SECP256R1()),
            rsa.generate_private_key(65537, 2048),
        ):
            server = self.serve(login=Login(authorized=(public(Key(key)),)))
            connection = await self.connect(server, keys=(key,))
            self.assertEqual(connection.authenticated_by, "publickey")
            self.assertEqual(server.passwords, [])
        self.assertEqual(server.key_algorithms, ["rsa-sha2-512"])

    async def test_the_password_follows_a_key_that_is_not_accepted(self):
        key = ed25519.Ed25519PrivateKey.generate()
        server = self.serve()
        connection = await self.connect(server, keys=(key,))
        self.assertEqual(connection.authenticated_by, "password")
        self.assertEqual(len(server.key_algorithms), 1)

    async def test_of_several_keys_each_is_offered_once_in_their_order(self):
        new, old, other = (ed25519.Ed25519PrivateKey.generate() for _ in range(3))
        server = self.serve(login=Login(authorized=(public(Key(old)),)))
        connection = await self.connect(server, keys=(new, old, other))
        self.assertEqual(connection.authenticated_by, "publickey")
        self.assertEqual(connection.authenticated_key, public(Key(old)))
        self.assertEqual(len(server.key_algorithms), 2)

    async def test_a_login_by_password_names_no_key(self):
        connection = await self.connect(self.serve(), keys=(ed25519.Ed25519PrivateKey.generate(),))
        self.assertEqual(connection.authenticated_by, "password")
        self.assertIsNone(connection.authenticated_key)

    async def test_a_host_that_wants_key_and_password_gets_both(self):
        key = ed25519.Ed25519PrivateKey.generate()
        login = Login(authorized=(public(Key(key)),), partial=("publickey",))
        connection = await self.connect(self.serve(login=login), keys=(key,))
        self.assertEqual(connection.authenticated_by, "password")

    async def test_a_host_that_wants_more_than_the_key_is_named_so(self):
        key = ed25519.Ed25519PrivateKey.generate()
        login = Login(authorized=(public(Key(key)),), partial=("publickey",))
        attempt = self.connect(self.serve(login=login), keys=(key,), password=None)
        text = await self.refused(SshAuthenticationFailed, attempt)
        self.assertIn("wants more", text)
        self.assertIn("The host accepts: password.", text)

    async def test_without_any_credential_nothing_is_tried(self):
        text = await self.refused(
            SshAuthenticationFailed, self.connect(self.serve(), password=None)
        )
        self.assertIn("neither a password nor a key was given", text)

    async def test_a_host_that_lets_everybody_in_sees_no_password(self):
        server = self.serve(login=Login(accepts_everything=True))
        connection = await self.connect(server)
        self.assertEqual(connection.authenticated_by, "none")
        self.assertEqual(server.passwords, [])

    async def test_a_host_that_hangs_up_on_a_password_gives_its_reason(self):
        server = self.serve()

        def too_many(transport):
            if transport.numbers.count(USERAUTH_REQUEST) == 2:
                transport.sendDisconnect(2, b"Too many authentication failures")
                return False
            return True

        server.behaviours[USERAUTH_REQUEST] = too_many
        text = await self.refused(SshAuthenticationFailed, self.connect(server))
        self.assertIn("Too many authentication failures", text)

    async def test_no_secret_is_logged(self):
        events = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        server = self.serve(login=Login(methods=["password", "keyboard-interactive"]))
        connection = await self.connect(server)
        await connection.run("cat", stdin=b"stdin may be secret too")
        await self.refused(SshAuthenticationFailed, self.connect(server, password="wrong guess"))
        self.assertTrue(events)
        for event in events:
            text = formatEvent(event) + repr(event)
            for secret in (PASSWORD, "battery", "wrong guess", "may be secret"):
                self.assertNotIn(secret, text)


class ReachingTests(ClientTestCase):
    async def test_a_name_leads_to_the_host(self):
        await self.connect(self.serve(), address="localhost")

    async def test_an_ipv6_address_leads_to_the_host(self):
        await self.connect(self.serve(interface="::1"), address="::1")

    if not _has_ipv6():
        test_an_ipv6_address_leads_to_the_host.skip = "the loopback interface has no IPv6"

    async def test_a_closed_port_is_named(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        attempt = connect_ssh(
            reactor, SshTarget("127.0.0.1", port), HostKeyPolicy(), SshCredentials()
        )
        text = await self.refused(HostUnreachable, attempt)
        self.assertIn(f"127.0.0.1 port {port} cannot be reached", text)
        self.assertIn("refused", text)

    async def test_a_name_that_cannot_be_one_is_named(self):
        for name in ("..", "x" * 300):
            attempt = connect_ssh(reactor, SshTarget(name), HostKeyPolicy(), SshCredentials())
            text = await self.refused(HostUnreachable, attempt)
            self.assertTrue(text.startswith(name), text)

    async def test_a_login_can_be_cancelled_at_every_step(self):
        for message in (ECDH_INIT, SERVICE_REQUEST, USERAUTH_REQUEST):
            server = self.serve()
            stalled = server.stall_at(message)
            attempt = ensureDeferred(self.connect(server))
            await stalled
            attempt.cancel()
            await self.assertFailure(attempt, CancelledError)
            await server.connections[0].lost

    async def test_connecting_can_be_cancelled(self):
        server = self.serve()
        attempt = ensureDeferred(self.connect(server))
        attempt.cancel()
        await self.assertFailure(attempt, CancelledError)

    async def test_closing_is_seen_on_both_sides_and_may_be_repeated(self):
        server = self.serve()
        connection = await self.connect(server)
        closed = connection.closed
        await connection.close()
        await connection.close()
        self.assertIsNone(await closed)
        await server.connections[0].lost
        text = await self.refused(SshConnectionLost, connection.run("true"))
        self.assertIn("was closed", text)

    async def test_a_connection_that_the_host_ends_says_so(self):
        server = self.serve()
        connection = await self.connect(server)
        closed = connection.closed
        server.connections[0].sendDisconnect(11, b"going down for maintenance")
        self.assertIn("going down for maintenance", str(await closed))
