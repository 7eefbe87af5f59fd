"""oVirt's own Python SDK leads a real host through its life on a real engine."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from twisted.internet.utils import getProcessOutputAndValue

from tests.integration.engine_case import EngineTestCase

SCRIPT = Path(__file__).with_name("ovirt_host_life.py")


class OvirtSdkTests(EngineTestCase):
    if find_spec("ovirtsdk4") is None:
        skip = "oVirt's SDK is missing: pip install 'pkengine[ovirt]'"

    async def test_a_host_is_added_kept_in_order_and_removed(self) -> None:
        host = await self.host("real")
        password = Path(self.mktemp())
        password.touch(mode=0o600)
        password.write_text(host.password["root"].reveal_text())
        output, errors, status = await getProcessOutputAndValue(
            sys.executable,
            [
                str(SCRIPT),
                str(self.engine.url),
                str(self.state.directory / "https.crt"),
                str(self.state.initial_admin_password),
                host.address,
                str(await host.fingerprint("ed25519")),
                str(password),
            ],
            env=os.environ,
        )
        self.assertEqual(status, 0, (output + errors).decode())
        self.assertEqual(
            output.decode().splitlines(),
            [
                "refused 409 0",
                "up",
                "memory True",
                "maintenance",
                "up",
                "maintenance",
                "left 0",
            ],
        )
