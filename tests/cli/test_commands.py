"""What the commands ask of an engine, what they print and what they exit with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pkengine.keys import SshPublicKey
from tests.cli.fake_engine import API, PASSWORD, SILENCE, Asked, FakeEngine
from tests.cli.running import Ended, environment, pkengine, start_pkengine

KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
)
ID = "8c2e9951-47af-4ce6-92f7-62a54a821ad2"
OTHER = "SHA256:irHeg88RepKvs+ZpOgfV1WRlhQDwlLdkI+71yGHIzKE"
SSH_PASSWORD = "ssh-secret-1"


def host(status: str = "up", **more: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "name": "web",
        "address": "192.0.2.1",
        "status": status,
        "connection": "agent-dials",
        "mechanism": "hmac",
        **more,
    }


def event(index: int, description: str, severity: str = "normal") -> dict[str, Any]:
    return {
        "id": str(index),
        "index": str(index),
        "severity": severity,
        "time": 1_700_000_000_000,
        "description": description,
        "host": {"id": ID, "name": "web"},
    }


class CommandTestCase(TestCase):
    async def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.engine = FakeEngine(reactor, self.folder)
        await self.engine.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.engine.stop()))
        self.engine.answers["GET /hosts"] = (200, {"host": [host()]})
        self.engine.answers[f"GET /hosts/{ID}"] = (200, host())
        self.engine.answers[f"GET /hosts/{ID}/jobs"] = (200, {"job": []})
        self.engine.answers["GET /events"] = (200, {"event": [event(7, "before")]})
        self.engine.answers["POST /hosts"] = (201, host("installing"))
        self.password_file = self.folder / "ssh-password"
        self.password_file.write_text(SSH_PASSWORD + "\n")

    async def run_command(self, *arguments: str, **how: Any) -> Ended:
        return await pkengine("--state", str(self.folder), *arguments, **how)

    def body(self, request: str) -> Any:
        """Give the body of the one such request."""
        method, path = request.split()
        (asked,) = (a for a in self.engine.asked if (a.method, a.path) == (method, API + path))
        return asked.body

    async def add(self, *arguments: str, **how: Any) -> Ended:
        return await self.run_command("host", "add", "web", "192.0.2.1", *arguments, **how)


class CommandTests(CommandTestCase):
    # Reading.

    async def test_list_prints_aligned_columns(self) -> None:
        ended = await self.run_command("host", "list", "--search", "status=up")
        self.assertEqual(ended.status, 0, ended.err)
        head, row = ended.out.splitlines()
        self.assertEqual(
            head.split(), ["NAME", "ADDRESS", "STATUS", "CONNECTION", "MECHANISM", "ID"]
        )
        self.assertEqual(row.split(), ["web", "192.0.2.1", "up", "agent-dials", "hmac", ID])
        self.assertEqual(row.index("up"), head.index("STATUS"))
        self.assertEqual(self.engine.asked[1].parameters, {"search": "status=up"})

    async def test_json_is_what_the_engine_said(self) -> None:
        ended = await self.run_command("host", "list", "--json")
        self.assertEqual(ended.json(), [host()])
        ended = await self.run_command("host", "show", "web", "--json")
        self.assertEqual(ended.json(), host())

    async def test_text_from_the_engine_cannot_steer_the_terminal(self) -> None:
        self.engine.answers["GET /hosts"] = (200, {"host": [host(comment="a\x1b]0;b\x07\nc")]})
        ended = await self.run_command("host", "show", "web")
        self.assertNotIn("\x1b", ended.out)
        self.assertNotIn("\x07", ended.out)
        self.assertIn("c", ended.out.splitlines()[-1])

    async def test_the_keys_of_a_host_are_shown_with_where_they_came_from(self) -> None:
        key = {
            "value": "kid//0b9f4e2d7c1a48e5a3d6f80912b7c4de",
            "mechanism": "hmac",
            "source": "deployed",
            "added": 1_700_000_000_000,
        }
        self.engine.answers["GET /hosts"] = (200, {"host": [host(trust={"keys": {"key": [key]}})]})
        ended = await self.run_command("host", "show", "web")
        facts = {line[:10].strip(): line[12:] for line in ended.out.splitlines()}
        self.assertEqual((facts["Connection"], facts["Mechanism"]), ("agent-dials", "hmac"))
        self.assertIn(f"{key['value']} for hmac, deployed ", facts["Agent key"])
        self.assertIn("2023-11-1", facts["Agent key"])

    async def test_a_host_is_found_by_id_without_listing_all(self) -> None:
        ended = await self.run_command("host", "show", ID)
        self.assertEqual(ended.status, 0, ended.err)
        self.assertNotIn(f"GET {API}/hosts", self.engine.paths())

    async def test_an_unknown_host_is_not_found(self) -> None:
        ended = await self.run_command("host", "show", "nobody")
        self.assertEqual((ended.status, ended.out), (5, ""))
        self.assertEqual(ended.err, "pkengine: There is no host 'nobody'.\n")

    async def test_ssh_key_is_printed_for_everybody(self) -> None:
        self.engine.answers["GET /ovirt-engine/services/pki-resource"] = (200, f"{KEY} engine\n")
        ended = await self.run_command("ssh-key")
        self.assertEqual((ended.status, ended.out), (0, f"{KEY} engine\n"))
        self.assertEqual(self.engine.issued, 0)

    async def test_fingerprint_prints_what_ssh_keygen_would(self) -> None:
        self.engine.answers["GET /sshkeys"] = (200, {"ssh_key": [{"public_key": str(KEY)}]})
        ended = await self.run_command("host", "fingerprint", "192.0.2.1", "--port", "2222")
        self.assertEqual(ended.out, f"{KEY.fingerprint()} 192.0.2.1 (ED25519)\n")
        self.assertEqual(self.engine.asked[1].parameters, {"address": "192.0.2.1", "port": "2222"})

    # Key changes.

    def pend(self) -> str:
        path = f"/hosts/{ID}/keychange"
        change = {
            "id": ID,
            "host": {"id": ID, "name": "web"},
            "seen_at": "192.0.2.1 port 22",
            "old_key": {"type": "ssh-ed25519", "fingerprint": OTHER},
            "new_keys": {
                "ssh_key": [{"type": KEY.key_type, "fingerprint": str(KEY.fingerprint())}]
            },
            "operation": "install",
            "user_name": "admin@internal",
            "first_seen": 1_700_000_000_000,
            "last_seen": 1_700_000_060_000,
            "times_seen": "2",
        }
        self.engine.answers[f"GET {path}"] = (200, change)
        self.engine.answers["GET /keychanges"] = (200, {"key_change": [change]})
        for verb in ("approve", "reject"):
            self.engine.answers[f"POST {path}/{verb}"] = (200, {"status": "complete"})
        return path

    async def test_a_key_change_shows_the_stored_and_the_found_key(self) -> None:
        self.pend()
        ended = await self.run_command("host", "key-change", "web")
        self.assertEqual(ended.status, 0, ended.err)
        facts = {line[:10].strip(): line[12:] for line in ended.out.splitlines()}
        self.assertEqual(facts["Stored"], f"{OTHER} ssh-ed25519")
        self.assertEqual(facts["Found"], f"{KEY.fingerprint()} ssh-ed25519")
        self.assertEqual(facts["Refused"], "install by admin@internal")
        ended = await self.run_command("host", "key-change")
        self.assertEqual(ended.out.splitlines()[1].split()[:3], ["web", "192.0.2.1", "port"])

    async def test_a_key_change_is_decided_on_by_the_fingerprint_that_is_given(self) -> None:
        path = self.pend()
        ended = await self.run_command(
            "host", "key-change", "web", "--approve", str(KEY.fingerprint())
        )
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(
            self.body(f"POST {path}/approve"), {"ssh": {"fingerprint": str(KEY.fingerprint())}}
        )
        ended = await self.run_command("host", "key-change", "web", "--reject")
        self.assertEqual(ended.out, "Host web keeps its stored SSH host key.\n")
        self.assertIn(f"POST {API}{path}/reject", self.engine.paths())

    async def test_a_key_change_is_not_decided_on_by_halves(self) -> None:
        self.pend()
        for arguments in (
            ("web", "--approve", "yes"),
            ("web", "--approve", str(KEY.fingerprint()), "--reject"),
            ("--reject",),
        ):
            ended = await self.run_command("host", "key-change", *arguments)
            self.assertEqual(ended.status, 2, arguments)
        self.assertEqual(self.engine.asked, [])

    async def test_add_tells_that_the_engines_key_does_not_get_in(self) -> None:
        refused = event(
            9, "Host web was installed, but its SSH server refuses the key.", "warning"
        )
        about_another = {**refused, "host": {"id": "x"}, "description": "Not this one."}
        found = [
            event(8, "before"),
            refused | {"code": "13201"},
            about_another | {"code": "13201"},
        ]
        self.engine.answers["GET /events"] = (200, {"event": found})
        ended = await self.add(
            *("--fingerprint", OTHER, "--password-file", str(self.password_file))
        )
        self.assertEqual((0, "Host web is up.\n"), (ended.status, ended.out))
        self.assertIn("its SSH server refuses the key.", ended.err)
        self.assertNotIn("Not this one.", ended.err)

    # Events.

    async def test_events_come_oldest_first(self) -> None:
        found = [event(9, "newer", "error"), event(8, "older")]
        self.engine.answers["GET /events"] = (200, {"event": found})
        ended = await self.run_command("events", "--max", "2")
        older, newer = ended.out.splitlines()
        self.assertTrue(older.endswith("normal   older"), older)
        self.assertTrue(newer.endswith("error    newer"), newer)

    async def test_following_prints_each_event_once_until_an_interrupt(self) -> None:
        asked_after: list[str] = []
        following: Deferred[None] = Deferred()

        def answer(asked: Asked) -> tuple[int, Any]:
            after = asked.parameters.get("from")
            if after is None:
                return 200, {"event": [event(8, "first")]}
            asked_after.append(after)
            if len(asked_after) == 1:
                return 200, {"event": [event(9, "second")]}
            following.callback(None)
            return SILENCE

        self.engine.answers["GET /events"] = answer
        command = start_pkengine("--state", str(self.folder), "events", "--follow", "--json")
        await following
        command.transport.signalProcess("INT")
        ended = await command.ended
        described = [json.loads(line)["description"] for line in ended.out.splitlines()]
        self.assertEqual(described, ["first", "second"])
        self.assertEqual(asked_after, ["8", "9"])
        self.assertEqual((ended.status, ended.err), (130, ""))

    # Adding.

    async def test_add_sends_all_that_was_said_and_waits_until_the_host_is_up(self) -> None:
        ended = await self.add(
            *("--fingerprint", str(KEY.fingerprint()), "--password-file", str(self.password_file)),
            *("--ssh-port", "2222", "--ssh-user", "admin", "--port", "5000"),
            *("--cluster", "Default", "--comment", "a comment"),
        )
        self.assertEqual((ended.status, ended.out), (0, "Host web is up.\n"), ended.err)
        self.assertEqual(
            self.body("POST /hosts"),
            {
                "name": "web",
                "address": "192.0.2.1",
                "port": 5000,
                "cluster": {"name": "Default"},
                "comment": "a comment",
                "ssh": {
                    "authentication_method": "password",
                    "port": 2222,
                    "fingerprint": str(KEY.fingerprint()),
                    "user": {"user_name": "admin", "password": SSH_PASSWORD},
                },
            },
        )

    async def test_add_with_the_engines_key_sends_no_password(self) -> None:
        key_file = self.folder / "host.pub"
        key_file.write_text(f"{KEY} root@web\n")
        ended = await self.add("--ssh-public-key", str(key_file), "--use-engine-key", "--no-wait")
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(
            self.body("POST /hosts")["ssh"],
            {"authentication_method": "publickey", "public_key": str(KEY)},
        )

    async def test_a_password_can_come_on_standard_input(self) -> None:
        ended = await self.add(
            "--trust-on-first-use", "--password-file", "-", stdin=b"from-stdin\nrest"
        )
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(self.body("POST /hosts")["ssh"]["user"], {"password": "from-stdin"})

    async def test_without_a_key_and_without_a_person_only_a_known_one_is_accepted(self) -> None:
        self.keys_are_shown()
        ended = await self.add("--use-engine-key")
        self.assertEqual(ended.status, 2)
        self.assertIn("--fingerprint", ended.err)
        self.assertNotIn(f"POST {API}/hosts", self.engine.paths())

    async def test_without_a_way_to_log_in_nothing_is_asked_of_the_engine(self) -> None:
        ended = await self.add("--fingerprint", str(KEY.fingerprint()))
        self.assertEqual(ended.status, 2)
        self.assertIn("--password-file", ended.err)
        self.assertEqual(self.engine.asked, [])

    async def test_a_malformed_fingerprint_is_refused_before_anything_is_asked(self) -> None:
        ended = await self.add("--fingerprint", "SHA256:short", "--use-engine-key")
        self.assertEqual(ended.status, 2)
        self.assertIn("'SHA256:short' is not an SSH fingerprint", ended.err)
        self.assertEqual(self.engine.asked, [])

    async def test_options_that_contradict_each_other_are_refused(self) -> None:
        for arguments in (
            ("--fingerprint", str(KEY.fingerprint()), "--trust-on-first-use", "--use-engine-key"),
            ("--trust-on-first-use", "--use-engine-key", "--ask-password"),
        ):
            ended = await self.add(*arguments)
            self.assertEqual(ended.status, 2)
            self.assertIn("Give only one of", ended.err)
        self.assertNotIn(f"POST {API}/hosts", self.engine.paths())

    async def test_a_refusal_of_the_engine_is_one_sentence_and_status_6(self) -> None:
        fault = {"reason": "Operation Failed", "detail": "The SSH host key does not match."}
        self.engine.answers["POST /hosts"] = (409, fault)
        ended = await self.add("--trust-on-first-use", "--use-engine-key")
        self.assertEqual(
            (ended.status, ended.out, ended.err),
            (6, "", "pkengine: The SSH host key does not match.\n"),
        )

    async def test_a_failed_deployment_shows_its_steps_and_ends_with_the_events_sentence(
        self,
    ) -> None:
        self.engine.answers[f"GET /hosts/{ID}"] = (200, host("install_failed"))
        self.engine.answers[f"GET /hosts/{ID}/jobs"] = (200, {"job": [{"id": "j"}]})
        steps = [
            {"id": "b", "number": "2", "description": "Send the agent", "status": "failed"},
            {"id": "a", "number": "1", "description": "Look", "status": "finished"},
            {"id": "c", "number": "3", "description": "Start it", "status": "unknown"},
        ]
        self.engine.answers["GET /jobs/j/steps"] = (200, {"step": steps})

        def events(asked: Asked) -> tuple[int, Any]:
            if "from" not in asked.parameters:
                return 200, {"event": [event(7, "an old failure", "error")]}
            self.assertEqual(asked.parameters["from"], "7")
            return 200, {"event": [event(8, "The disk of web is full.", "error")]}

        self.engine.answers["GET /events"] = events
        ended = await self.add("--trust-on-first-use", "--use-engine-key")
        self.assertEqual((ended.status, ended.out), (1, ""))
        self.assertEqual(
            ended.err.splitlines(),
            ["  ✓ Look", "  ✗ Send the agent", "pkengine: The disk of web is full."],
        )

    async def test_waiting_ends_at_the_deadline_and_says_how_to_go_on(self) -> None:
        self.engine.answers[f"GET /hosts/{ID}"] = (200, host("installing"))
        ended = await self.add("--trust-on-first-use", "--use-engine-key", "--timeout", "1")
        self.assertEqual(ended.status, 1)
        self.assertIn("still installing after 1 s", ended.err)

    # A person at a terminal.

    def keys_are_shown(self) -> None:
        self.engine.answers["GET /sshkeys"] = (200, {"ssh_key": [{"public_key": str(KEY)}]})

    async def test_a_person_is_shown_the_fingerprint_before_the_password_is_asked(self) -> None:
        self.keys_are_shown()
        ended = await self.add(
            dialogue=[
                (f"{KEY.fingerprint()}.", b""),
                ("(yes/no/[fingerprint])? ", b"yes\n"),
                ("SSH password for 192.0.2.1", b"typed-secret\n"),
            ]
        )
        self.assertEqual(ended.status, 0, ended.out)
        self.assertNotIn("typed-secret", ended.out)
        ssh = self.body("POST /hosts")["ssh"]
        self.assertEqual(ssh["fingerprint"], str(KEY.fingerprint()))
        self.assertEqual(ssh["user"], {"password": "typed-secret"})

    async def test_a_pasted_fingerprint_must_be_that_of_the_host(self) -> None:
        self.keys_are_shown()
        right = KEY.fingerprint("MD5")
        wrong = "SHA256:" + "A" * 43
        for pasted, status in ((str(right), 0), (wrong, 6)):
            ended = await self.add(
                "--use-engine-key",
                dialogue=[
                    ("(yes/no/[fingerprint])? ", b"perhaps\n"),
                    ("(yes/no/[fingerprint])? ", pasted.encode() + b"\n"),
                ],
            )
            self.assertEqual(ended.status, status, ended.out)
        self.assertEqual(self.body("POST /hosts")["ssh"]["fingerprint"], str(right))

    async def test_no_means_no(self) -> None:
        self.keys_are_shown()
        ended = await self.add(dialogue=[("(yes/no/[fingerprint])? ", b"no\n")])
        self.assertEqual(ended.status, 6)
        self.assertNotIn(f"POST {API}/hosts", self.engine.paths())

    # Acting.

    async def test_actions_wait_for_their_goal(self) -> None:
        self.engine.answers[f"POST /hosts/{ID}/deactivate"] = (200, {"status": "complete"})
        self.engine.answers[f"GET /hosts/{ID}"] = (200, host("maintenance"))
        ended = await self.run_command("host", "deactivate", "web", "--reason", "new disk")
        self.assertEqual(
            (ended.status, ended.out), (0, "Host web is in maintenance.\n"), ended.err
        )
        self.assertEqual(self.body(f"POST /hosts/{ID}/deactivate"), {"reason": "new disk"})

    async def test_install_uses_the_engines_key_and_takes_a_new_fingerprint(self) -> None:
        self.engine.answers[f"POST /hosts/{ID}/install"] = (200, {"status": "complete"})
        ended = await self.run_command(
            "host", "install", "web", "--fingerprint", str(KEY.fingerprint())
        )
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(
            self.body(f"POST /hosts/{ID}/install"),
            {
                "activate": True,
                "reboot": False,
                "ssh": {
                    "authentication_method": "publickey",
                    "fingerprint": str(KEY.fingerprint()),
                },
            },
        )

    async def test_rekey_waits_and_says_how_the_host_connects(self) -> None:
        self.engine.answers[f"POST /hosts/{ID}/rekey"] = (200, {"status": "complete"})
        way = {"connection": "agent-dials", "mechanism": "hmac"}
        self.engine.answers[f"GET /hosts/{ID}"] = (200, {**host("up"), **way})
        ended = await self.run_command(
            "host", "rekey", "web", "--connection", "agent-dials", "--mechanism", "hmac"
        )
        self.assertEqual(
            (ended.status, ended.out),
            (0, "Host web connects by 'agent-dials' and 'hmac'.\n"),
            ended.err,
        )
        self.assertEqual(self.body(f"POST /hosts/{ID}/rekey"), {**way, "async": False})

    async def test_remove_asks_for_no_more_than_was_said(self) -> None:
        self.engine.answers[f"DELETE /hosts/{ID}"] = (200, {"status": "complete"})
        for arguments, sent in (((), {}), (("--uninstall",), {"uninstall": "true"})):
            ended = await self.run_command("host", "remove", "web", *arguments)
            self.assertEqual(ended.status, 0, ended.err)
            deleted = [asked for asked in self.engine.asked if asked.method == "DELETE"]
            self.assertEqual(deleted[-1].parameters, sent)

    async def test_remove_cannot_go_to_a_host_that_is_not_to_be_asked(self) -> None:
        ended = await self.run_command("host", "remove", "web", "--force", "--uninstall")
        self.assertEqual(ended.status, 2)
        self.assertIn("only one of --force and --uninstall", ended.err)
        self.assertEqual(self.engine.asked, [])

    async def test_remove_deletes_the_host(self) -> None:
        self.engine.answers[f"DELETE /hosts/{ID}"] = (200, "")
        ended = await self.run_command("host", "remove", "web", "--force")
        self.assertEqual((ended.status, ended.out), (0, "Host web is removed.\n"), ended.err)
        self.assertEqual(
            [a.parameters for a in self.engine.asked if a.method == "DELETE"], [{"force": "true"}]
        )

    # Logging in.

    async def test_options_and_environment_say_which_engine(self) -> None:
        (self.folder / "admin-password").write_text(PASSWORD)
        by_option = (
            *("--url", self.engine.origin, "--ca-file", str(self.engine.ca_file)),
            *("--password-file", str(self.folder / "admin-password")),
        )
        ended = await pkengine(*by_option, "host", "list")
        self.assertEqual(ended.status, 0, ended.err)
        by_environment = environment(
            PKENGINE_URL=f"{self.engine.origin}{API}",
            PKENGINE_CA_FILE=str(self.engine.ca_file),
            PKENGINE_PASSWORD=PASSWORD,
        )
        ended = await pkengine("host", "list", environ=by_environment)
        self.assertEqual(ended.status, 0, ended.err)

    async def test_a_wrong_password_is_status_4(self) -> None:
        ended = await self.run_command(
            "host", "list", environ=environment(PKENGINE_PASSWORD="not-the-one")
        )
        self.assertEqual((ended.status, ended.out), (4, ""))
        self.assertNotIn("not-the-one", ended.err)

    async def test_without_a_password_and_without_a_person_it_is_status_4(self) -> None:
        ended = await pkengine(
            "--url", self.engine.origin, "--ca-file", str(self.engine.ca_file), "host", "list"
        )
        self.assertEqual(ended.status, 4)
        self.assertIn("PKENGINE_PASSWORD", ended.err)

    async def test_an_engine_that_cannot_be_verified_is_status_3(self) -> None:
        ended = await pkengine(
            *("--url", self.engine.origin, "host", "list"),
            environ=environment(PKENGINE_PASSWORD=PASSWORD),
        )
        self.assertEqual(ended.status, 3)
        self.assertIn("--ca-file", ended.err)
        self.assertEqual(self.engine.asked, [])

    async def test_a_reader_that_has_enough_ends_the_command_quietly(self) -> None:
        many = [event(index, "x" * 200) for index in range(1, 2000)]
        self.engine.answers["GET /events"] = (200, {"event": many})
        command = start_pkengine("--state", str(self.folder), "events")
        command.transport.closeStdout()
        ended = await command.ended
        self.assertEqual((ended.status, ended.err), (1, ""))

    async def test_a_url_that_is_none_is_named(self) -> None:
        for url in ("http://engine.example", "engine.example", "https://", "https://a:b@c/"):
            ended = await pkengine("--url", url, "host", "list")
            self.assertEqual(ended.status, 2)
            self.assertIn(repr(url), ended.err)
