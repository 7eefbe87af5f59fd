"""What an engine does to authorized_keys, and what it leaves alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from pkengine.errors import SshAuthenticationFailed
from pkengine.ssh.authorized_keys import AuthorizedKey, authorize, deauthorize, own_line
from pkengine.ssh.key_limits import parse_limits
from tests.ssh.server import host_key, public
from tests.ssh.test_openssh import OpenSshTestCase

OLD, NEW, ADMINS = (str(public(host_key("ssh-ed25519", number))) for number in (11, 12, 13))
RSA = str(public(host_key("ssh-rsa")))
OTHERS = (
    "# kept by hand\n"
    "\n"
    f'command="echo \\"a, b\\" ssh-rsa",no-pty {RSA} backup of admin\n'
    f'cert-authority,principals="a b" {ADMINS}\n'
    "garbage that sshd does not understand\n"
)
ENTRY = AuthorizedKey(NEW, ("restrict",), "pkengine@engine1")


class LineTests(SynchronousTestCase):
    def test_options_key_and_comment_are_told_apart(self):
        for line, options, key, comment in (
            (RSA, (), RSA, ""),
            (f"  {RSA}\tadmin@node1 of ACME\n", (), RSA, "admin@node1 of ACME"),
            (f"restrict,pty {RSA} x", ("restrict", "pty"), RSA, "x"),
            (f'from="10.0.0.0/8,*.b" {RSA}', ('from="10.0.0.0/8,*.b"',), RSA, ""),
            (
                f'command="a \\"b, c\\" d",no-pty {RSA} x',
                ('command="a \\"b, c\\" d"', "no-pty"),
                RSA,
                "x",
            ),
        ):
            known = AuthorizedKey.parse(line)
            self.assertEqual((known.options, known.key, known.comment), (options, key, comment))

    def test_what_lets_no_key_in_is_none(self):
        for line in (
            "",
            " ",
            "# x",
            f"#{RSA}",
            "ssh-rsa",
            f'from="x {RSA}',
            f"pty,{RSA}",
            "x y z",
        ):
            self.assertIsNone(AuthorizedKey.parse(line), line)


class AuthorizeTests(SynchronousTestCase):
    def test_a_key_is_added_behind_what_is_there(self):
        self.assertEqual(authorize("", ENTRY), f"{ENTRY}\n")
        self.assertEqual(authorize(OTHERS, ENTRY), f"{OTHERS}{ENTRY}\n")
        self.assertEqual(authorize(OTHERS[:-1], ENTRY), f"{OTHERS}{ENTRY}\n")

    def test_a_second_time_changes_nothing(self):
        for text in ("", OTHERS, f"{ADMINS} pkengine@engine2\n"):
            once = authorize(text, ENTRY)
            self.assertEqual(authorize(once, ENTRY), once)

    def test_a_rotation_replaces_the_old_key_where_it_stands(self):
        old = AuthorizedKey(OLD, (), "pkengine@engine1 since yesterday")
        text = f"{old}\n{OTHERS}{old}\n"
        self.assertEqual(authorize(text, ENTRY), f"{ENTRY}\n{OTHERS}")

    def test_limits_are_changed(self):
        wider = AuthorizedKey(NEW, (), "pkengine@engine1")
        self.assertEqual(authorize(authorize(OTHERS, ENTRY), wider), f"{OTHERS}{wider}\n")

    def test_another_engines_line_stays(self):
        text = f"{OLD} pkengine@engine2\n{ADMINS} pkengine@engine10\n"
        self.assertEqual(authorize(text, ENTRY), f"{text}{ENTRY}\n")

    def test_a_line_of_somebody_elses_with_that_key_is_not_widened(self):
        limited = f'from="10.0.0.1" {NEW} put here by hand\n'
        self.assertEqual(authorize(limited, ENTRY), limited)
        self.assertEqual(authorize(f"{OLD} pkengine@engine1\n{limited}", ENTRY), limited)

    def test_an_entry_that_is_more_than_a_line_is_refused(self):
        for entry in (
            AuthorizedKey(NEW, (), f"pkengine\n{OLD}"),
            AuthorizedKey(NEW, ("restrict pty",), "pkengine"),
            AuthorizedKey("ssh-ed25519", (), "pkengine"),
            AuthorizedKey(NEW),
        ):
            self.assertRaises(ValueError, authorize, OTHERS, entry)

    @given(st.text(alphabet='ab"\\,= #\n', max_size=80))
    def test_other_lines_survive_whatever_they_are(self, text):
        there = authorize(text, ENTRY)
        back = deauthorize(there, marker="pkengine@engine1")
        self.assertIn(back, (text, text + "\n"))


class OwnLinesTests(SynchronousTestCase):
    def test_the_line_of_an_older_version_becomes_todays(self):
        text = f"{OTHERS}{NEW} pkengine\n{OTHERS}"
        self.assertEqual(authorize(text, ENTRY), f"{OTHERS}{ENTRY}\n{OTHERS}")

    def test_the_line_of_this_key_under_the_engines_former_name_is_its_own(self):
        text = f"{NEW} pkengine@before\n{OTHERS}"
        self.assertEqual(authorize(text, ENTRY), f"{ENTRY}\n{OTHERS}")

    def test_an_older_version_of_another_engine_is_left_alone(self):
        text = f"{OLD} pkengine\n"
        self.assertEqual(authorize(text, ENTRY), f"{text}{ENTRY}\n")
        self.assertIsNone(own_line(text, ENTRY))

    def test_options_on_an_own_line_stay_where_none_are_wanted(self):
        text = f'from="192.0.2.1" {NEW} pkengine\n{OLD} pkengine@engine1\n'
        kept = AuthorizedKey(NEW, ('from="192.0.2.1"',), "pkengine@engine1")
        entry = AuthorizedKey(NEW, (), "pkengine@engine1")
        self.assertEqual(authorize(text, entry, keeps_options=True), f"{kept}\n")
        self.assertEqual(authorize(text, entry), f"{entry}\n")


class BesideTests(SynchronousTestCase):
    def test_the_new_key_stands_behind_the_old_one_until_that_is_removed(self):
        old = AuthorizedKey(OLD, (), "pkengine@engine1")
        both = authorize(f"{OTHERS}{old}\n# end\n", ENTRY, beside=OLD)
        self.assertEqual(both, f"{OTHERS}{old}\n{ENTRY}\n# end\n")
        self.assertEqual(authorize(both, ENTRY, beside=OLD), both)
        self.assertEqual(deauthorize(both, keys=[OLD]), f"{OTHERS}{ENTRY}\n# end\n")

    def test_an_older_versions_line_is_found_by_the_old_key(self):
        text = f"restrict {OLD} pkengine\n"
        entry = AuthorizedKey(NEW, (), "pkengine@engine1")
        heir = AuthorizedKey(NEW, ("restrict",), "pkengine@engine1")
        self.assertEqual(authorize(text, entry, beside=OLD, keeps_options=True), f"{text}{heir}\n")

    def test_somebody_elses_limits_hold_for_the_new_key_too(self):
        by_hand = f'from="10.0.0.1" {OLD} put here by hand\n'
        heir = f'from="10.0.0.1" {NEW} put here by hand\n'
        both = authorize(f"{by_hand}{OTHERS}", ENTRY, beside=OLD)
        self.assertEqual(both, f"{by_hand}{heir}{OTHERS}")
        self.assertEqual(authorize(both, ENTRY, beside=OLD), both)
        self.assertEqual(deauthorize(both, keys=[OLD]), f"{heir}{OTHERS}")

    def test_without_the_old_key_the_new_one_is_just_added(self):
        self.assertEqual(authorize(OTHERS, ENTRY, beside=OLD), f"{OTHERS}{ENTRY}\n")

    @given(
        st.permutations([f"{OLD} pkengine", f"{NEW} pkengine@engine1", f"{OLD} by hand", "# x"])
    )
    def test_in_whatever_order_the_lines_are_the_new_key_alone_is_left(self, lines):
        text = "".join(f"{line}\n" for line in lines)
        both = authorize(text, ENTRY, beside=OLD)
        self.assertEqual(authorize(both, ENTRY, beside=OLD), both)
        after = deauthorize(both, keys=[OLD]).splitlines()
        self.assertEqual(sorted(after), sorted(["# x", f"{NEW} by hand"]))


class DeauthorizeTests(SynchronousTestCase):
    def test_all_lines_with_the_marker_are_removed(self):
        text = f"{OLD} pkengine@engine1\n{OTHERS}{ENTRY}\n"
        self.assertEqual(deauthorize(text, marker="pkengine@engine1"), OTHERS)

    def test_all_lines_with_the_key_are_removed(self):
        text = f"{OTHERS}{NEW}\nrestrict {NEW} by hand\n"
        self.assertEqual(deauthorize(text, keys=[NEW]), OTHERS)

    def test_a_file_without_it_stays_as_it_is(self):
        for text in ("", OTHERS, OTHERS[:-1], "\n\n"):
            self.assertEqual(deauthorize(text, marker="pkengine@engine1", keys=[NEW]), text)


class SshdTests(OpenSshTestCase):
    if shutil.which("ssh-keygen") is None:
        skip = "ssh-keygen is not installed (Debian: openssh-client)"

    async def test_sshd_lets_a_restricted_key_in_from_here_and_nowhere_else(self):
        entry = AuthorizedKey(str(self.identity.public), (), "pkengine@engine1")
        for only_from, is_let_in in ((("127.0.0.0/8",), True), (("192.0.2.1",), False)):
            server = self.serve(name=str(is_let_in))
            options = parse_limits('restrict,from="{}"'.format(",".join(only_from)))
            marked = AuthorizedKey(entry.key, options, entry.comment)
            server.authorized_keys.write_text(authorize(OTHERS, marked))
            attempt = self.connect(server)
            if is_let_in:
                await self.check(await attempt)
            else:
                text = str(
                    await self.assertFailure(ensureDeferred(attempt), SshAuthenticationFailed)
                )
                self.assertIn("does not accept the key", text)

    def test_ssh_keygen_sees_the_same_keys(self):
        path = Path(self.mktemp())
        path.write_text(authorize(OTHERS, ENTRY))
        output = subprocess.run(
            ["ssh-keygen", "-lf", str(path)], capture_output=True, text=True, check=False
        ).stdout
        self.assertEqual(output.count("SHA256:"), 3)
