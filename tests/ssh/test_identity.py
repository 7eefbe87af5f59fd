"""The engine's own SSH key on disk."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path
from unittest import skipIf

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import KeyFileError
from pkengine.keys import SshPublicKey
from pkengine.ssh import SshIdentity

needs_ssh_keygen = skipIf(
    shutil.which("ssh-keygen") is None, "ssh-keygen is not installed (Debian: openssh-client)"
)


class IdentityTests(SynchronousTestCase):
    def setUp(self):
        self.directory = Path(self.mktemp()) / "ssh"

    def test_a_key_is_made_once_and_found_again(self):
        first = SshIdentity.load_or_create(self.directory)
        again = SshIdentity.load_or_create(self.directory)
        self.assertEqual(first.public, again.public)
        self.assertEqual(first.public.key_type, "ssh-ed25519")

    def test_the_files_are_private_and_public(self):
        SshIdentity.load_or_create(self.directory)
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in [self.directory, *self.directory.iterdir()]
        }
        self.assertEqual(modes, {"ssh": 0o700, "id_ed25519": 0o600, "id_ed25519.pub": 0o644})

    @needs_ssh_keygen
    def test_openssh_reads_both_files(self):
        identity = SshIdentity.load_or_create(self.directory, comment="pkengine@engine1")
        for arguments in (["-y", "-f", "id_ed25519"], ["-l", "-f", "id_ed25519.pub"]):
            output = subprocess.run(
                ["ssh-keygen", *arguments], cwd=self.directory, capture_output=True, check=True
            ).stdout.decode()
            expected = identity.public if "-y" in arguments else identity.public.fingerprint()
            self.assertIn(str(expected), output)

    def test_the_authorized_keys_line_carries_the_comment(self):
        identity = SshIdentity.load_or_create(self.directory, comment="pkengine@engine1")
        line = (self.directory / "id_ed25519.pub").read_text()
        self.assertEqual(line, identity.authorized_keys_line + "\n")
        self.assertTrue(line.endswith(" pkengine@engine1\n"))
        self.assertEqual(SshPublicKey.parse(line), identity.public)

    def test_a_lost_or_foreign_public_half_is_written_anew(self):
        identity = SshIdentity.load_or_create(self.directory)
        public = self.directory / "id_ed25519.pub"
        for damage in (public.unlink, lambda: public.write_text("something else\n")):
            damage()
            self.assertEqual(SshIdentity.load_or_create(self.directory).public, identity.public)
            self.assertEqual(public.read_text(), identity.authorized_keys_line + "\n")

    def test_a_key_that_others_may_read_is_refused(self):
        SshIdentity.load_or_create(self.directory)
        (self.directory / "id_ed25519").chmod(0o644)
        error = self.assertRaises(KeyFileError, SshIdentity.load_or_create, self.directory)
        self.assertIn("chmod 600", str(error))

    @needs_ssh_keygen
    def test_what_is_no_ed25519_key_is_refused_and_left_alone(self):
        SshIdentity.load_or_create(self.directory)
        path = self.directory / "id_ed25519"
        path.write_text("garbage")
        self.assertRaises(KeyFileError, SshIdentity.load_or_create, self.directory)
        self.assertEqual(path.read_text(), "garbage")
        path.unlink()
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        error = self.assertRaises(KeyFileError, SshIdentity.load_or_create, self.directory)
        self.assertIn("expected Ed25519", str(error))

    def put_rsa_key(self, bits: int) -> None:
        self.directory.mkdir(mode=0o700, parents=True)
        key = rsa.generate_private_key(65537, bits)
        form = Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        path = self.directory / "id_rsa"
        path.write_bytes(key.private_bytes(*form))
        path.chmod(0o600)

    def test_an_rsa_key_is_taken_where_an_administrator_put_one(self):
        self.put_rsa_key(2048)
        identity = SshIdentity.load_or_create(self.directory)
        self.assertEqual(identity.public.key_type, "ssh-rsa")
        public = (self.directory / "id_rsa.pub").read_text()
        self.assertEqual(public, identity.authorized_keys_line + "\n")
        self.assertFalse((self.directory / "id_ed25519").exists())

    def test_a_short_rsa_key_is_refused(self):
        self.put_rsa_key(1024)
        error = self.assertRaises(KeyFileError, SshIdentity.load_or_create, self.directory)
        self.assertIn("an RSA key of 1024 bits: expected 2048 or more", str(error))

    def test_the_private_half_shows_in_no_repr(self):
        identity = SshIdentity.load_or_create(self.directory)
        self.assertEqual(repr(identity), f"<SshIdentity {identity.public.fingerprint()}>")
