"""Asks a person for the code of an invitation; the Tab key completes its words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from pkengine.auth.join_code import JoinCode, join_words
from pkengine.cli.terminal import ask, tell
from pkengine.errors import InvalidJoinCode

_LAST_WORD = re.compile(r"[a-z]+$")


def ask_code() -> JoinCode:
    """Ask until what is typed is a code; nothing is tried with what is none.

    Raises:
        CommandFailed: it was interrupted.
    """
    with _completing():
        while True:
            try:
                typed = ask("The code that the administrator reads out", with_editing=True)
                return JoinCode.parse(typed)
            except InvalidJoinCode as error:
                tell(str(error))


def completions(typed: str) -> list[str]:
    """Give what a line may become when the word at its end is completed."""
    found = _LAST_WORD.search(typed.lower())
    if found is None:
        return []
    before = typed[: found.start()]
    return [before + word for word in join_words() if word.startswith(found[0])]


@contextlib.contextmanager
def _completing() -> Iterator[None]:
    """Let the Tab key complete words, where this Python has the library for it."""
    try:
        import readline
    except ImportError:
        yield
        return

    def complete(text: str, state: int) -> str | None:
        return dict(enumerate(completions(text))).get(state)

    before, delimiters = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(complete)
    readline.set_completer_delims("")  # the whole line is one text
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
        readline.set_completer_delims(delimiters)
        readline.clear_history()  # what was typed is a secret
