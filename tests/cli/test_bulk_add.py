"""``pkengine host add --from``: the review, who is asked, what is begun and how it ends."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pkengine.keys import SshPublicKey
from tests.cli.fake_engine import API, SILENCE, Asked, FakeEngine
from tests.cli.running import Ended, pkengine, start_pkengine

KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
)
RSA_KEY = SshPublicKey(
    "ssh-rsa", b"\x00\x00\x00\x07ssh-rsa\x00\x00\x00\x03\x01\x00\x01\x00\x00\x00\x01\x7f"
)
RIGHT = str(KEY.fingerprint())
WRONG = "SHA256:irHeg88RepKvs+ZpOgfV1WRlhQDwlLdkI+71yGHIzKE"
SSH_PASSWORD = "ssh-secret-1"


class Fleet:
    """Hosts behind a fake engine; each is up as soon as it was looked at twice."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.hosts: dict[str, dict[str, Any]] = {}
        self.added: list[dict[str, Any]] = []
        self.installed: list[str] = []
        self.unreachable: set[str] = set()
        self.failing: set[str] = set()
        self.keys: list[SshPublicKey] = [RSA_KEY, KEY]
        self.deploying = self.most_deploying = 0
        engine.answers["GET /hosts"] = lambda asked: (200, {"host": list(self.hosts.values())})
        engine.answers["POST /hosts"] = self.add
        engine.answers["GET /sshkeys"] = self.show_keys
        engine.answers["GET /events"] = (200, {"event": []})

    def put(self, name: str, address: str, status: str, **more: Any) -> str:
        host_id = str(uuid.uuid4())
        self.hosts[host_id] = {
            "id": host_id, "name": name, "address": address, "status": status, **more
        }  # fmt: skip
        self.engine.answers[f"GET /hosts/{host_id}"] = lambda asked: self.look(host_id)
        self.engine.answers[f"GET /hosts/{host_id}/jobs"] = (200, {"job": []})
        self.engine.answers[f"POST /hosts/{host_id}/install"] = lambda _: self.install(host_id)
        return host_id

    def add(self, asked: Asked) -> tuple[int, Any]:
        self.added.append(asked.body)
        name, address = asked.body["name"], asked.body["address"]
        if name == "refusing":
            return 409, {"detail": "It refused the password.", "reason": "Operation Failed"}
        host_id = self.put(name, address, "installing")
        self.begin()
        return 201, self.hosts[host_id]

    def install(self, host_id: str) -> tuple[int, Any]:
        self.installed.append(self.hosts[host_id]["name"])
        self.hosts[host_id]["status"] = "installing"
        self.begin()
        return 200, {"status": "complete"}

    def begin(self) -> None:
        self.deploying += 1
        self.most_deploying = max(self.most_deploying, self.deploying)

    def look(self, host_id: str) -> tuple[int, Any]:
        host = self.hosts[host_id]
        host["looks"] = host.get("looks", 0) + 1
        if host["status"] == "installing" and host["looks"] > 1:
            self.deploying -= 1
            fails = host["name"] in self.failing
            host["status"] = "install_failed" if fails else "up"
            host["status_detail"] = "Step 'upload': the disk is full." if fails else ""
        return 200, host

    def show_keys(self, asked: Asked) -> tuple[int, Any]:
        if asked.parameters["address"] in self.unreachable:
            return 409, {"detail": "Nobody answers there.", "reason": "Operation Failed"}
        return 200, {"ssh_key": [{"public_key": str(key)} for key in self.keys]}


class BulkTestCase(TestCase):
    async def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.engine = FakeEngine(reactor, self.folder)
        await self.engine.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.engine.stop()))
        self.fleet = Fleet(self.engine)
        self.password_file = self.folder / "ssh-password"
        self.password_file.write_text(SSH_PASSWORD + "\n")

    def arguments(self, content: str, *more: str, ending: str = "csv") -> tuple[str, ...]:
        file = self.folder / f"hosts.{ending}"
        file.write_text(content)
        return ("--state", str(self.folder), "host", "add", "--from", str(file), *more)

    async def add(self, content: str, *more: str, **how: Any) -> Ended:
        login = ("--password-file", str(self.password_file))
        return await pkengine(*self.arguments(content, *login, *more), **how)

    async def add_given(self, content: str, *more: str) -> Ended:
        return await self.add(content, "--yes", *more)


class ReviewTests(BulkTestCase):
    async def test_a_file_with_mistakes_asks_the_engine_nothing(self) -> None:
        ended = await self.add_given("name,address\na b,192.0.2.1\nc,?\n")
        self.assertEqual((ended.status, ended.out), (2, ""))
        self.assertIn("hosts.csv:2: ", ended.err)
        self.assertIn("hosts.csv:3: ", ended.err)
        self.assertEqual(self.engine.asked, [])

    async def test_each_row_is_judged_for_itself_and_only_the_right_ones_are_added(self) -> None:
        self.fleet.unreachable.add("192.0.2.5")
        self.fleet.put("there", "192.0.2.6", "up")
        self.fleet.put("namesake", "192.0.2.70", "up")
        ed25519_other = SshPublicKey.from_blob(KEY.blob[:-1] + b"\x01")
        self.fleet.keys = [KEY]
        ended = await self.add_given(
            "name,address,fingerprint,public_key\n"
            f"match,192.0.2.1,{RIGHT},\n"
            f"other,192.0.2.2,{WRONG},\n"
            f"changed,192.0.2.3,,{ed25519_other}\n"
            f"type,192.0.2.4,,{RSA_KEY}\n"
            f"gone,192.0.2.5,{RIGHT},\n"
            "there,192.0.2.6,,\n"
            f"namesake,192.0.2.7,{RIGHT},\n"
            "new,192.0.2.8,,\n",
            "--json",
        )
        self.assertEqual(ended.status, 1, ended.err)
        self.assertEqual(
            [(row["name"], row["judgement"], row["outcome"]) for row in ended.json()],
            [
                ("match", "match", "added"),
                ("other", "mismatch", "failed"),
                ("changed", "mismatch", "failed"),
                ("type", "other key type", "failed"),
                ("gone", "unreachable", "failed"),
                ("there", "there already", "skipped"),
                ("namesake", "conflict", "failed"),
                ("new", "first use", "not accepted"),
            ],
        )
        self.assertEqual([body["name"] for body in self.fleet.added], ["match"])
        self.assertIn("6 of 8 hosts were not added", ended.err)

    async def test_without_a_terminal_the_review_is_plain_lines_with_both_fingerprints(
        self,
    ) -> None:
        self.fleet.keys = [KEY]
        ended = await self.add_given(f"name,address,fingerprint\nweb,192.0.2.1,{WRONG}\n")
        self.assertIn(
            f"web  192.0.2.1  expected {WRONG}  found {RIGHT} ED25519  mismatch\n", ended.err
        )
        self.assertNotIn("\x1b", ended.err)

    async def test_a_host_that_is_there_already_is_not_looked_at(self) -> None:
        self.fleet.put("web", "192.0.2.1", "up")
        ended = await self.add_given("name,address\nweb,192.0.2.1\n")
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(ended.err, "web  192.0.2.1  there already  Its status is up.\n")
        self.assertNotIn(f"GET {API}/sshkeys", self.engine.paths())

    async def test_the_engine_out_of_reach_ends_it_all(self) -> None:
        self.engine.answers["GET /sshkeys"] = (503, "")
        ended = await self.add_given(f"name,address,fingerprint\nweb,192.0.2.1,{RIGHT}\n")
        self.assertEqual(ended.status, 1)
        self.assertEqual(
            ended.err, "pkengine: The engine answered GET /sshkeys with HTTP status 503.\n"
        )
        self.assertEqual(self.fleet.added, [])


class DeploymentTests(BulkTestCase):
    async def test_what_the_file_says_of_a_host_goes_before_the_options(self) -> None:
        ended = await self.add_given(
            "name,address,ssh_port,ssh_user,fingerprint,public_key,port,cluster,comment,"
            "description\n"
            f"full,192.0.2.1,2222,admin,,{KEY},54322,Other,rack 1,a host\n"
            f"bare,192.0.2.2,,,{RIGHT},,,,,\n",
            *("--ssh-user", "ops", "--port", "54400", "--comment", "new", "--parallel", "1"),
        )
        self.assertEqual(ended.status, 0, ended.err)
        full, bare = self.fleet.added
        self.assertEqual(
            full,
            {
                "name": "full",
                "address": "192.0.2.1",
                "ssh": {
                    "authentication_method": "password",
                    "user": {"user_name": "admin", "password": SSH_PASSWORD},
                    "port": 2222,
                    "public_key": str(KEY),
                },
                "port": 54322,
                "cluster": {"name": "Other"},
                "comment": "rack 1",
                "description": "a host",
            },
        )
        self.assertEqual(bare["ssh"]["user"]["user_name"], "ops")
        self.assertEqual(bare["ssh"]["fingerprint"], RIGHT)
        self.assertEqual((bare["port"], bare["comment"]), (54400, "new"))
        ports = [a.parameters["port"] for a in self.engine.asked if a.path == f"{API}/sshkeys"]
        self.assertEqual(sorted(ports), ["22", "2222"])

    async def test_yaml_does_the_same(self) -> None:
        content = f"- name: web\n  address: 192.0.2.1\n  fingerprint: {RIGHT}\n"
        login = ("--use-engine-key", "--yes")
        ended = await pkengine(*self.arguments(content, *login, ending="yaml"))
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(self.fleet.added[0]["ssh"]["authentication_method"], "publickey")

    async def test_no_more_than_asked_for_are_deployed_at_the_same_time(self) -> None:
        rows = "".join(f"h{n},192.0.2.{n},{RIGHT}\n" for n in range(1, 8))
        ended = await self.add_given(f"name,address,fingerprint\n{rows}", "--parallel", "3")
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(len(self.fleet.added), 7)
        self.assertEqual(self.fleet.most_deploying, 3)
        self.assertEqual(self.engine.issued, 1)

    async def test_one_that_fails_disturbs_no_other_and_is_in_the_summary_and_the_status(
        self,
    ) -> None:
        self.fleet.failing.add("full-disk")
        ended = await self.add_given(
            f"name,address,fingerprint\nrefusing,192.0.2.1,{RIGHT}\n"
            f"full-disk,192.0.2.2,{RIGHT}\nfine,192.0.2.3,{RIGHT}\n"
        )
        self.assertEqual(ended.status, 1)
        head, *rows = ended.out.splitlines()
        self.assertEqual(head.split(), ["NAME", "ADDRESS", "OUTCOME", "DETAIL"])
        self.assertEqual([row.split()[2] for row in rows], ["failed", "failed", "added"])
        self.assertIn("It refused the password.", rows[0])
        self.assertIn("the disk is full", rows[1])
        self.assertIn("✓ fine: added", ended.err)
        self.assertIn("✗ full-disk: failed", ended.err)
        self.assertNotIn(SSH_PASSWORD, ended.out + ended.err)

    async def test_the_same_file_again_skips_what_is_there_and_installs_what_failed(self) -> None:
        content = (
            f"name,address,fingerprint\nup,192.0.2.1,{RIGHT}\nfailed,192.0.2.2,\n"
            f"slow,192.0.2.3,{RIGHT}\nnew,192.0.2.4,{RIGHT}\n"
        )
        self.fleet.put("up", "192.0.2.1", "up")
        self.fleet.put("failed", "192.0.2.2", "install_failed", ssh={"public_key": str(KEY)})
        self.fleet.put("slow", "192.0.2.3", "installing")
        ended = await self.add_given(content, "--json")
        self.assertEqual(ended.status, 0, ended.err)
        outcomes = {row["name"]: row["outcome"] for row in ended.json()}
        self.assertEqual(
            outcomes, {"up": "skipped", "failed": "added", "slow": "added", "new": "added"}
        )
        self.assertEqual(self.fleet.installed, ["failed"])
        self.assertEqual([body["name"] for body in self.fleet.added], ["new"])
        again = await self.add_given(content)
        self.assertEqual(again.status, 0, again.err)
        self.assertEqual(len(self.fleet.added), 1)

    async def test_a_failed_host_that_shows_another_key_than_the_stored_is_not_installed(
        self,
    ) -> None:
        self.fleet.put("failed", "192.0.2.2", "install_failed", ssh={"fingerprint": WRONG})
        ended = await self.add_given("name,address\nfailed,192.0.2.2\n", "--trust-on-first-use")
        self.assertEqual(ended.status, 1)
        self.assertEqual(self.fleet.installed, [])

    async def test_not_waiting_begins_them_all(self) -> None:
        ended = await self.add_given(
            f"name,address,fingerprint\na,192.0.2.1,{RIGHT}\nb,192.0.2.2,{RIGHT}\n",
            *("--no-wait", "--parallel", "1"),
        )
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual([row.split()[2] for row in ended.out.splitlines()[1:]], ["begun"] * 2)


class ConsentTests(BulkTestCase):
    async def test_a_script_that_says_yes_accepts_no_unknown_key_unless_it_says_that_too(
        self,
    ) -> None:
        content = "name,address\nweb,192.0.2.1\n"
        ended = await self.add_given(content)
        self.assertEqual((ended.status, self.fleet.added), (1, []))
        self.assertIn("--trust-on-first-use", ended.out)
        ended = await self.add_given(content, "--trust-on-first-use")
        self.assertEqual(ended.status, 0, ended.err)
        # Nobody has compared it, so the engine is to record it as a first use.
        self.assertNotIn("fingerprint", self.fleet.added[0]["ssh"])

    async def test_a_script_that_does_not_say_yes_is_told_to(self) -> None:
        for arguments, part in (
            (("--from", "x.csv", "--use-engine-key"), "--yes"),
            (("--from", "x.csv", "--yes"), "--password-file"),
            (("--from", "x.csv", "web", "192.0.2.1", "--yes"), "in the file"),
            (("--from", "x.csv", "--fingerprint", RIGHT, "--yes"), "in the file"),
            (("--yes", "web", "192.0.2.1", "--use-engine-key"), "--from"),
            (("web", "--use-engine-key"), "ADDRESS"),
        ):
            ended = await pkengine("--state", str(self.folder), "host", "add", *arguments)
            self.assertEqual(ended.status, 2, arguments)
            self.assertIn(part, ended.err)

    async def test_at_a_terminal_a_table_is_shown_and_yes_trusts_just_what_it_shows(self) -> None:
        ended = await self.add(
            f"name,address,fingerprint\na,192.0.2.1,{RIGHT}\nb,192.0.2.2,\nc,192.0.2.3,{WRONG}\n",
            dialogue=[("Add 2 hosts (yes/no)? ", b"maybe\n"), ("(yes/no)? ", b"yes\n")],
        )
        self.assertEqual(ended.status, 1, ended.out)
        for part in ("Judgement", "match", "first use", "mismatch", f"expected {WRONG}"):
            self.assertIn(part, ended.out)
        fingerprints = {body["name"]: body["ssh"]["fingerprint"] for body in self.fleet.added}
        self.assertEqual(fingerprints, {"a": RIGHT, "b": str(RSA_KEY.fingerprint())})

    async def test_no_adds_nothing(self) -> None:
        ended = await self.add(
            f"name,address,fingerprint\na,192.0.2.1,{RIGHT}\n",
            dialogue=[("(yes/no)? ", b"no\n")],
        )
        self.assertEqual(ended.status, 6)
        self.assertEqual(self.fleet.added, [])

    async def test_the_password_is_asked_for_once_and_after_the_review(self) -> None:
        arguments = self.arguments(
            f"name,address,fingerprint\na,192.0.2.1,{RIGHT}\nb,192.0.2.2,{RIGHT}\n"
        )
        ended = await pkengine(
            *arguments,
            dialogue=[
                ("(yes/no)? ", b"yes\n"),
                ("SSH password for 2 hosts", f"{SSH_PASSWORD}\n".encode()),
            ],
        )
        self.assertEqual(ended.status, 0, ended.out)
        for body in self.fleet.added:
            self.assertEqual(body["ssh"]["user"]["password"], SSH_PASSWORD)

    async def test_an_interrupt_says_what_the_engine_goes_on_with(self) -> None:
        waiting: Deferred[None] = Deferred()

        def wait(asked: Asked) -> tuple[int, Any]:
            self.fleet.add(asked)
            if len(self.fleet.added) == 2:
                waiting.callback(None)
            return SILENCE

        self.engine.answers["POST /hosts"] = wait
        command = start_pkengine(
            *self.arguments(
                "name,address,fingerprint\n"
                + "".join(f"h{n},192.0.2.{n},{RIGHT}\n" for n in range(1, 5)),
                *("--password-file", str(self.password_file), "--yes", "--parallel", "2"),
            )
        )
        await waiting
        command.transport.signalProcess("INT")
        ended = await command.ended
        self.assertEqual(ended.status, 130)
        self.assertIn("The engine goes on with what it has begun: h1, h2.", ended.err)
        self.assertIn("The same command takes up the rest.", ended.err)
        self.assertEqual(len(self.fleet.added), 2)
