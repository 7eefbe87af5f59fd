"""The demo as a person sees it; everything in it is real."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import psutil
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from tests.cli.running import Command, Ended, environment, pkengine, start_pkengine

_FOLDER = re.compile(r"below (\S*/pkengine-demo-\w+)")


class DemoTests(TestCase):
    timeout = 300

    def setUp(self) -> None:
        # Each demo gets a folder of its own, where nothing else comes and goes.
        self.temporary = Path(self.mktemp()).resolve()
        self.temporary.mkdir(mode=0o700)
        self.environ = environment(TMPDIR=str(self.temporary))
        self.folders: set[str] = set()

    def processes(self) -> list[str]:
        """Give the processes that have to do with a folder of these demos."""
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), process.cwd(), *process.environ().values()]
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if any(folder in word for folder in self.folders for word in words):
                found.append(str(process))
        return found

    def assert_nothing_is_left(self, out: str) -> None:
        self.folders.update(_FOLDER.findall(out))
        self.assertTrue(self.folders, out)
        self.assertEqual(self.processes(), [])
        self.assertEqual([folder for folder in self.folders if os.path.exists(folder)], [])
        self.assertEqual(list(self.temporary.iterdir()), [])

    def assert_all_is_right(self, ended: Ended) -> None:
        self.assertEqual(ended.status, 0, ended.out + ended.err)
        self.assertNotIn("✗", ended.out)
        for fact in (
            "demo-host is up",
            "SSH host key is the one whose fingerprint was given",
            "Engine trusts the key of this agent, and no other",
            "Agent trusts the key of this engine, and no other",
            "TLSv1.3",
            "Agent refuses a key that it was not given",
            "A wrong fingerprint is refused",
            "logins tried: none",
        ):
            self.assertIn(fact, ended.out)
        self.assert_nothing_is_left(ended.out)

    async def test_once_shows_it_all_and_leaves_nothing_even_beside_another(self) -> None:
        both = [start_pkengine("demo", "--once", environ=self.environ).ended for _ in range(2)]
        for ended in await gatherResults(both):
            self.assert_all_is_right(ended)

    async def test_agents_dial_in_by_each_mechanism_and_through_each_proxy(self) -> None:
        for mechanism, proxy in (
            ("pin", None),
            ("sign", "stunnel"),
            ("hmac", "nginx"),
            ("spake2plus", "haproxy"),
        ):
            behind = ("--behind", proxy) if proxy else ()
            ended = await pkengine(
                *("demo", "--once", "--mechanism", mechanism, *behind), environ=self.environ
            )
            self.assertEqual(ended.status, 0, ended.out + ended.err)
            self.assertNotIn("✗", ended.out)
            for fact in (
                "demo-host is up",
                "Agent dials the engine, and listens on nothing",
                f"Mechanism is {mechanism}, and both ends say so",
                "path: proxied" if proxy else "path: direct",
                "Engine refuses an agent with a key that it was not given",
            ):
                self.assertIn(fact, ended.out)
            self.assert_nothing_is_left(ended.out)

    async def test_a_host_joins_by_a_code_through_a_proxy(self) -> None:
        ended = await pkengine(
            *("demo", "--once", "--join", "--mechanism", "spake2plus", "--behind", "nginx"),
            environ=self.environ,
        )
        self.assertEqual(ended.status, 0, ended.out + ended.err)
        self.assertNotIn("✗", ended.out)
        for fact in (
            "This host has joined the engine",
            "Host waited for the approval",
            "demo-host is up",
            "Mechanism is spake2plus, and both ends say so",
            "path: proxied",
            "each is good for one host",
        ):
            self.assertIn(fact, ended.out)
        self.assert_nothing_is_left(ended.out)

    async def test_a_proxy_that_is_not_installed_is_named_and_nothing_is_left(self) -> None:
        nowhere = {**self.environ, "PATH": str(self.temporary)}
        ended = await pkengine("demo", "--once", "--behind", "stunnel", environ=nowhere)
        self.assertEqual(ended.status, 1, ended.out + ended.err)
        self.assertIn("apt-get install stunnel4", ended.err)
        self.assert_nothing_is_left(ended.out)

    async def start(self) -> tuple[Command, dict[str, str]]:
        """Start a demo that runs on; give it, and what it prints in columns."""
        command = start_pkengine("demo", environ=self.environ)
        settled: Deferred[None] = Deferred()
        receive = command.outReceived

        def watch(data: bytes) -> None:
            receive(data)
            if b"/hosts\n" in data and not settled.called:  # the end of the last line
                settled.callback(None)

        command.outReceived = watch  # type: ignore[method-assign]

        def end(ended: Ended) -> Ended:
            if not settled.called:
                settled.errback(AssertionError(f"The demo ended: {ended}"))
            return ended

        command.ended.addCallback(end)
        await settled
        out = command.printed()
        self.folders.update(_FOLDER.findall(out))
        lines = (line.strip().partition(" ") for line in out.splitlines())
        return command, {name: rest.strip() for name, _, rest in lines}

    async def test_what_it_prints_works_until_an_interrupt_and_nothing_is_left(self) -> None:
        command, facts = await self.start()
        self.assertNotEqual(self.processes(), [])
        out = command.printed()
        listing = next(line for line in out.splitlines() if line.endswith("host list"))
        arguments = shlex.split(listing)
        listed = await pkengine(*arguments[arguments.index("--state") :])
        self.assertEqual(listed.status, 0, listed.err)
        self.assertRegex(listed.out, r"(?m)^demo-host +127\.0\.0\.1 +up ")
        by_hand = await pkengine(
            *("--url", facts["URL"], "--user", facts["user"], "host", "show", "demo-host"),
            environ=environment(
                PKENGINE_PASSWORD=facts["password"],
                PKENGINE_CA_FILE=os.path.join(next(iter(self.folders)), "engine", "https.crt"),
            ),
        )
        self.assertEqual(by_hand.status, 0, by_hand.err)
        again = await pkengine(
            *arguments[arguments.index("--state") : -2], "host", "deactivate", "demo-host"
        )
        self.assertEqual(again.status, 0, again.err)
        # The engine's own SSH key is now the way in.
        again = await pkengine(
            *arguments[arguments.index("--state") : -2], "host", "install", "demo-host"
        )
        self.assertEqual((again.status, again.out), (0, "Host demo-host is up.\n"), again.err)

        command.transport.signalProcess("INT")
        ended = await command.ended
        self.assertEqual(ended.status, 0, ended.out + ended.err)
        self.assertNotIn("Traceback", ended.err)
        self.assert_nothing_is_left(ended.out)

    async def test_sigterm_and_even_sigkill_leave_nothing(self) -> None:
        for name in ("TERM", "KILL"):
            command, _ = await self.start()
            left = [
                psutil.Process(command.transport.pid),
                *psutil.Process(command.transport.pid).children(recursive=True),
            ]
            self.assertGreater(len(left), 3)  # keeper, worker, engine, agent
            command.transport.signalProcess(name)
            ended = await command.ended
            psutil.wait_procs(left, timeout=60)
            self.assert_nothing_is_left(ended.out)
