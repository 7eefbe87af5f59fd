"""The steps that an agent lets its own host perform, in a process of its own.

Called with the steps in JSON; see `perform`.  With ``--detach`` before them it goes on behind
whoever started it, and outlives that.
"""

from __future__ import annotations

import json
import os
import sys

from pkengine.on_host.perform import Step, perform
from pkengine.on_host.trial import give_up, try_version
from pkengine.on_host.versions import check, upload

_STEPS: dict[str, Step] = {
    "upload": upload,
    "check": check,
    "try": try_version,
    "give_up": give_up,
}


def main() -> None:
    """Perform the steps that the arguments have."""
    *options, steps = sys.argv[1:]
    if "--detach" in options:
        _detach()
    sys.exit(perform(_STEPS, json.loads(steps)))


def _detach() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.chdir("/")
