"""What is offered: nothing weak to a host that has better, and something to every host."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pkengine.errors import HostKeyMismatch, HostKeyTypeUnavailable, HostUnreachable
from pkengine.on_host.processes import listening
from pkengine.ssh import HostKeyPolicy, fetch_host_keys
from pkengine.ssh.host_keys import KEY_TYPES
from pkengine.ssh.offer import ClientOffer
from tests.ssh.test_openssh import OpenSshTestCase

ECDSA = "ecdsa-sha2-nistp256"


def less_trusted(names) -> list[str]:
    return [name for name in names if "nist" in name]


class OfferTests(SynchronousTestCase):
    def test_a_host_hears_of_no_nist_curve_at_first(self):
        offer = ClientOffer.of(KEY_TYPES)
        self.assertEqual(less_trusted(offer.lists.exchanges), [])
        self.assertEqual(offer.wanted, ("ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"))
        self.assertEqual(offer.lists.host_keys, offer.wanted)

    def test_a_type_that_is_wanted_alone_is_offered_before_the_others(self):
        offer = ClientOffer.of((ECDSA,))
        self.assertEqual(offer.wanted, (ECDSA,))
        self.assertEqual(offer.lists.host_keys[:2], (ECDSA, "ssh-ed25519"))
        self.assertEqual(less_trusted(offer.lists.exchanges), [])

    def test_a_wide_offer_has_them_behind_the_others(self):
        narrow, wide = ClientOffer.of(KEY_TYPES), ClientOffer.of(KEY_TYPES, is_wide=True)
        trusted = [name for name in wide.lists.exchanges if "nist" not in name]
        self.assertEqual(trusted, list(narrow.lists.exchanges))
        self.assertEqual(len(less_trusted(wide.lists.exchanges)), 3)
        self.assertEqual(len(less_trusted(wide.wanted)), 3)
        self.assertGreater(
            wide.lists.exchanges.index("ecdh-sha2-nistp256"),
            wide.lists.exchanges.index("curve25519-sha256"),
        )

    def test_a_connection_that_carries_nothing_secret_does_the_cheaper_exchange_first(self):
        usual, cheap = (
            ClientOffer.of(KEY_TYPES, keeps_secrets=secret).lists.exchanges
            for secret in (True, False)
        )
        self.assertEqual((usual[0], cheap[0]), ("mlkem768x25519-sha256", "curve25519-sha256"))
        self.assertEqual(set(usual), set(cheap))

    def test_only_what_is_missing_makes_an_offer_too_narrow(self):
        offer = ClientOffer.of(KEY_TYPES)
        wide = ClientOffer.of(KEY_TYPES, is_wide=True)
        for exchanges, host_keys, is_too_narrow in (
            (["curve25519-sha256", "ecdh-sha2-nistp256"], ["ssh-ed25519", ECDSA], False),
            (["ecdh-sha2-nistp256"], ["ssh-ed25519"], True),
            (["curve25519-sha256"], [ECDSA], True),
            (["diffie-hellman-group1-sha1"], ["ssh-ed25519"], False),  # nothing would help
            (["curve25519-sha256"], ["ssh-dss"], False),
            (["ext-info-s", "kex-strict-s-v00@openssh.com"], ["ssh-ed25519"], False),
        ):
            host = _lists(exchanges, host_keys)
            self.assertEqual(offer.is_too_narrow_for(host), is_too_narrow, host)
            self.assertFalse(wide.is_too_narrow_for(host))


def _lists(exchanges, host_keys):
    rest = ClientOffer.of(KEY_TYPES).lists
    return type(rest)(
        exchanges, host_keys, *(getattr(rest, name) for name in list(type(rest).__slots__)[2:])
    )


class OldHostTests(OpenSshTestCase):
    """Hosts that have little else, as in FIPS mode: they are reached on a second connection."""

    async def test_a_host_with_the_key_exchanges_of_nist_alone(self):
        server = self.serve("KexAlgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp521")
        await self.check(await self.connect(server))
        self.assertEqual(server.connections, 2)

    async def test_a_host_in_fips_mode_has_a_finite_field_and_an_rsa_key_to_show(self):
        server = self.serve(
            "KexAlgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,"
            "diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha256,"
            "diffie-hellman-group16-sha512,diffie-hellman-group18-sha512",
            "Ciphers aes256-gcm@openssh.com,aes256-ctr,aes128-gcm@openssh.com,aes128-ctr",
            "MACs hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256",
            host_key_types=("ecdsa", "rsa"),
        )
        connection = await self.connect(server)
        self.assertEqual(connection.judgement.key, server.host_key("rsa"))
        await self.check(connection)
        self.assertEqual(server.connections, 1)

    async def test_a_host_with_an_ecdsa_key_alone(self):
        server = self.serve(host_key_types=("ecdsa",))
        key = server.host_key("ecdsa")
        for policy, connections in (
            (HostKeyPolicy(), 2),
            (HostKeyPolicy(given=key.fingerprint()), 2),
            (HostKeyPolicy(stored=(key,)), 1),  # what is known is asked for at once
        ):
            before = server.connections
            connection = await self.connect(server, policy)
            self.assertEqual(connection.judgement.key, key)
            self.assertEqual(server.connections - before, connections)
        self.assertEqual(await fetch_host_keys(reactor, "127.0.0.1", server.port), [key])

    async def test_a_second_connection_trusts_no_other_key_than_the_first(self):
        server = self.serve(host_key_types=("ecdsa",))
        other = self.serve(host_key_types=("ecdsa", "ed25519"), name="other")
        for policy, error in (
            (HostKeyPolicy(given=other.host_key("ecdsa").fingerprint()), HostKeyMismatch),
            (HostKeyPolicy(stored=(other.host_key("ecdsa"),)), HostKeyMismatch),
            (HostKeyPolicy(stored=(other.host_key("ed25519"),)), HostKeyTypeUnavailable),
        ):
            await self.assertFailure(ensureDeferred(self.connect(server, policy)), error)
        self.assertNotIn(b"userauth", server.log)

    async def test_what_neither_offer_has_is_told_with_both_lists(self):
        server = self.serve("KexAlgorithms sntrup761x25519-sha512@openssh.com")
        error = await self.assertFailure(ensureDeferred(self.connect(server)), HostUnreachable)
        self.assertIn("the host offers sntrup761x25519-sha512@openssh.com", str(error))
        self.assertIn("this side offers mlkem768x25519-sha256, curve25519-sha256", str(error))
        self.assertEqual(server.connections, 1)


class _Auditor(ProcessProtocol):
    """ssh-audit, which waits for one client and tells what it thinks of it."""

    def __init__(self) -> None:
        self.ended: Deferred[bytes] = Deferred()
        self._said = b""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == 1:
            self._said += data

    def processEnded(self, reason) -> None:
        self.ended.callback(self._said)


class SshAuditTests(TestCase):
    if importlib.util.find_spec("ssh_audit") is None:
        skip = "ssh-audit is not installed (the extra 'test' has it)"

    async def test_ssh_audit_finds_nothing_worse_than_a_warning(self):
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        auditor = _Auditor()
        arguments = [
            sys.executable,
            "-m",
            "ssh_audit",
            "-4",
            "-j",
            "-c",
            "-p",
            str(port),
            "-t",
            "60",
        ]
        process = reactor.spawnProcess(auditor, sys.executable, arguments, env=None)
        self.addCleanup(self._end, process, auditor)
        while not (auditor.ended.called or listening(port)):
            await deferLater(reactor, 0, lambda: None)
        attempt = ensureDeferred(fetch_host_keys(reactor, "127.0.0.1", port))
        await self.assertFailure(attempt, HostUnreachable)  # it hangs up: it knows enough
        report = json.loads(await auditor.ended)
        self.assertEqual(report["banner"]["raw"], "SSH-2.0-pkengine")
        found = {
            item["algorithm"]: list(item["notes"].get("fail", ()))
            for kind in ("kex", "key", "enc", "mac")
            for item in report[kind]
        }
        self.assertIn("curve25519-sha256", found)
        self.assertIn("ssh-ed25519", found)
        self.assertEqual({name: why for name, why in found.items() if why}, {})

    def _end(self, process, auditor: _Auditor) -> Deferred | None:
        if process.pid is None:
            return None
        process.signalProcess("KILL")
        return auditor.ended
