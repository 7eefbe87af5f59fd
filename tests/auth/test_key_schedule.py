"""The key schedule: each input changes each key."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.key_schedule import PROTOCOL, KeySchedule, transcript_hash
from pkengine.keys import Secret


class Schedule(SynchronousTestCase):
    def test_a_key_is_hkdf_with_the_protocol_as_salt(self) -> None:
        digest = transcript_hash(b"hello")
        expected = HKDF(
            hashes.SHA256(),
            32,
            salt=b"pkengine auth 1 hmac",
            info=b"pkengine auth 1\0hmac\0traffic\0" + digest,
        ).derive(b"secret")
        self.assertEqual(
            KeySchedule("hmac", Secret("secret")).derive(b"traffic", digest), expected
        )

    def test_every_input_separates_the_keys(self) -> None:
        digest = transcript_hash(b"hello")
        base = KeySchedule("hmac", Secret("secret"))
        keys = {
            base.derive(b"traffic", digest),
            base.derive(b"finished", digest),
            base.derive(b"traffic", transcript_hash(b"hallo")),
            KeySchedule("sign", Secret("secret")).derive(b"traffic", digest),
            KeySchedule("hmac", Secret("secret2")).derive(b"traffic", digest),
            base.finished(b"traffic", digest),
        }
        self.assertEqual(len(keys), 6)

    def test_no_secret_shows_in_a_repr(self) -> None:
        self.assertNotIn("secret", repr(KeySchedule("hmac", Secret("secret"))))

    def test_the_protocol_is_named_with_its_version(self) -> None:
        self.assertEqual(PROTOCOL, b"pkengine auth 1")
