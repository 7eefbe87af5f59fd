"""What is stored of a host changes."""

from __future__ import annotations

import uuid

from pkengine.engine.model import HostChange, HostStatus, SshLogin
from pkengine.errors import Conflict, NotFound
from pkengine.keys import Pin, SshFingerprint
from tests.engine.hosts.fakes import ADMIN, HOST_KEY, OTHER_KEY, HostsTestCase


class UpdateTests(HostsTestCase):
    def update(self, host_id: uuid.UUID, **changes: object) -> object:
        return self.hosts.update(host_id, HostChange(**changes), ADMIN)

    def test_names_and_texts_change_in_any_status(self) -> None:
        host = self.add()
        host = self.now(self.update(host.id, name="h9", comment="rack 3"))
        self.assertEqual((host.name, host.comment, host.status), ("h9", "rack 3", HostStatus.UP))
        self.assertTrue(self.access.channels[0].is_open)
        self.assertEqual(self.log()[-1][0], 43)

    def test_an_update_that_changes_nothing_is_no_event(self) -> None:
        host = self.add()
        before = self.codes()
        self.now(self.update(host.id, name=host.name, port=host.port))
        self.assertEqual(self.codes(), before)

    def test_what_runs_depends_on_is_not_changed_under_it(self) -> None:
        host = self.add()
        for change in (
            {"address": "192.0.2.77"},
            {"port": 54322},
            {"ssh": SshLogin(port=2222)},
        ):
            self.assertIn("'up'", self.refusal(self.update(host.id, **change), Conflict))

    def test_a_new_agent_port_needs_an_installation(self) -> None:
        host = self.add(activate=False)
        host = self.now(self.update(host.id, port=54322))
        self.assertTrue(host.reinstallation_required)
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN))
        self.assertFalse(self.now(self.hosts.get(host.id)).reinstallation_required)

    def test_a_taken_name_is_refused(self) -> None:
        self.add("h1")
        self.access.pin = Pin(b"\x03" * 32)
        second = self.add("h2")
        self.refusal(self.update(second.id, name="h1"), Conflict)

    def test_a_new_fingerprint_displaces_the_stored_key(self) -> None:
        host = self.add()
        fingerprint = SshFingerprint.parse(str(OTHER_KEY.fingerprint()))
        host = self.now(self.update(host.id, ssh=SshLogin(fingerprint=fingerprint)))
        self.assertEqual((host.ssh.fingerprint, host.ssh.public_key), (fingerprint, None))

    def test_the_same_fingerprint_in_another_form_keeps_the_key(self) -> None:
        host = self.add()
        login = SshLogin(fingerprint=HOST_KEY.fingerprint("MD5"))
        host = self.now(self.update(host.id, ssh=login))
        self.assertEqual(host.ssh.public_key, HOST_KEY)

    def test_an_unknown_host_or_cluster_is_not_found(self) -> None:
        self.refusal(self.update(uuid.uuid4(), name="x"), NotFound)
        host = self.add()
        self.refusal(self.update(host.id, cluster_id=uuid.uuid4()), NotFound)
