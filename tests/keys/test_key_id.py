"""Key ids: one text form, and nothing of the secret in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from pkengine.errors import InvalidKeyText
from pkengine.keys.key_id import KeyId


class KeyIdTests(unittest.TestCase):
    @given(st.binary(min_size=16, max_size=16))
    def test_what_is_printed_is_read_as_the_same_id(self, octets: bytes) -> None:
        self.assertEqual(KeyId(octets), KeyId.parse(str(KeyId(octets))))

    @given(st.text() | st.from_regex(r"kid//[0-9a-fA-F]{30,34}"))
    def test_any_text_is_refused_or_is_the_one_form_of_its_id(self, text: str) -> None:
        try:
            key_id = KeyId.parse(text)
        except InvalidKeyText as error:
            self.assertIn("kid//", str(error))
        else:
            self.assertEqual(text, str(key_id))

    def test_an_id_has_16_octets(self) -> None:
        with self.assertRaisesRegex(InvalidKeyText, "has 15"):
            KeyId(bytes(15))

    def test_drawn_ids_differ(self) -> None:
        self.assertEqual(100, len({KeyId.random() for _ in range(100)}))
