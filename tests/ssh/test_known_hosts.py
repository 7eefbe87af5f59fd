"""known_hosts files, with ssh-keygen as the judge of what they mean."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import KnownHostsError
from pkengine.ssh.host_keys import HostKeyPolicy
from pkengine.ssh.known_hosts import KnownHost, KnownHosts, known_host
from tests.ssh.server import host_key, public

ED25519, OTHER = public(host_key("ssh-ed25519")), public(host_key("ssh-ed25519", 2))
RSA, ECDSA = public(host_key("ssh-rsa")), public(host_key("ecdsa-sha2-nistp256"))


class ReadingTests(SynchronousTestCase):
    def test_a_host_gets_its_keys_in_the_order_of_the_file(self):
        known = KnownHosts.parse(
            f"# all of node1\n\nnode1,10.0.0.1 {RSA} root@node1\nnode2 {OTHER}\nnode1 {ED25519}\n"
        )
        self.assertEqual(known.policy("node1").stored, (RSA, ED25519))
        self.assertEqual(known.policy("NODE1").stored, (RSA, ED25519))
        self.assertEqual(known.policy("10.0.0.1").stored, (RSA,))
        self.assertEqual(known.policy("node3"), HostKeyPolicy())
        self.assertEqual(known.policy("node1", 2222), HostKeyPolicy())

    def test_another_port_stands_in_brackets(self):
        known = KnownHosts.parse(f"[node1]:2222 {RSA}\n[fe80::1]:2222,::1 {ED25519}\n")
        self.assertEqual(known.policy("node1", 2222).stored, (RSA,))
        self.assertEqual(known.policy("node1").stored, ())
        self.assertEqual(known.policy("fe80::1", 2222).stored, (ED25519,))
        self.assertEqual(known.policy("::1").stored, (ED25519,))

    def test_patterns_match_and_negated_ones_exclude(self):
        known = KnownHosts.parse(f"*.example.org,!db?.example.org {RSA}\n")
        for name, keys in (
            ("a.example.org", (RSA,)),
            ("db1.example.org", ()),
            ("db10.example.org", (RSA,)),
            ("example.org", ()),
        ):
            self.assertEqual(known.policy(name).stored, keys, name)

    def test_revoked_keys_are_never_expected(self):
        known = KnownHosts.parse(f"node1 {RSA}\nnode1 {ED25519}\n@revoked * {RSA}\n")
        policy = known.policy("node1")
        self.assertEqual((policy.stored, policy.revoked), ((ED25519,), (RSA,)))

    def test_authorities_vouch_for_the_hosts_of_their_patterns(self):
        known = KnownHosts.parse(f"@cert-authority *.example.org {ED25519} ACME\n")
        self.assertEqual(known.policy("a.example.org").authorities, (ED25519,))
        self.assertEqual(known.policy("a.example.com").authorities, ())

    def test_types_that_are_not_understood_are_kept_and_not_compared(self):
        line = "node1 ssh-dss AAAAB3NzaC1kc3MAAAAB"
        known = KnownHosts.parse(line + "\n")
        self.assertEqual(known.policy("node1"), HostKeyPolicy())
        self.assertEqual(str(known), line + "\n")

    def test_a_malformed_line_is_named_with_its_file(self):
        for line, what in (
            ("node1", "expected names, a key type and a key"),
            (f"node1 {str(RSA)[:-3]}", "is followed by no such key"),
            (f"node1 ssh-ed25519 {str(RSA).split()[1]}", "is followed by no such key"),
            (f"@trusted node1 {RSA}", "'@trusted' is no marker that is known"),
            (f"node1,,node2 {RSA}", "a name is empty"),
            (f"|1|salt|hash {RSA}", "'|1|salt|hash' is no hashed name"),
            (f"|2|{'A' * 27}=|{'A' * 27}= {RSA}", "is no hashed name"),
        ):
            error = self.assertRaises(
                KnownHostsError, KnownHosts.parse, f"node0 {RSA}\n{line}\n", file="hosts"
            )
            self.assertIn("hosts, line 2: ", str(error))
            self.assertIn(what, str(error))

    @given(st.text(max_size=200))
    def test_any_text_is_read_or_refused_in_a_sentence(self, text):
        try:
            known = KnownHosts.parse(text)
        except KnownHostsError:
            return
        self.assertEqual(KnownHosts.parse(str(known)).lines, known.lines)


class WritingTests(SynchronousTestCase):
    def test_what_is_written_is_read(self):
        for address, port in (("node1", 22), ("::1", 22), ("fe80::1", 2222), ("10.0.0.1", 2222)):
            for is_hashed in (False, True):
                line = known_host(address, port, RSA, is_hashed=is_hashed, comment="of node1")
                again = KnownHost.parse(str(line))
                self.assertEqual(again, line)
                self.assertTrue(again.is_for(address, port))
                self.assertFalse(again.is_for(address, port + 1))

    def test_a_hashed_line_does_not_tell_the_name(self):
        line = str(known_host("node1", 22, RSA, is_hashed=True))
        self.assertNotIn("node1", line)
        self.assertNotEqual(line, str(known_host("node1", 22, RSA, is_hashed=True)))


class PortTests(SynchronousTestCase):
    def test_authorities_and_revoked_keys_of_a_name_are_those_of_all_its_ports(self):
        lines = (f"@cert-authority *.org {ED25519}", f"@revoked a.org {RSA}", f"a.org {ED25519}")
        policy = KnownHosts.parse("\n".join(lines)).policy("a.org", 2222)
        self.assertEqual((policy.authorities, policy.revoked), ((ED25519,), (RSA,)))
        self.assertEqual(policy.stored, ())


class SshKeygenTests(SynchronousTestCase):
    if shutil.which("ssh-keygen") is None:
        skip = "ssh-keygen is not installed (Debian: openssh-client)"

    def setUp(self):
        self.file = Path(self.mktemp())

    def keygen(self, *arguments: str) -> str:
        command = ["ssh-keygen", *arguments, "-f", str(self.file)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def test_ssh_keygen_finds_what_is_written_here(self):
        for address, port, name in (("node1", 22, "node1"), ("::1", 2222, "[::1]:2222")):
            for is_hashed in (False, True):
                line = known_host(address, port, ED25519, is_hashed=is_hashed)
                self.file.write_text(f"{line}\n")
                self.assertIn(str(ED25519), self.keygen("-F", name))
                self.assertEqual(self.keygen("-F", "node2"), "")

    def test_what_ssh_keygen_hashes_is_found_here(self):
        self.file.write_text(f"node1,10.0.0.1 {RSA}\n[node1]:2222 {ED25519}\n")
        self.keygen("-H")
        text = self.file.read_text()
        self.assertNotIn("node1", text)
        known = KnownHosts.parse(text)
        self.assertEqual(known.policy("node1").stored, (RSA,))
        self.assertEqual(known.policy("10.0.0.1").stored, (RSA,))
        self.assertEqual(known.policy("node1", 2222).stored, (ED25519,))
