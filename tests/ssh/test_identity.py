"""The engine's own SSH key on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path
from unittest import mock, skipIf

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import KeyFileError
from pkengine.keys import SshPublicKey
from pkengine.ssh import SshIdentity, SshKeyKind, SshKeyRing

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


class KeyRingTests(SynchronousTestCase):
    def setUp(self):
        self.directory = Path(self.mktemp())

    def ring(self):
        return SshKeyRing(self.directory, comment="pkengine@engine1")

    def files(self):
        paths = (path for path in self.directory.rglob("*") if path.is_file())
        return {str(path.relative_to(self.directory)) for path in paths}

    def test_a_new_ring_has_one_key(self):
        ring = self.ring()
        self.assertEqual((ring.current.public,), tuple(i.public for i in ring.identities))
        self.assertIs(ring.newest, ring.current)

    def test_both_keys_are_valid_while_it_is_rotated_also_after_a_new_start(self):
        ring = self.ring()
        old = ring.current.public
        new = ring.begin_rotation(SshKeyKind.ED25519).public
        self.assertNotEqual(old, new)
        for known in (ring, self.ring()):
            self.assertEqual((new, old), tuple(i.public for i in known.identities))
            self.assertEqual(new, known.newest.public)
        self.assertRaises(ValueError, ring.begin_rotation, SshKeyKind.RSA)
        for name in ("id_ed25519", "next/id_ed25519"):
            self.assertEqual(0o600, (self.directory / name).stat().st_mode & 0o777)

    def test_in_the_end_the_new_key_is_the_only_one(self):
        for kind, name in (
            (SshKeyKind.ED25519, "id_ed25519"),
            (SshKeyKind.RSA, "id_rsa"),
            (SshKeyKind.ED25519, "id_ed25519"),
        ):
            ring = self.ring()
            new = ring.begin_rotation(kind).public
            ring.end_rotation()
            for known in (ring, self.ring()):
                self.assertEqual((new,), tuple(i.public for i in known.identities))
            self.assertEqual({name, f"{name}.pub"}, self.files())
            self.assertEqual(
                f"{new} pkengine@engine1\n", (self.directory / f"{name}.pub").read_text()
            )
            self.assertRaises(ValueError, ring.end_rotation)

    def test_rsa_keys_are_strong_and_sign_by_sha_2(self):
        key = self.ring().begin_rotation(SshKeyKind.RSA).private_key
        self.assertEqual(3072, key.key_size)

    def after_each_crash(self, prepare, work):
        """Do it again and again, and die at the first, the second, … change of a file."""
        for deadly in range(1, 50):
            shutil.rmtree(self.directory, ignore_errors=True)
            ring = self.ring()
            key = prepare(ring)
            with _power_cut(deadly):
                try:
                    work(ring)
                    is_over = True
                except _PowerCut:
                    is_over = False
            yield key, self.ring()
            if is_over:
                return
        self.fail("It never ends.")

    def test_wherever_a_rotation_is_cut_off_while_it_begins_the_old_key_is_there(self):
        for kind in SshKeyKind:
            states = set()
            for old, ring in self.after_each_crash(
                lambda ring: ring.current.public, lambda ring, kind=kind: ring.begin_rotation(kind)
            ):
                self.assertEqual(old, ring.current.public)
                states.add(ring.successor is None)
                if ring.successor is None:
                    ring.begin_rotation(kind)
                ring.end_rotation()
            self.assertEqual({True, False}, states)

    def test_wherever_a_rotation_is_cut_off_while_it_ends_the_new_key_is_there(self):
        for kind in SshKeyKind:
            states = set()
            for new, ring in self.after_each_crash(
                lambda ring, kind=kind: ring.begin_rotation(kind).public, SshKeyRing.end_rotation
            ):
                self.assertEqual(new, ring.newest.public)
                states.add(ring.successor is None)
                if ring.successor is not None:
                    ring.end_rotation()
                self.assertEqual((new,), tuple(i.public for i in self.ring().identities))
            self.assertEqual({True, False}, states)


class _PowerCut(BaseException):
    """The machine went dark."""


@contextlib.contextmanager
def _power_cut(deadly):
    """Let only so many changes of names happen, and the next ones no more."""
    done = 0

    def dying(real):
        def call(*args, **options):
            nonlocal done
            done += 1
            if done >= deadly:
                raise _PowerCut
            return real(*args, **options)

        return call

    with contextlib.ExitStack() as stack:
        for where, name in (
            (os, "link"),
            (os, "replace"),
            (os, "unlink"),
            (Path, "mkdir"),
            (Path, "unlink"),
            (Path, "rmdir"),
        ):
            stack.enter_context(mock.patch.object(where, name, dying(getattr(where, name))))
        yield
