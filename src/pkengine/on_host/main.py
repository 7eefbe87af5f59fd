"""Performs steps one after the other, each within its own deadline.

Called with ``[[STEP, DEADLINE_S, {PARAMETER: VALUE}], …]`` in JSON.  For each step that is
done it prints ``pkengine`` and what came of it, in JSON.  A step that fails ends it with
status 1 and, on standard error, ``pkengine`` with the step and a sentence, in JSON.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pkengine.on_host.agent_service import init, restart, start, undeploy
from pkengine.on_host.authorized_keys import authorize, deauthorize
from pkengine.on_host.step import StepFailed
from pkengine.on_host.versions import check, install, upload

_STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "upload": upload,
    "check": check,
    "install": install,
    "init": init,
    "authorize": authorize,
    "deauthorize": deauthorize,
    "start": start,
    "restart": restart,
    "undeploy": undeploy,
}


def main(steps: list[tuple[str, float, dict[str, Any]]]) -> int:
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
                result = _STEPS[name](**parameters)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (StepFailed, OSError) as error:
            sentence = _describe(error) if isinstance(error, OSError) else str(error)
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


def _describe(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no room left on the host{where and ' for' + where}: free some."
    if error.errno == errno.EROFS:
        return f"the file system of{where or ' the host'} is read-only."
    return f"{where.lstrip() or 'the host says'}: {error.strerror or error}."
