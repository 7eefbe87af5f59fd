"""What the commands about invitations ask, print and exit with."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pkengine.cli.host_invitations import url_for_hosts
from pkengine.cli.join_prompt import completions
from tests.cli.fake_engine import API, FakeEngine
from tests.cli.running import Command, Ended, environment, pkengine
from tests.cli.test_commands import ID, event, host

URL = "https://engine.example:8443"
OPEN = {
    "id": ID,
    "number": "7",
    "state": "open",
    "approve": "false",
    "created": 1_700_000_000_000,
    "expires": 1_700_000_900_000,
    "user_name": "admin@internal",
    "url": URL,
}
MADE = {**OPEN, "code": "7-guitar-volcano"}


class InvitationCommands(TestCase):
    async def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.engine = FakeEngine(reactor, self.folder)
        await self.engine.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.engine.stop()))
        self.engine.answers["POST /invitations"] = (201, MADE)
        self.engine.answers["GET /invitations"] = (200, {"invitation": [OPEN]})

    async def run_command(self, *arguments: str, **how: Any) -> Ended:
        return await pkengine("--state", str(self.folder), "host", *arguments, **how)

    def body(self, request: str) -> Any:
        method, path = request.split()
        (asked,) = (a for a in self.engine.asked if (a.method, a.path) == (method, API + path))
        return asked.body

    async def test_invite_shows_the_code_and_what_to_type_on_the_host(self) -> None:
        ended = await self.run_command("invite", "--name", "web", "--expires", "2h", "--approve")
        self.assertEqual(ended.status, 0, ended.err)
        self.assertEqual(
            self.body("POST /invitations"),
            {"expires_in": 7200, "approve": True, "host_name": "web"},
        )
        self.assertIn("7-guitar-volcano", ended.out)
        self.assertIn(f"  pkagent join {URL}\n", ended.out)
        self.assertNotIn("█", ended.out)

    async def test_a_qr_code_is_drawn_where_asked_for(self) -> None:
        ended = await self.run_command("invite", "--qr")
        self.assertEqual(self.body("POST /invitations"), {"expires_in": 900, "approve": False})
        self.assertGreater(ended.out.count("█"), 100)

    async def test_a_qr_code_is_drawn_on_a_terminal(self) -> None:
        ended = await self.run_command("invite", dialogue=[("Code", b"")])
        self.assertGreater(ended.out.count("█"), 100)
        ended = await self.run_command("invite", "--no-qr", dialogue=[("Code", b"")])
        self.assertNotIn("█", ended.out)

    async def test_json_is_all_that_the_engine_said(self) -> None:
        ended = await self.run_command("invite", "--json")
        self.assertEqual(ended.json(), MADE)

    async def test_a_duration_that_is_none_is_refused_before_anything_is_asked(self) -> None:
        for text in ("15", "m", "1d", "-1m", "15 m"):
            ended = await self.run_command("invite", f"--expires={text}")
            self.assertEqual(ended.status, 2)
            self.assertIn("such as 15m", ended.err)
        self.assertEqual(self.engine.asked, [])

    async def test_invitations_are_listed(self) -> None:
        ended = await self.run_command("invitations")
        head, row = ended.out.splitlines()
        self.assertEqual(head.split()[:3], ["NUMBER", "STATE", "EXPIRES"])
        self.assertEqual(row.split()[:2], ["7", "open"])
        self.assertIn("admin@internal", row)
        self.assertEqual((await self.run_command("invitations", "--json")).json(), [OPEN])
        self.engine.answers["GET /invitations"] = (200, {})
        self.assertEqual((await self.run_command("invitations")).out, "No host is invited.\n")

    async def test_an_invitation_is_revoked_by_its_number(self) -> None:
        self.engine.answers[f"DELETE /invitations/{ID}"] = (200, {})
        ended = await self.run_command("uninvite", "7")
        self.assertEqual((ended.status, ended.out), (0, "Invitation 7 is revoked.\n"))
        ended = await self.run_command("uninvite", "8")
        self.assertEqual(ended.status, 5)
        self.assertIn("no invitation 8", ended.err)

    async def test_a_host_is_approved_without_a_word_about_ssh(self) -> None:
        self.engine.answers["GET /hosts"] = (200, {"host": [host("pending_approval")]})
        self.engine.answers[f"GET /hosts/{ID}"] = (200, host())
        self.engine.answers[f"GET /hosts/{ID}/jobs"] = (200, {"job": []})
        self.engine.answers["GET /events"] = (200, {"event": [event(7, "before")]})
        self.engine.answers[f"POST /hosts/{ID}/approve"] = (200, {})
        ended = await self.run_command("approve", "web")
        self.assertEqual((ended.status, ended.out), (0, "Host web is up.\n"), ended.err)
        self.assertEqual(self.body(f"POST /hosts/{ID}/approve"), {"activate": True})

    async def test_a_host_may_be_approved_for_later(self) -> None:
        self.engine.answers["GET /hosts"] = (200, {"host": [host("pending_approval")]})
        self.engine.answers[f"GET /hosts/{ID}"] = (200, host("maintenance"))
        self.engine.answers["GET /events"] = (200, {"event": []})
        self.engine.answers[f"POST /hosts/{ID}/approve"] = (200, {})
        ended = await self.run_command("approve", "web", "--no-activate", "--no-wait")
        self.assertEqual(ended.out, "Host web is in maintenance.\n", ended.err)
        self.assertEqual(self.body(f"POST /hosts/{ID}/approve"), {"activate": False})


class Urls(SynchronousTestCase):
    def test_a_host_is_not_told_to_dial_itself(self) -> None:
        self.assertEqual(url_for_hosts(URL), URL)
        self.patch(socket, "gethostname", lambda: "engine")
        for known_as, told in (("engine.example", "engine.example"), ("localhost", "engine")):
            self.patch(socket, "getfqdn", lambda name=known_as: name)
            for name in ("localhost", "127.0.0.1", "[::1]"):
                url = url_for_hosts(f"https://{name}:8443")
                self.assertEqual(url, f"https://{told}:8443")


class CompletionOnATerminal(TestCase):
    async def test_the_tab_key_completes_the_words_of_the_code(self) -> None:
        # The library that reads the line is used where both of the streams are a terminal.
        program = "from pkengine.cli.join_prompt import ask_code; print(repr(ask_code()))"
        dialogue = [("reads out? ", b"7 guit\t volca\t\n")]
        command = Command(b"", dialogue)
        python = (sys.executable, "-c", program)
        reactor.spawnProcess(command, python[0], python, environment(TERM="dumb"), usePTY=True)
        ended = await command.ended
        self.assertEqual(ended.status, 0, ended.out)
        self.assertIn("7 guitar volcano", ended.out)
        self.assertNotIn("is none of the words", ended.out)


class Completion(SynchronousTestCase):
    def test_the_word_at_the_end_is_completed(self) -> None:
        self.assertEqual(completions("7-guit"), ["7-guitar"])
        self.assertEqual(completions("7 Guitar volc"), ["7 Guitar volcano"])
        self.assertIn("guitar", completions("g"))
        self.assertEqual(completions("7-"), [])
        self.assertEqual(completions("7-qqq"), [])
