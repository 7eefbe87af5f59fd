"""Known SSH keys and jump hosts, as the commands say and ask them."""

from __future__ import annotations

from typing import Any

from pkengine.keys import SshPublicKey
from tests.cli.fake_engine import API, Asked
from tests.cli.running import Ended
from tests.cli.test_bulk_add import BulkTestCase
from tests.cli.test_commands import KEY, CommandTestCase, host

JUMP_KEY = SshPublicKey.from_blob(KEY.blob[:-1] + b"\x01")
JUMP = str(JUMP_KEY.fingerprint())
RIGHT = str(KEY.fingerprint())
KNOWN = {
    "id": "11111111-47af-4ce6-92f7-62a54a821ad2",
    "names": "*.example.org",
    "marker": "@cert-authority",
    "type": "ssh-ed25519",
    "fingerprint": RIGHT,
    "public_key": str(KEY),
    "key_source": "known_hosts",
    "user_name": "admin@internal",
}


class KnownHostTests(CommandTestCase):
    def file(self, content: str) -> str:
        path = self.folder / "known_hosts"
        path.write_text(content)
        return str(path)

    async def test_a_file_is_imported_and_what_was_taken_is_shown(self) -> None:
        plain = KNOWN | {"names": "web,192.0.2.1", "marker": None}
        taken = [
            plain | {"is_new": "true", "hosts": {"name": ["web"]}},
            KNOWN | {"is_new": "false"},
        ]
        self.engine.answers["POST /knownhosts/import"] = (200, {"imported_host": taken})
        content = f"web,192.0.2.1 {KEY}\n@cert-authority *.example.org {KEY}\n"
        path = self.file(content)
        ended = await self.run_command("known-hosts", "import", path)
        self.assertEqual(ended.status, 0, ended.err)
        _, first, second = ended.out.splitlines()
        self.assertEqual(
            first.split(), ["web,192.0.2.1", "host", "ssh-ed25519", RIGHT, "new", "web"]
        )
        self.assertEqual(second.split()[:4], ["*.example.org", "authority", "ssh-ed25519", RIGHT])
        self.assertIn("known already", second)
        self.assertEqual(self.body("POST /knownhosts/import"), {"name": path, "content": content})

    async def test_a_bad_line_is_named_and_nothing_is_sent(self) -> None:
        path = self.file(f"web {KEY}\nweb ssh-ed25519 x\n")
        ended = await self.run_command("known-hosts", "import", path)
        self.assertEqual(ended.status, 2)
        self.assertIn(f"{path}, line 2: ", ended.err)
        ended = await self.run_command("known-hosts", "import", "-", stdin=b"nonsense\n")
        self.assertEqual(ended.status, 2)
        self.assertIn("standard input, line 1: ", ended.err)
        ended = await self.run_command("known-hosts", "import", "/does/not/exist")
        self.assertEqual(ended.status, 2)
        self.assertEqual(self.engine.asked, [])

    async def test_export_prints_the_lines(self) -> None:
        content = f"[web]:2222 {KEY}\n@revoked * {JUMP_KEY}\n"
        self.engine.answers["GET /knownhosts/export"] = (200, {"content": content})
        ended = await self.run_command("known-hosts", "export")
        self.assertEqual((ended.status, ended.out), (0, content), ended.err)

    async def test_authorities_are_added_listed_and_removed(self) -> None:
        plain = KNOWN | {"id": "2" * 36, "marker": None, "fingerprint": JUMP}
        self.engine.answers["POST /knownhosts"] = (201, KNOWN)
        self.engine.answers["GET /knownhosts"] = (200, {"known_host": [plain, KNOWN]})
        self.engine.answers[f"DELETE /knownhosts/{KNOWN['id']}"] = (200, {})
        key_file = self.folder / "ca.pub"
        key_file.write_text(f"{KEY} the-ca\n")
        ended = await self.run_command("host-ca", "add", "*.example.org", str(key_file))
        self.assertEqual(
            (ended.status, ended.out),
            (0, f"{RIGHT} is known as authority for *.example.org.\n"),
            ended.err,
        )
        self.assertEqual(
            self.body("POST /knownhosts"),
            {"marker": "@cert-authority", "names": "*.example.org", "public_key": str(KEY)},
        )
        ended = await self.run_command("host-ca", "list")
        self.assertIn(RIGHT, ended.out)
        self.assertNotIn(JUMP, ended.out)
        ended = await self.run_command("known-hosts", "list")
        self.assertIn(JUMP, ended.out)
        ended = await self.run_command("host-ca", "remove", JUMP)
        self.assertEqual(ended.status, 5)
        ended = await self.run_command("host-ca", "remove", RIGHT)
        self.assertEqual(ended.status, 0, ended.err)
        self.assertIn(f"DELETE {API}/knownhosts/{KNOWN['id']}", self.engine.paths())

    async def test_a_key_is_revoked_for_all_hosts_unless_told_otherwise(self) -> None:
        self.engine.answers["POST /knownhosts"] = (201, KNOWN | {"marker": "@revoked"})
        ended = await self.run_command("known-hosts", "revoke", str(KEY))
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(
            self.body("POST /knownhosts"),
            {"marker": "@revoked", "names": "*", "public_key": str(KEY)},
        )


class StandingTests(CommandTestCase):
    def shown(self, **more: Any) -> None:
        self.engine.answers["GET /sshkeys"] = (
            200,
            {"ssh_key": [{"public_key": str(KEY), **more}]},
        )

    async def test_a_key_that_the_engine_knows_is_accepted_without_a_question(self) -> None:
        self.shown(standing="known", key_source="certificate")
        ended = await self.add("--use-engine-key")
        self.assertEqual(ended.status, 0, ended.err)
        self.assertIn(f"is known: ED25519 {RIGHT}, by certificate.", ended.err)
        self.assertNotIn("fingerprint", self.body("POST /hosts")["ssh"])
        ended = await self.run_command("host", "fingerprint", "192.0.2.1")
        self.assertEqual(ended.out, f"{RIGHT} 192.0.2.1 (ED25519) known by certificate\n")

    async def test_another_one_than_the_engine_knows_cannot_be_waved_through(self) -> None:
        for standing, part in (("mismatch", "knows another SSH key"), ("revoked", "revoked")):
            self.shown(standing=standing)
            ended = await self.add("--use-engine-key", dialogue=[(part, b"yes\n")])
            self.assertEqual(ended.status, 6, ended.out)
        self.assertNotIn(f"POST {API}/hosts", self.engine.paths())


class JumpTests(CommandTestCase):
    def keys_are_shown(self, **more: Any) -> None:
        jump = {"public_key": str(JUMP_KEY), **more}
        self.engine.answers["GET /sshkeys"] = (200, {"ssh_key": [jump]})
        self.engine.answers["POST /sshkeys"] = (200, {"ssh_key": [{"public_key": str(KEY)}]})

    async def test_a_person_is_asked_about_the_jump_host_and_then_about_the_host(self) -> None:
        self.keys_are_shown()
        ended = await self.add(
            *("--use-engine-key", "--jump", "ops@bastion:2222"),
            dialogue=[
                ("The authenticity of jump host 'bastion' (port 2222)", b""),
                (f"{JUMP}.", b""),
                ("Go through this jump host (yes/no/[fingerprint])? ", b"yes\n"),
                (f"{RIGHT}.", b""),
                ("Add this host (yes/no/[fingerprint])? ", b"yes\n"),
            ],
        )
        self.assertEqual(ended.status, 0, ended.out)
        jump = {
            "address": "bastion",
            "port": 2222,
            "user": {"user_name": "ops"},
            "fingerprint": JUMP,
        }
        ssh = self.body("POST /hosts")["ssh"]
        self.assertEqual(ssh["fingerprint"], RIGHT)
        self.assertEqual(ssh["jump_hosts"], {"jump_host": [jump]})
        self.assertEqual(
            self.body("POST /sshkeys"),
            {"address": "192.0.2.1", "ssh": {"port": 22, "jump_hosts": {"jump_host": [jump]}}},
        )

    async def test_in_a_script_it_must_be_known_or_given(self) -> None:
        self.keys_are_shown()
        arguments = ("--use-engine-key", "--fingerprint", RIGHT, "--jump", "bastion")
        ended = await self.add(*arguments)
        self.assertEqual(ended.status, 2)
        self.assertIn("root@bastion must have, with --jump-fingerprint", ended.err)
        self.assertNotIn(f"POST {API}/hosts", self.engine.paths())
        self.keys_are_shown(standing="known", key_source="known_hosts")
        ended = await self.add(*arguments)
        self.assertEqual(ended.status, 0, ended.err)
        (jump,) = self.body("POST /hosts")["ssh"]["jump_hosts"]["jump_host"]
        self.assertNotIn("fingerprint", jump)

    async def test_a_chain_with_fingerprints_and_a_password_for_one(self) -> None:
        ended = await self.add(
            *("--use-engine-key", "--fingerprint", RIGHT, "--jump", "a,ops@[2001:db8::1]:22"),
            *("--jump-fingerprint", JUMP, "--jump-fingerprint", RIGHT),
        )
        self.assertEqual(ended.status, 0, ended.err)
        first, second = self.body("POST /hosts")["ssh"]["jump_hosts"]["jump_host"]
        self.assertEqual((first["address"], first["fingerprint"]), ("a", JUMP))
        self.assertEqual((second["address"], second["fingerprint"]), ("2001:db8::1", RIGHT))

    async def test_the_password_of_a_jump_host_goes_into_the_request_alone(self) -> None:
        ended = await self.add(
            *("--use-engine-key", "--fingerprint", RIGHT, "--jump", "b"),
            *("--jump-fingerprint", JUMP, "--jump-password-file", str(self.password_file)),
        )
        self.assertEqual(ended.status, 0, ended.err)
        (jump,) = self.body("POST /hosts")["ssh"]["jump_hosts"]["jump_host"]
        self.assertEqual(jump["user"], {"user_name": "root", "password": "ssh-secret-1"})
        self.assertNotIn("ssh-secret-1", ended.out + ended.err)

    async def test_install_goes_another_way_or_directly(self) -> None:
        self.engine.answers[f"POST /hosts/{host()['id']}/install"] = (200, {})
        ended = await self.run_command("host", "install", "web", "--jump", "none")
        self.assertEqual(ended.status, 0, ended.err)
        body = self.body(f"POST /hosts/{host()['id']}/install")
        self.assertEqual(body["ssh"]["jump_hosts"], {"jump_host": []})

    async def test_update_stores_another_way_without_going_there(self) -> None:
        self.engine.answers[f"PUT /hosts/{host()['id']}"] = (200, host())
        ended = await self.run_command(
            "host", "update", "web", "--jump", "b", "--ssh-port", "2222"
        )
        self.assertEqual((ended.status, ended.out), (0, "Host web was changed.\n"), ended.err)
        jump = {"address": "b", "port": 22, "user": {"user_name": "root"}}
        self.assertEqual(
            self.body(f"PUT /hosts/{host()['id']}"),
            {"ssh": {"port": 2222, "jump_hosts": {"jump_host": [jump]}}},
        )
        ended = await self.run_command("host", "update", "web")
        self.assertEqual(ended.status, 2)

    async def test_update_says_whether_a_proxy_may_end_tls_on_the_way(self) -> None:
        self.engine.answers[f"PUT /hosts/{host()['id']}"] = (200, host())
        for option in ("--require-direct", "--no-require-direct"):
            ended = await self.run_command("host", "update", "web", option)
            self.assertEqual(ended.status, 0, ended.err)
        said = [asked.body for asked in self.engine.asked if asked.method == "PUT"]
        self.assertEqual(said, [{"require_direct": True}, {"require_direct": False}])

    async def test_what_does_not_go_together_is_refused_before_anything_is_asked(self) -> None:
        for arguments, part in (
            (("--jump-fingerprint", JUMP), "Say with --jump"),
            (("--jump", "a,b", "--jump-fingerprint", JUMP), "once for each"),
            (("--jump", "a,b", "--jump-password-file", "-"), "where there is one jump host"),
            (("--jump", "a:b"), "malformed"),
            (("--jump", "a:99999"), "out of range"),
        ):
            ended = await self.add("--use-engine-key", "--fingerprint", RIGHT, *arguments)
            self.assertEqual(ended.status, 2, ended.err)
            self.assertIn(part, ended.err)
        self.assertEqual(self.engine.asked, [])

    async def test_show_tells_the_way_and_the_proved_keys(self) -> None:
        jump = {"address": "b", "port": "22", "user": {"user_name": "ops"}}
        proved = {"type": "ssh-rsa", "fingerprint": JUMP}
        ssh = {"jump_hosts": {"jump_host": [jump]}, "proved_keys": {"ssh_key": [proved]}}
        self.engine.answers["GET /hosts"] = (200, {"host": [host(ssh=ssh)]})
        ended = await self.run_command("host", "show", "web")
        self.assertRegex(ended.out, r"Jump hosts +ops@b port 22\n")
        self.assertIn(f"ssh-rsa {JUMP}\n", ended.out)


class BulkJumpTests(BulkTestCase):
    async def added(self, content: str, *more: str) -> Ended:
        def show(asked: Asked) -> tuple[int, Any]:
            return 200, {"ssh_key": [{"public_key": str(KEY)}]}

        self.engine.answers["POST /sshkeys"] = show
        return await self.add_given(content, *more)

    async def test_each_row_may_have_its_own_way_which_is_judged_once(self) -> None:
        self.engine.answers["GET /sshkeys"] = (
            200,
            {"ssh_key": [{"public_key": str(KEY), "standing": "known", "key_source": "dns"}]},
        )
        ended = await self.added(
            "name,address,fingerprint,jump\n"
            f"a,192.0.2.1,{RIGHT},ops@bastion\n"
            f"b,192.0.2.2,{RIGHT},ops@bastion\n"
            f"c,192.0.2.3,{RIGHT},none\n"
        )
        self.assertEqual(ended.status, 0, ended.err)
        ways = {body["name"]: body["ssh"].get("jump_hosts") for body in self.fleet.added}
        way = {"jump_host": [{"address": "bastion", "port": 22, "user": {"user_name": "ops"}}]}
        self.assertEqual(ways, {"a": way, "b": way, "c": {"jump_host": []}})
        looked_at = [
            a.parameters["address"]
            for a in self.engine.asked
            if a.method == "GET" and a.path == f"{API}/sshkeys"
        ]
        self.assertEqual(sorted(looked_at), ["192.0.2.3", "bastion"])

    async def test_a_jump_host_that_is_not_known_ends_it_before_the_review(self) -> None:
        ended = await self.added(f"name,address,fingerprint,jump\na,192.0.2.1,{RIGHT},b\n")
        self.assertEqual(ended.status, 2)
        self.assertIn("jump host root@b", ended.err)
        self.assertEqual(self.fleet.added, [])

    async def test_a_way_in_the_file_is_checked_like_everything_else(self) -> None:
        ended = await self.added("name,address,jump\na,192.0.2.1,x@@y\n")
        self.assertEqual(ended.status, 2)
        self.assertIn("hosts.csv:2: The jump host 'x@@y' is malformed", ended.err)
        self.assertEqual(self.engine.asked, [])

    async def test_what_the_engine_knows_is_a_match_or_a_mismatch(self) -> None:
        for standing, status, outcome in (("known", 0, "added"), ("mismatch", 1, "failed")):
            self.engine.answers["GET /sshkeys"] = (
                200,
                {"ssh_key": [{"public_key": str(KEY), "standing": standing}]},
            )
            ended = await self.added("name,address\na,192.0.2.1\n")
            self.assertEqual(ended.status, status, ended.err)
            self.assertIn(outcome, ended.out)
            self.fleet.hosts.clear()
