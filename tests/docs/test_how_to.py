"""The examples of the how-to pages, run as they stand there."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.auth.test_strings import make_folders

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", ""),
}


class Server(ProcessProtocol):
    """A server that says on which port it listens."""

    def __init__(self) -> None:
        self.output = b""
        self.port: Deferred[int] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data
        found = re.search(rb"listening on (\d+)\n", self.output)
        if found and not self.port.called:
            self.port.callback(int(found[1]))

    def errReceived(self, data: bytes) -> None:
        self.output += data

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        if not self.port.called:
            self.port.errback(AssertionError(self.output.decode()))
        self.ended.callback(None)


class HowTo(TestCase):
    timeout = 120

    async def start(self, *arguments: str) -> int:
        server = Server()
        process = reactor.spawnProcess(
            server, sys.executable, [sys.executable, *arguments], env=ENVIRONMENT
        )

        def stop() -> Deferred[None]:
            if process.pid is not None:
                process.signalProcess("TERM")
            return server.ended

        self.addCleanup(stop)
        return await server.port

    async def output_of(self, command: str, *arguments: str) -> str:
        output, errors, status = await getProcessOutputAndValue(
            command, arguments, env=ENVIRONMENT
        )
        self.assertEqual(status, 0, (output + errors).decode())
        return output.decode()

    async def test_an_amp_service_knows_who_asks(self) -> None:
        agent, engine = make_folders(Path(self.mktemp()).absolute(), "pin")
        example = str(EXAMPLES / "amp_calculator.py")
        port = await self.start(
            example, "serve", rf"pk:tcp\:0\:interface\=127.0.0.1:trust={engine}"
        )
        asked = rf"pk:tcp\:127.0.0.1\:{port}:trust={agent}"
        self.assertEqual(
            await self.output_of(sys.executable, example, "ask", asked, "2", "3"),
            "5, asked by agent\n",
        )

    async def test_a_line_protocol_logs_its_peers_in(self) -> None:
        agent, engine = make_folders(Path(self.mktemp()).absolute(), "pin")
        example = str(EXAMPLES / "line_desk.py")
        below = r"pk:tcp\:0\:interface\=127.0.0.1"
        port = await self.start(example, "serve", f"{below}:trust={engine}", "agent")
        visit = rf"pk:tcp\:127.0.0.1\:{port}:trust={agent}"
        self.assertEqual(
            await self.output_of(sys.executable, example, "visit", visit),
            "welcome, agent\ndesserts\n",
        )
        port = await self.start(example, "serve", f"{below}:trust={engine}", "somebody-else")
        visit = rf"pk:tcp\:127.0.0.1\:{port}:trust={agent}"
        self.assertEqual(await self.output_of(sys.executable, example, "visit", visit), "")

    async def test_an_unmodified_web_site_answers_only_whom_it_trusts(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        printed = await self.output_of(str(EXAMPLES / "protect_web_site.sh"), str(port))
        fetched, refused, reason = printed.splitlines()
        self.assertEqual(fetched, "Hello, trusted reader.")
        self.assertEqual(refused, "Refused, as soon as the line was removed:")
        self.assertIn("does not accept this end's key", reason)
