"""The options before the engine's key: what sshd takes, and what it would not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import InvalidKeyLimits
from pkengine.ssh.authorized_keys import AuthorizedKey
from pkengine.ssh.key_limits import parse_limits
from tests.ssh.server import host_key, public

GOOD = (
    "restrict",
    'from="192.0.2.0/24",restrict',
    'restrict,from="*.example.com,!bad.example.com,2001:db8::/32,192.0.2.?"',
    "no-pty,No-X11-Forwarding,no-user-rc",
    'restrict,port-forwarding,permitopen="192.0.2.10:22",permitopen="[2001:db8::1]:*"',
    'permitlisten="8080",permitlisten="localhost:*"',
    'expiry-time="20301231",environment="LANG=C, or so",tunnel="0"',
    'expiry-time="203012312359Z"',
)


class ParseTests(SynchronousTestCase):
    def refusal(self, text: str) -> str:
        return str(self.assertRaises(InvalidKeyLimits, parse_limits, text))

    def test_they_are_told_apart_and_stay_as_they_are_written(self):
        for text in GOOD:
            options = parse_limits(text)
            self.assertEqual(",".join(options), text)
            line = f"{text} {public(host_key('ssh-ed25519', 5))} x"
            known = AuthorizedKey.parse(line)
            assert known is not None
            self.assertEqual(known.options, options)

    def test_nothing_is_no_limit(self):
        self.assertEqual(parse_limits(" "), ())

    def test_what_the_engine_cannot_work_with_is_refused_with_the_reason(self):
        self.assertIn("nothing but that command", self.refusal('command="true"'))
        self.assertIn("an authority", self.refusal("cert-authority"))
        self.assertIn("FIDO", self.refusal("restrict,verify-required"))

    def test_what_sshd_does_not_know_is_named(self):
        self.assertIn("no option 'restricted'", self.refusal("restricted"))
        self.assertIn("'no-ports'", self.refusal("restrict,no-ports"))

    def test_a_malformed_option_is_told_with_what_was_expected(self):
        for text, part in (
            ("from=192.0.2.1", "no option of authorized_keys"),
            ("restrict, pty", "no blanks"),
            ("restrict pty", "no blanks"),
            ("restrict,", "behind the last comma"),
            (",restrict", "no option of authorized_keys"),
            ("from", 'expected from="…"'),
            ('restrict="yes"', "expected restrict"),
            ('from="192.0.2.5/24"', "no network that sshd understands"),
            ('from="192.0.2.0/33"', "no network that sshd understands"),
            ('from="a b"', "cannot stand in 'from='"),
            ('from=""', "cannot stand in 'from='"),
            ('from="!192.0.2.1"', "lets nobody in"),
            ('from="a",from="b"', "there twice"),
            ('expiry-time="tomorrow"', "YYYYMMDD"),
            ('expiry-time="20300231"', "YYYYMMDD"),
            ('permitopen="somewhere"', "HOST:PORT"),
            ('from="a\n"', "control characters"),
        ):
            self.assertIn(part, self.refusal(text), text)

    def test_ssh_keygen_reads_the_key_behind_them(self):
        if shutil.which("ssh-keygen") is None:
            self.skipTest("ssh-keygen is not installed (Debian: openssh-client)")
        path = Path(self.mktemp())
        key = public(host_key("ssh-ed25519", 5))
        path.write_text("".join(f"{text} {key} x\n" for text in GOOD))
        done = subprocess.run(
            ["ssh-keygen", "-lf", str(path)], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.stdout.count("SHA256:"), len(GOOD), done.stdout)
