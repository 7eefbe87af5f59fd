"""Codes that a person reads out so that a machine can join: ``7-guitar-melon``.

A code is a *number*, which is public and says which invitation is meant, and two *words*,
which are the secret: 20 bits, because SPAKE2+ gives whoever lacks them one guess for each
connection and nothing to compute with afterwards.

The words stand in ``join_words.txt``.  They were chosen to be told apart by ear and by eye:
no two of them are fewer than three letters apart (insertions, deletions, replacements and
swaps), have the same consonants in the same order, or begin with the same four letters.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from pkengine.auth.pake import register_pair
from pkengine.auth.shared_key import SharedKey
from pkengine.errors import InvalidJoinCode
from pkengine.keys.key_id import KeyId
from pkengine.keys.secret import Secret

#: Who proves the code, and who verifies it: neither knows the other by another name yet.
JOINING_HOST = "joining-host"
INVITING_ENGINE = "inviting-engine"

#: The numbers of invitations are 1 to this.
MOST_NUMBER = 999

#: With zeros in front, as somebody may type it.
_MOST_DIGITS = 9

_KEY_ID_PREFIX = b"pkengine-join"
_PART = re.compile(r"[0-9]+|[a-z]+")
_SEPARATORS = re.compile(r"[\s\-_.,]*")


@cache
def join_words() -> tuple[str, ...]:
    """Give the words, in alphabetical order."""
    text = files("pkengine.auth").joinpath("join_words.txt").read_text("ascii")
    return tuple(text.split())


@dataclass(frozen=True, slots=True, repr=False)
class JoinCode:
    """A code; as secret as its words are.

    Attributes:
        number: which invitation is meant, 1 to `MOST_NUMBER`.
        words: two of `join_words`.
    """

    number: int
    words: tuple[str, str]

    @classmethod
    def draw(
        cls, number: int, *, choose: Callable[[Sequence[str]], str] = secrets.choice
    ) -> JoinCode:
        """Make a new code."""
        return cls(number, (choose(join_words()), choose(join_words())))

    @classmethod
    def parse(cls, text: str) -> JoinCode:
        """Read what a person typed; case does not matter, nor what stands between the parts.

        Raises:
            InvalidJoinCode: it is no code, so that nothing needs to be tried with it.
        """
        typed = text.strip().lower()
        parts = _PART.findall(typed)
        if _SEPARATORS.fullmatch(_PART.sub("", typed)) is None or len(parts) != 3:
            raise InvalidJoinCode(
                "This is no code: expected a number and two words, such as '7-guitar-melon'."
            )
        begin, *words = parts
        number = int(begin) if begin.isdigit() and len(begin) <= _MOST_DIGITS else 0
        if not 1 <= number <= MOST_NUMBER:
            raise InvalidJoinCode(
                f"A code begins with a number from 1 to {MOST_NUMBER}, and this one with "
                f"{begin[:20]!r}."
            )
        first, second = map(_known, words)
        return cls(number, (first, second))

    def reveal(self) -> str:
        """Give the code as it is read out, at the one place that shows it."""
        return "-".join((str(self.number), *self.words))

    def register(self) -> tuple[SharedKey, SharedKey]:
        """Make what the joining host proves, and what the engine verifies, of the code.

        This is slow on purpose, about 0.1 s: call it in a thread.
        """
        return register_pair(
            Secret("-".join(self.words)),
            prover=JOINING_HOST,
            verifier=INVITING_ENGINE,
            key_id=join_key_id(self.number),
        )


def join_key_id(number: int) -> KeyId:
    """Give the key id by which a joining host says which invitation it means; public."""
    return KeyId(_KEY_ID_PREFIX + number.to_bytes(16 - len(_KEY_ID_PREFIX), "big"))


def _known(word: str) -> str:
    if word in join_words():
        return word
    near = get_close_matches(word, join_words(), n=3, cutoff=0.6)
    hint = f"did you mean {_choice(near)}?" if near else "please look at the code again."
    raise InvalidJoinCode(f"{word[:20]!r} is none of the words that codes are made of: {hint}")


def _choice(words: Sequence[str]) -> str:
    *most, last = map(repr, words)
    return f"{', '.join(most)} or {last}" if most else last
