"""Real agents and real commands, as processes of their own."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pkengine.auth.peer import TrustedPeer
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.trust import MemoryTrustStore
from pkengine.channel import Channel, connect_channel
from pkengine.keys import KeyPair, Pin

LOOPBACK = "tcp:0:interface=127.0.0.1"

_TWISTD = "from twisted.scripts.twistd import run; run()"
_PKAGENT = "from pkengine.cli.pkagent import main; main()"
_PKAGENT_AS_NOBODY = """\
import os
import msgspec, pkengine.agent.control_client, pkengine.agent.control_verbs
import pkengine.agent.initialization, pkengine.auth.trust, pkengine.channel.verbs
import pkengine.cli.pkagent
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # all is imported: it may lie out of reach
pkengine.cli.pkagent.main()
"""
_LISTENS = re.compile(r"Listening for engines on \S+:(\d+)")
_READY = "Answering commands on"


def environment(**more: str) -> dict[str, str]:
    """What a child needs to find what this process has found, and nothing else."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


class AgentProcess(ProcessProtocol):
    """One ``twistd -n pkagent``.

    Attributes:
        output: what it has printed so far.
        ready: fires when it answers commands, and so also engines; fails if it ends first.
        ended: fires with the exit status.
    """

    def __init__(self) -> None:
        self.output = ""
        self.ended: Deferred[int] = Deferred()
        self._awaited: list[tuple[str, Deferred[None]]] = []
        self.ready = self.says(_READY)

    @property
    def port(self) -> Deferred[int]:
        """Fires with the port on which it listens."""

        def found(_: None) -> int:
            match = _LISTENS.search(self.output)
            assert match is not None, self.output
            return int(match[1])

        return self.says(_READY).addCallback(found)

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode()
        waiting, self._awaited = self._awaited, []
        for text, said in waiting:
            if text in self.output:
                said.callback(None)
            else:
                self._awaited.append((text, said))

    errReceived = outReceived

    def says(self, text: str) -> Deferred[None]:
        """Fire once this has been printed; fail with all that was printed if that never comes."""
        said: Deferred[None] = Deferred()
        self._awaited.append((text, said))
        self.outReceived(b"")
        return said

    def processEnded(self, reason: Failure) -> None:
        for text, said in self._awaited:
            said.addErrback(lambda _: None) if said is self.ready else None
            said.errback(AssertionError(f"{text!r} was never said:\n{self.output}"))
        self.ended.callback(0 if reason.check(ProcessDone) else (reason.value.exitCode or -1))

    def stop(self, signal: str = "TERM") -> Deferred[int]:
        """Send a signal; fire when the process has ended."""
        if self.transport.pid is not None:
            self.transport.signalProcess(signal)
        ended: Deferred[int] = Deferred()

        def fire(status: int) -> int:
            ended.callback(status)
            return status

        self.ended.addCallback(fire)
        return ended


def start_agent(
    test: TestCase,
    state: Path,
    listen: str = LOOPBACK,
    *options: str,
    **more_environment: str,
) -> AgentProcess:
    """Start an agent that the test's end stops."""
    agent = AgentProcess()
    command = [sys.executable, "-c", _TWISTD, "-n", "--pidfile=", "pkagent"]
    reactor.spawnProcess(
        agent,
        sys.executable,
        [*command, "--state", str(state), "--listen", listen, *options],
        env=environment(**more_environment),
    )
    test.addCleanup(agent.stop)
    return agent


async def pkagent(
    *arguments: str, as_nobody: bool = False, stdin: bytes | None = None, **more_environment: str
) -> tuple[str, str, int]:
    """Run a command; give its standard output, its standard error and its exit status."""
    program = _PKAGENT_AS_NOBODY if as_nobody else _PKAGENT
    return await _run(program, *arguments, stdin=stdin, **more_environment)


async def twistd(*arguments: str) -> tuple[str, str, int]:
    """Run twistd until it ends or has become a daemon; give the same as `pkagent`."""
    return await _run(_TWISTD, *arguments)


async def _run(
    program: str, *arguments: str, stdin: bytes | None = None, **more_environment: str
) -> tuple[str, str, int]:
    out, err, status = await getProcessOutputAndValue(
        sys.executable,
        ["-c", program, *arguments],
        env=environment(**more_environment),
        stdinBytes=stdin,
    )
    return out.decode(), err.decode(), status


async def connect_engine(
    test: TestCase, engine: KeyPair, port: int, agent_pin: Pin, address: str = "127.0.0.1"
) -> Channel:
    """Open a channel to an agent as an engine does; the test's end closes it."""
    trust = MemoryTrustStore([TrustedPeer(name="host", key=agent_pin)])
    channel = await connect_channel(
        reactor,
        TCP4ClientEndpoint(reactor, address, port),
        PinAuthenticator(engine, trust),
        expected="host",
    )
    closed: Deferred[None] = Deferred()

    def fire(reason: object) -> object:
        closed.callback(None)
        return reason

    channel.closed.addCallback(fire)

    def close() -> Deferred[None]:
        channel.close()
        return closed

    test.addCleanup(close)
    return channel
