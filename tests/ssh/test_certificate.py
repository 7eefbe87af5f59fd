"""Host certificates that ssh-keygen made, and what is wrong with some of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import (
    HostKeyMismatch,
    HostKeyRevoked,
    HostKeyTypeUnavailable,
    InvalidKeyText,
)
from pkengine.keys import SshPublicKey
from pkengine.ssh.certificate import CertificateRefused, HostCertificate
from pkengine.ssh.host_keys import HostKeyPolicy, HostKeyVerifier
from pkengine.ssh.wire import MalformedMessage

IN_2026 = 1_780_000_000.0
VALID = "20260101000000Z:20270101000000Z"


class CertificateTestCase(SynchronousTestCase):
    if shutil.which("ssh-keygen") is None:
        skip = "ssh-keygen is not installed (Debian: openssh-client)"

    def setUp(self):
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def keygen(self, *arguments: str) -> None:
        subprocess.run(["ssh-keygen", "-q", *arguments], check=True, stdin=subprocess.DEVNULL)

    def key(self, name: str, *kind: str) -> SshPublicKey:
        path = self.directory / name
        if not path.exists():
            self.keygen("-N", "", "-f", str(path), *(kind or ("-t", "ed25519")))
        return SshPublicKey.parse(path.with_suffix(".pub").read_text())

    def certificate(
        self, *options: str, host: str = "host", ca: str = "ca", valid: str = VALID
    ) -> SshPublicKey:
        self.key(host)
        self.key(ca)
        path = self.directory / f"{host}.pub"
        options = options or ("-h", "-n", "node1,*.example.org")
        ca_key = str(self.directory / ca)
        self.keygen("-s", ca_key, "-I", "node1's", "-V", valid, *options, str(path))
        return SshPublicKey.parse((self.directory / f"{host}-cert.pub").read_text())


class CertificateTests(CertificateTestCase):
    def refused(self, certificate: SshPublicKey, name: str = "node1", now=IN_2026) -> str:
        authorities = (self.key("ca"),)
        check = HostCertificate.parse(certificate).check
        return str(self.assertRaises(CertificateRefused, check, name, now, authorities))

    def test_certificates_of_every_type_by_authorities_of_every_type(self):
        kinds = {
            "ed25519": ("-t", "ed25519"),
            "p256": ("-t", "ecdsa"),
            "p384": ("-t", "ecdsa", "-b", "384"),
            "p521": ("-t", "ecdsa", "-b", "521"),
            "rsa": ("-t", "rsa", "-b", "2048"),
        }
        for kind, options in kinds.items():
            key, authority = self.key(kind, *options), self.key(f"ca-{kind}", *options)
            shown = self.certificate(host=kind, ca=f"ca-{kind}")
            certificate = HostCertificate.parse(shown)
            self.assertEqual((certificate.key, certificate.authority), (key, authority))
            self.assertEqual(certificate.principals, ("node1", "*.example.org"))
            for name in ("node1", "NODE1", "a.example.org"):
                certificate.check(name, IN_2026, [authority])

    def test_what_does_not_vouch_for_the_host_is_told(self):
        good = self.certificate()
        self.assertIn("node1, *.example.org, and not for node2", self.refused(good, "node2"))
        self.assertIn("not valid before 2026-01-01 00:00:00 UTC", self.refused(good, now=0.0))
        self.assertIn("expired at 2027-01-01 00:00:00 UTC", self.refused(good, now=2e9))
        self.assertIn("is no authority for this host", self.refused(self.certificate(ca="other")))
        self.assertIn("for users", self.refused(self.certificate("-n", "node1")))
        self.assertIn("no host at all", self.refused(self.certificate("-h")))
        with_option = self.certificate("-h", "-n", "node1", "-O", "critical:only@example.org=x")
        self.assertIn("options that are not understood: only@exa", self.refused(with_option))

    def test_an_authority_that_signs_with_sha1_is_not_believed(self):
        self.key("ca", "-t", "rsa", "-b", "2048")
        sha1 = self.certificate("-h", "-n", "node1", "-t", "ssh-rsa")
        self.assertIn("not genuine", self.refused(sha1))

    def test_no_bit_of_a_certificate_can_be_changed(self):
        blob, authorities = self.certificate().blob, (self.key("ca"),)
        for position in range(len(blob)):
            changed = bytearray(blob)
            changed[position] ^= 1
            try:
                shown = SshPublicKey.from_blob(bytes(changed))
                certificate = HostCertificate.parse(shown)
                if shown.key_type != "ssh-ed25519-cert-v01@openssh.com":
                    continue
                certificate.check("node1", IN_2026, authorities)
            except (CertificateRefused, MalformedMessage, InvalidKeyText):
                continue
            self.fail(f"octet {position}")

    @given(st.binary(max_size=300))
    def test_garbage_is_malformed(self, garbage):
        shown = SshPublicKey("ssh-ed25519-cert-v01@openssh.com", garbage)
        self.assertRaises(MalformedMessage, HostCertificate.parse, shown)


class JudgementTests(CertificateTestCase):
    def verifier(self, name: str = "node1", **policy) -> HostKeyVerifier:
        return HostKeyVerifier("node1", HostKeyPolicy(**policy), name=name, now=lambda: IN_2026)

    def test_a_certificate_of_the_authority_is_accepted(self):
        shown = self.certificate()
        verifier = self.verifier(authorities=(self.key("ca"),))
        verifier.offered(["ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com"])
        verifier.judge(shown)
        self.assertEqual(verifier.judgement.source, "certificate")
        self.assertEqual(verifier.judgement.key, self.key("host"))
        self.assertEqual(verifier.judgement.certificate.key_id, "node1's")

    def test_a_host_without_certificate_is_not_trusted_on_first_use(self):
        verifier = self.verifier(authorities=(self.key("ca"),))
        error = self.assertRaises(HostKeyTypeUnavailable, verifier.offered, ["ssh-ed25519"])
        self.assertIn("expected a certificate by ssh-ed25519 SHA256:", str(error))

    def test_a_certificate_that_does_not_count_is_told_in_the_mismatch(self):
        verifier = self.verifier("node2", authorities=(self.key("ca"),))
        error = self.assertRaises(HostKeyMismatch, verifier.judge, self.certificate())
        self.assertIn("a certificate that does not count, because it is for node1", str(error))

    def test_the_stored_key_counts_whatever_its_certificate_says(self):
        verifier = self.verifier(
            "node2", authorities=(self.key("ca"),), stored=(self.key("stored"), self.key("host"))
        )
        verifier.judge(self.certificate())
        self.assertEqual(verifier.judgement.source, "stored")

    def test_what_was_given_outranks_every_authority(self):
        policy = {"authorities": (self.key("ca"),), "given": self.key("other").fingerprint()}
        self.assertNotIn("ssh-ed25519-cert-v01@openssh.com", self.verifier(**policy).key_types)
        self.assertRaises(HostKeyMismatch, self.verifier(**policy).judge, self.certificate())

    def test_a_revoked_key_is_refused_as_host_and_as_authority(self):
        shown = self.certificate()
        for revoked in ("host", "ca"):
            verifier = self.verifier(authorities=(self.key("ca"),), revoked=(self.key(revoked),))
            error = self.assertRaises(HostKeyRevoked, verifier.judge, shown)
            self.assertIn(str(self.key(revoked).fingerprint()), str(error))
        verifier = self.verifier(revoked=(self.key("host"),))
        self.assertRaises(HostKeyRevoked, verifier.judge, self.key("host"))
