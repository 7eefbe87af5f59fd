"""Runs a command's coroutine on a reactor and turns its end into an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.terminal import tell
from pkengine.errors import PkengineError

if TYPE_CHECKING:
    from pkengine.cli.login import Login
    from pkengine.cli.rest_client import RestClient

Work = Callable[[Any], Coroutine["Deferred[Any]", Any, None]]


def run_with_engine(
    login: Login, work: Callable[[RestClient], Coroutine[Deferred[Any], Any, None]]
) -> NoReturn:
    """Run a coroutine that talks to an engine; exit with the status it deserves."""
    from pkengine.cli.rest_client import RestClient

    async def with_client(reactor: Any) -> None:
        client = RestClient(reactor, login)
        try:
            await work(client)
        finally:
            await client.close()

    run(with_client)


def run(work: Work, *, command: str = "pkengine") -> NoReturn:
    """Run a coroutine on the reactor; exit with the status it deserves.

    An interrupt cancels the coroutine, waits until it has cleaned up, and exits quietly.

    Args:
        work: gets the reactor.
        command: which one says why it failed.
    """
    react(_run, (work, command))


async def _run(reactor: Any, work: Work, command: str) -> None:
    is_interrupted = False
    ended: Deferred[None] = Deferred()
    running = Deferred.fromCoroutine(work(reactor))

    def interrupt() -> Deferred[None] | None:
        nonlocal is_interrupted
        if ended.called:
            return None
        is_interrupted = True
        # Who interrupts again does not want to wait for the cleaning up.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(ExitStatus.INTERRUPTED))
        running.cancel()
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", interrupt)
    try:
        await running
    except BrokenPipeError:
        # Whoever read the output has enough.  Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(ExitStatus.FAILED) from None
    except Exception as error:
        if is_interrupted:
            raise SystemExit(ExitStatus.INTERRUPTED) from None
        if isinstance(error, CommandFailed):
            if error.status is not ExitStatus.INTERRUPTED:
                tell(f"{command}: {error}")
            raise SystemExit(error.status) from None
        if isinstance(error, PkengineError):
            tell(f"{command}: {error}")
            raise SystemExit(ExitStatus.FAILED) from None
        raise
    finally:
        ended.callback(None)
