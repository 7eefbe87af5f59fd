"""The steps that the engine lets a host perform by SSH; see `perform`."""

from __future__ import annotations

from typing import Any

from pkengine.on_host.agent_service import init, restart, start, undeploy
from pkengine.on_host.authorized_keys import authorize, deauthorize
from pkengine.on_host.perform import Step, perform
from pkengine.on_host.versions import check, install, upload

_STEPS: dict[str, Step] = {
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
    return perform(_STEPS, steps)
