"""Codes that a person reads out: their words, and what a person may make of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.join_code import (
    INVITING_ENGINE,
    JOINING_HOST,
    MOST_NUMBER,
    JoinCode,
    join_key_id,
    join_words,
)
from pkengine.auth.spake2plus import ProverRecord, VerifierRecord
from pkengine.errors import InvalidJoinCode

_SOUNDS = {
    letter: sound
    for sound, letters in enumerate(("bfpv", "cgjkqsxz", "dt", "l", "mn", "r"))
    for letter in letters
}


def distance(one: str, other: str) -> int:
    """Count the letters to insert, delete, replace or swap with the next one."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one):
        row = [i + 1]
        for j, b in enumerate(other):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (a != b)))
            if i and j and a == other[j - 1] and b == one[i - 1]:
                row[-1] = min(row[-1], before[j - 1] + 1)
        before, last = last, row
    return last[-1]


def consonants(word: str) -> tuple[object, ...]:
    """Give what is left of a word on a bad line: how it begins, and its kinds of consonants."""
    word = word.replace("ph", "f").replace("ck", "k").replace("kn", "n")
    voiced = [_SOUNDS.get(letter) for letter in word if letter not in "hw"]
    heard = [sound for sound, _ in itertools.groupby(voiced) if sound is not None]
    return (word[0], *heard[word[0] in _SOUNDS :])


class Words(SynchronousTestCase):
    def test_two_of_them_have_twenty_bits(self) -> None:
        self.assertEqual(len(join_words()), 1024)
        self.assertEqual(list(join_words()), sorted(set(join_words())))

    def test_each_is_short_and_of_plain_letters(self) -> None:
        self.assertEqual([], [w for w in join_words() if not re.fullmatch("[a-z]{5,8}", w)])

    def test_four_letters_tell_which_one_it_is(self) -> None:
        self.assertEqual(len({word[:4] for word in join_words()}), 1024)

    def test_no_two_of_them_are_alike_to_the_eye(self) -> None:
        pairs = itertools.combinations(join_words(), 2)
        near = [
            (one, other)
            for one, other in pairs
            # What is left out here cannot be near: too many letters are not in the other word.
            if len(set(one) ^ set(other)) <= 4 and distance(one, other) < 3
        ]
        self.assertEqual([], near)

    def test_no_two_of_them_are_alike_to_the_ear(self) -> None:
        self.assertEqual(len({consonants(word) for word in join_words()}), 1024)


class Drawing(SynchronousTestCase):
    def test_words_are_drawn_from_all_of_them(self) -> None:
        asked: list[Sequence[str]] = []

        def choose(words: Sequence[str]) -> str:
            asked.append(words)
            return words[len(asked) * 100]

        code = JoinCode.draw(7, choose=choose)
        self.assertEqual(code.words, (join_words()[100], join_words()[200]))
        self.assertEqual(asked, [join_words()] * 2)

    def test_a_code_shows_its_words_to_who_asks_for_them_only(self) -> None:
        code = JoinCode(7, ("guitar", "volcano"))
        self.assertEqual(code.reveal(), "7-guitar-volcano")
        self.assertNotIn("guitar", repr(code) + str(code))


class Typing(SynchronousTestCase):
    def test_case_and_what_stands_between_the_parts_do_not_matter(self) -> None:
        for typed in (
            "7-guitar-volcano",
            " 7 Guitar  VOLCANO\n",
            "7guitar.volcano",
            "7 - guitar, volcano",
            "007_guitar_volcano",
        ):
            self.assertEqual(JoinCode.parse(typed), JoinCode(7, ("guitar", "volcano")), typed)

    def test_an_unknown_word_is_answered_with_the_nearest(self) -> None:
        error = self.assertRaises(InvalidJoinCode, JoinCode.parse, "7-guitr-volcano")
        self.assertIn("'guitr' is none of the words", str(error))
        self.assertIn("'guitar'", str(error))
        self.assertNotIn("volcano", str(error))
        error = self.assertRaises(InvalidJoinCode, JoinCode.parse, "7-qqqqqq-volcano")
        self.assertIn("look at the code again", str(error))

    def test_anything_else_is_no_code(self) -> None:
        for typed in (
            "",
            "guitar-volcano",
            "7-guitar",
            "7-guitar-volcano-tiger",
            "guitar-7-volcano",
            "7/guitar/volcano",
            "7-gü-volcano",
            f"{MOST_NUMBER + 1}-guitar-volcano",
            "0-guitar-volcano",
            "9" * 5000 + "-guitar-volcano",
            "000000007999999-guitar-volcano",
            "0" * 5000 + "7-guitar-volcano",
            "https://engine.example",
        ):
            self.assertRaises(InvalidJoinCode, JoinCode.parse, typed)


class Registering(SynchronousTestCase):
    def test_both_ends_make_halves_of_one_key_of_a_code(self) -> None:
        proof, check = JoinCode(7, ("guitar", "volcano")).register()
        again, _ = JoinCode.parse("7 guitar volcano").register()
        other, _ = JoinCode(7, ("volcano", "guitar")).register()
        self.assertEqual(proof, again)
        self.assertNotEqual(proof.secret, other.secret)
        self.assertEqual((proof.local, proof.peer), (JOINING_HOST, INVITING_ENGINE))
        self.assertEqual((check.local, check.peer), (INVITING_ENGINE, JOINING_HOST))
        self.assertEqual(proof.key_id, join_key_id(7))
        record = ProverRecord.decode(proof.secret).verifier_record()
        self.assertEqual(VerifierRecord.decode(check.secret), record)

    def test_each_number_has_a_key_id_of_its_own(self) -> None:
        ids = {join_key_id(number) for number in range(1, MOST_NUMBER + 1)}
        self.assertEqual(len(ids), MOST_NUMBER)
