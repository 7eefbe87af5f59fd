"""A host is known by the same UUID at each start, and no two hosts by one."""

from __future__ import annotations

import uuid
from pathlib import Path

from twisted.trial.unittest import TestCase

from pkengine.agent.identity import host_uuid
from pkengine.errors import KeyFileError

MACHINE_ID = "5b1f0e2d9c8a47b6a5d4c3b2a1908f7e"
FIRMWARE = "4c4c4544-0042-3510-8054-b7c04f4a4c32"


class HostUuidTests(TestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        (self.root / "etc").mkdir(parents=True)
        (self.root / "sys/class/dmi/id").mkdir(parents=True)
        self.state_file = self.root / "host-uuid"

    def firmware_says(self, text: str) -> None:
        (self.root / "sys/class/dmi/id/product_uuid").write_text(text + "\n")

    def machine_id_is(self, text: str) -> None:
        (self.root / "etc/machine-id").write_text(text + "\n")

    def uuid(self) -> str:
        return host_uuid(self.state_file, root=self.root)

    def test_firmware_is_believed_first(self) -> None:
        self.firmware_says(FIRMWARE.upper())
        self.machine_id_is(MACHINE_ID)
        self.assertEqual(self.uuid(), FIRMWARE)
        self.assertFalse(self.state_file.exists())

    def test_placeholders_of_vendors_are_not_believed(self) -> None:
        self.machine_id_is(MACHINE_ID)
        from_machine_id = self.uuid()
        for placeholder in (
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "Not Settable",
            "",
        ):
            self.firmware_says(placeholder)
            self.assertEqual(self.uuid(), from_machine_id, placeholder)

    def test_machine_id_itself_is_not_shown(self) -> None:
        self.machine_id_is(MACHINE_ID)
        self.assertNotIn(MACHINE_ID, self.uuid().replace("-", ""))
        self.assertEqual(uuid.UUID(self.uuid()).version, 4)

    def test_other_machine_ids_give_other_uuids(self) -> None:
        self.machine_id_is(MACHINE_ID)
        first = self.uuid()
        self.machine_id_is(MACHINE_ID[::-1])
        self.assertNotEqual(self.uuid(), first)

    def test_machine_without_any_identity_gets_one_that_stays(self) -> None:
        self.machine_id_is("uninitialized")
        first = self.uuid()
        self.assertEqual(self.state_file.read_text().strip(), first)
        self.machine_id_is(MACHINE_ID)
        self.assertEqual(self.uuid(), first)

    def test_administrator_may_tell_clones_apart(self) -> None:
        self.firmware_says(FIRMWARE)
        self.state_file.write_text("C0FFEE00-1234-4321-8888-0123456789AB\n")
        self.assertEqual(self.uuid(), "c0ffee00-1234-4321-8888-0123456789ab")

    def test_spoiled_state_file_is_named_and_not_replaced(self) -> None:
        self.state_file.write_text("nonsense")
        error = self.assertRaises(KeyFileError, self.uuid)
        self.assertIn(str(self.state_file), str(error))
        self.assertIn("nonsense", str(error))
        self.assertEqual(self.state_file.read_text(), "nonsense")

    def test_derivation_is_that_of_systemd(self) -> None:
        """The UUID is what ``systemd-id128 machine-id --app-specific`` gives (systemd 252)."""
        self.machine_id_is("0123456789abcdef0123456789abcdef")
        self.assertEqual(self.uuid(), "d5ec03db-1116-479c-af77-3b55df3d5c97")
