"""Performs steps one after the other, each within its own deadline.

Steps are ``[[STEP, DEADLINE_S, {PARAMETER: VALUE}], …]``.  For each one that is done it prints
``pkengine`` and what came of it, in JSON.  A step that fails ends it with status 1 and, on
standard error, ``pkengine`` with the step and a sentence, in JSON.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pkengine.on_host.step import StepFailed

Step = Callable[..., dict[str, Any]]


def perform(known: Mapping[str, Step], steps: list[tuple[str, float, dict[str, Any]]]) -> int:
    """Perform the steps; give the exit status."""
    os.umask(0o022)
    os.environ["LC_ALL"] = "C.UTF-8"
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    for name, deadline_s, parameters in steps:
        try:
            signal.setitimer(signal.ITIMER_REAL, deadline_s)
            try:
                result = known[name](**parameters)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (StepFailed, OSError) as error:
            sentence = describe(error) if isinstance(error, OSError) else str(error)
            _say(sys.stderr, {"step": name, "error": sentence})
            return 1
        _say(sys.stdout, {"step": name, "result": result})
    return 0


def _interrupted(number: int, _: object) -> NoReturn:
    """Leave the step through its own ``finally`` clauses, which clean up."""
    if number == signal.SIGALRM:
        raise StepFailed("the host did not finish it in time.")
    raise StepFailed("it was interrupted.")


def _say(stream: Any, what: dict[str, Any]) -> None:
    print("pkengine", json.dumps(what), file=stream, flush=True)


def describe(error: OSError) -> str:
    """Say in a sentence what the operating system refuses."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no room left on the host{where and ' for' + where}: free some."
    if error.errno == errno.EROFS:
        return f"the file system of{where or ' the host'} is read-only."
    return f"{where.lstrip() or 'the host says'}: {error.strerror or error}."
