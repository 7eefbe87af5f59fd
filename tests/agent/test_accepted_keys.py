"""The keys that an agent accepts are listed, added and removed by its verbs."""

from __future__ import annotations

import datetime
from pathlib import Path

from twisted.trial.unittest import TestCase

from pkengine.agent.accepted_keys import AcceptedKeys
from pkengine.agent.dialled_engines import DialledEngines
from pkengine.auth.peer import TrustedPeer
from pkengine.auth.shared_key import MemorySharedKeys
from pkengine.auth.trust import FileTrustStore
from pkengine.channel.verbs import AcceptedKey, AddKey, RemoveKey
from pkengine.errors import AgentError, InvalidKeyText, TrustFileError
from pkengine.keys import Pin

OWN = Pin(b"0" * 32)
ENGINE_1 = TrustedPeer(name="engine-1", key=Pin(b"1" * 32), comment="the first")
ENGINE_2 = Pin(b"2" * 32)
FUTURE = datetime.datetime(2127, 1, 1, tzinfo=datetime.timezone.utc)


class AcceptedKeysTests(TestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("# ours\n")
        self.path.chmod(0o600)
        self.trust = FileTrustStore(self.path)
        self.trust.add(ENGINE_1)
        self.keys = AcceptedKeys(
            self.trust, OWN, MemorySharedKeys(), DialledEngines(Path(self.mktemp()))
        )

    def test_list_tells_all_that_is_known_of_each_key(self) -> None:
        self.assertEqual(
            self.keys.list(),
            [AcceptedKey(pin=str(ENGINE_1.key), name="engine-1", comment="the first")],
        )

    def test_added_key_is_accepted_and_written_down(self) -> None:
        self.keys.add(AddKey(pin=str(ENGINE_2), name="engine-2", expires=FUTURE), "engine-1")
        found = self.trust.lookup(ENGINE_2)
        assert found is not None
        self.assertEqual((found.name, found.expires), ("engine-2", FUTURE))
        self.assertEqual(
            self.path.read_text(),
            f"# ours\n{ENGINE_1.key} name=engine-1 # the first\n"
            f"{ENGINE_2} name=engine-2 expires=2127-01-01T00:00:00Z\n",
        )

    def test_a_key_is_added_for_the_mechanisms_that_are_named(self) -> None:
        request = AddKey(pin=str(ENGINE_2), name="engine-2", mechanisms=("sign", "pin"))
        added = self.keys.add(request, "engine-1")
        self.assertEqual(added.mechanisms, ("pin", "sign"))
        self.assertIn(f"{ENGINE_2} name=engine-2 mechanism=pin,sign\n", self.path.read_text())

    def test_what_would_not_stay_one_line_is_refused_and_changes_nothing(self) -> None:
        before = self.path.read_text()
        for name, comment in (
            ("two words", ""),
            ("", ""),
            ("x\n" + str(Pin(b"9" * 32)) + " name=evil", ""),
            ("fine", "a comment\n" + str(Pin(b"9" * 32)) + " name=evil"),
            ("fine", "a comment\x85" + str(Pin(b"9" * 32)) + " name=evil"),
        ):
            request = AddKey(pin=str(ENGINE_2), name=name, comment=comment)
            self.assertRaises(TrustFileError, self.keys.add, request, "engine-1")
            self.assertEqual(self.path.read_text(), before)

    def test_malformed_pin_is_refused(self) -> None:
        request = AddKey(pin="SHA256:abc", name="engine-2")
        self.assertRaises(InvalidKeyText, self.keys.add, request, "engine-1")
        self.assertRaises(
            InvalidKeyText, self.keys.remove, RemoveKey(pin="x"), "engine-1", may_be_last=True
        )

    def test_own_key_is_never_accepted(self) -> None:
        request = AddKey(pin=str(OWN), name="mirror")
        self.assertRaises(AgentError, self.keys.add, request, "engine-1")
        self.assertIsNone(self.trust.lookup(OWN))

    def test_removed_key_is_accepted_no_longer(self) -> None:
        self.keys.add(AddKey(pin=str(ENGINE_2), name="engine-2"), "engine-1")
        removed = self.keys.remove(RemoveKey(pin=str(ENGINE_1.key)), "engine-2", may_be_last=False)
        self.assertEqual(removed.name, "engine-1")
        self.assertEqual([key.name for key in self.keys.list()], ["engine-2"])

    def test_last_key_stays_unless_the_caller_can_come_back_without(self) -> None:
        request = RemoveKey(pin=str(ENGINE_1.key))
        error = self.assertRaises(
            AgentError, self.keys.remove, request, "engine-1", may_be_last=False
        )
        self.assertIn("pkagent keys remove", str(error))
        self.assertIsNotNone(self.trust.lookup(ENGINE_1.key))
        self.keys.remove(request, "uid 0", may_be_last=True)
        self.assertEqual(self.keys.list(), [])

    def test_key_that_has_expired_does_not_count_as_another_one(self) -> None:
        past = datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc)
        self.keys.add(AddKey(pin=str(ENGINE_2), name="old", expires=past), "engine-1")
        request = RemoveKey(pin=str(ENGINE_1.key))
        self.assertRaises(AgentError, self.keys.remove, request, "engine-1", may_be_last=False)

    def test_unknown_key_is_said_to_be_unknown(self) -> None:
        error = self.assertRaises(
            AgentError, self.keys.remove, RemoveKey(pin=str(ENGINE_2)), "x", may_be_last=True
        )
        self.assertIn(str(ENGINE_2), str(error))
