"""Programs that the test hosts are built with, run without blocking the reactor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

#: Test hosts see this and nothing else of the environment that the tests run in.
PLAIN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class CommandFailed(Exception):
    """A program did not end with exit status 0; the text has all that it said."""


class _Run(ProcessProtocol):
    def __init__(self, argv: Sequence[str], stdin: bytes) -> None:
        self.argv = argv
        self.stdin = stdin
        self.stdout = b""
        self.stderr = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.stdin)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.stdout += data

    def errReceived(self, data: bytes) -> None:
        self.stderr += data

    def processEnded(self, reason: Failure) -> None:
        if reason.check(ProcessTerminated):
            self.done.errback(
                CommandFailed(
                    f"{' '.join(self.argv)!r}: {reason.getErrorMessage()} "
                    f"{self.stdout.decode(errors='replace')}{self.stderr.decode(errors='replace')}"
                )
            )
        else:
            self.done.callback(self.stdout)


async def run(
    reactor: Any,
    *argv: str,
    stdin: bytes = b"",
    extra_environment: dict[str, str] | None = None,
) -> str:
    """Run a program to its end and give what it wrote to standard output.

    Raises:
        CommandFailed: its exit status is not 0.
    """
    protocol = _Run(argv, stdin)
    cast(IReactorProcess, reactor).spawnProcess(
        protocol, argv[0], argv, env=PLAIN_ENVIRONMENT | (extra_environment or {})
    )
    return (await protocol.done).decode(errors="replace")


def caller_environment(*names: str) -> dict[str, str]:
    """Give those variables of the tests' own environment that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}
