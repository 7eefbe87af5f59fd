"""Ansible's collection for oVirt leads a real host through its life on a real engine."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from twisted.internet.utils import getProcessOutputAndValue

from tests.integration.engine_case import EngineTestCase

PLAYBOOK = Path(__file__).with_name("ansible_host_life.yml")


class AnsibleTests(EngineTestCase):
    timeout = 400
    if find_spec("ansible_collections") is None or find_spec("ovirtsdk4") is None:
        skip = "Ansible with its collections is missing: pip install 'pkengine[ovirt]'"

    async def test_a_host_is_added_kept_in_order_and_removed(self) -> None:
        host = await self.host("real")
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(mode=0o700)
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(host.password["root"].reveal_text())
        variables = {
            "url": self.engine.url,
            "ca_file": str(self.state.directory / "https.crt"),
            "password_file": str(self.state.initial_admin_password),
            "address": host.address,
            "host_password_file": str(password),
            "result_file": str(folder / "result"),
        }
        output, errors, status = await getProcessOutputAndValue(
            sys.executable,
            (
                *("-m", "ansible", "playbook", "--inventory", "localhost,"),
                *("--extra-vars", json.dumps(variables), str(PLAYBOOK)),
            ),
            env={
                **os.environ,
                "HOME": str(folder),
                "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
                "ANSIBLE_NOCOLOR": "1",
            },
        )
        self.assertEqual(status, 0, (output + errors).decode())
        found = json.loads((folder / "result").read_text())
        self.assertIn("does not accept the password", found.pop("refused"))
        self.assertIn("no host has power management here", found.pop("stopped"))
        self.assertEqual(
            found,
            {
                "clusters": ["Default"],
                "changed": [True, False, True, True, True, True, False],
                "comment": "by Ansible",
                "found": ["Default"],
                "upgraded": False,
                "up_again": ["up"],
                "errors": [],
            },
        )
