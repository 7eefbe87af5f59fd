"""Lines of OpenSSH's ``authorized_keys`` (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"); no IO.

An engine knows its own lines by a *marker*, which is the first word of the comment behind the
key, such as ``pkengine@engine1-0a1b2c3d``.  Every function takes the text of a file and gives the
new one, and leaves all lines as they are that it has no business with.  Doing it twice changes
nothing.

This file needs the standard library only: it is carried to hosts that have nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

#: The first word of the comment of every engine's line; engines of today add ``@`` and a name.
MARKER = "pkengine"

#: One option: a name, and for some a quoted value in which a backslash stands before a quote.
OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:\\"|[^"])*)")?')
_KEY_TYPE = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa|rsa|webauthn)-[A-Za-z0-9@.-]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+=*")
_MARKER = re.compile(r"[!-~]+")


class AuthorizedKey(NamedTuple):  # a host loads this file, and `dataclasses` takes as long again
    """A line that lets a key in.

    Attributes:
        key: type and base64, as in a ``.pub`` file.
        options: such as ``restrict`` or ``from="10.0.0.0/8"``.
        comment: what stands behind the key.
    """

    key: str
    options: tuple[str, ...] = ()
    comment: str = ""

    @classmethod
    def parse(cls, line: str) -> AuthorizedKey | None:
        """Read a line; None where it is empty, a comment, or nothing that lets a key in."""
        text = line.strip()
        options: list[str] = []
        if not text or text.startswith("#"):
            return None
        if not _starts_with_key(text):
            while True:
                option = OPTION.match(text)
                if option is None:
                    return None
                options.append(option[0])
                text = text[option.end() :]
                if not text.startswith(","):
                    break
                text = text[1:]
            if not text[:1].isspace():
                return None
            text = text.lstrip()
        words = text.split(None, 2)
        if not _starts_with_key(text):
            return None
        comment = words[2] if len(words) > 2 else ""
        return cls(f"{words[0]} {words[1]}", tuple(options), comment)

    @property
    def marker(self) -> str:
        """The first word of the comment."""
        return self.comment.partition(" ")[0]

    def __str__(self) -> str:
        return " ".join(part for part in (",".join(self.options), self.key, self.comment) if part)


def _starts_with_key(text: str) -> bool:
    words = text.split(None, 2)
    return (
        len(words) >= 2
        and _KEY_TYPE.fullmatch(words[0]) is not None
        and _BASE64.fullmatch(words[1]) is not None
    )


def authorize(
    text: str, entry: AuthorizedKey, *, beside: str | None = None, keeps_options: bool = False
) -> str:
    """Let a key in, by just one line of this engine's.

    Its own lines are those that have the entry's marker, or one of the two keys and the marker
    of an engine by another name, or of an older version.  The first of them becomes the entry,
    the others go.  A line that has the key and was put there by somebody else, perhaps with
    limits, is enough: it stays as it is, and no other one is added.

    Args:
        text: the file.
        entry: the line.
        beside: type and base64 of a key that the entry's takes the place of.  It stays let in
            until it is given to `deauthorize`.  Where somebody else's line has it, the entry's
            key is let in by a copy of that line, with its limits and its comment.
        keeps_options: what limits an own line stays on it, instead of the entry's options.

    Raises:
        ValueError: the entry cannot be written into one line, or it has no marker.
    """
    if "\n" in str(entry) or "\r" in str(entry) or AuthorizedKey.parse(str(entry)) != entry:
        raise ValueError(f"{str(entry)[:80]!r} is no line of an authorized_keys file.")
    if not _MARKER.fullmatch(entry.marker):
        raise ValueError("An authorized key needs a marker: one word behind the key.")
    lines = _lines(text)
    known = _keys(lines)
    own = {n: key for n, key in known.items() if _is_own(key, entry, beside)}
    others = {n: key for n, key in known.items() if n not in own}
    is_let_in = any(key.key == entry.key for key in others.values())
    copied = {n for n, key in others.items() if key.key == beside and not is_let_in}
    needs_own = not is_let_in and not copied
    if keeps_options and own:
        model = next((key for key in own.values() if key.key == entry.key), min(own.items())[1])
        entry = entry._replace(options=model.options)
    result: list[str] = []
    for n, line in enumerate(lines):
        if n not in own or own[n].key == beside:
            result.append(line)
        if n in copied:
            result.append(f"{others[n]._replace(key=entry.key)}\n")
        if needs_own and n == min(own, default=None):
            result.append(f"{entry}\n")
    if needs_own and not own:
        result.append(f"{entry}\n")
    return "".join(result)


def own_line(text: str, entry: AuthorizedKey) -> AuthorizedKey | None:
    """Give the line that `authorize` would replace by the entry, or None."""
    keys = _keys(_lines(text)).values()
    return next((key for key in keys if _is_own(key, entry, None)), None)


def _is_own(line: AuthorizedKey, entry: AuthorizedKey, beside: str | None) -> bool:
    return line.marker == entry.marker or (
        line.key in (entry.key, beside)
        and (line.marker == MARKER or line.marker.startswith(f"{MARKER}@"))
    )


def deauthorize(text: str, *, marker: str | None = None, keys: Collection[str] = ()) -> str:
    """Let keys in no more: remove the lines that have a marker, or a key, whoever put it there.

    Args:
        text: the file.
        marker: that of an entry.
        keys: type and base64 of each.
    """
    lines = _lines(text)
    kept = [
        line
        for line in lines
        if (known := AuthorizedKey.parse(line)) is None
        or (known.marker != marker and known.key not in keys)
    ]
    return "".join(kept) if len(kept) < len(lines) else text


def _keys(lines: list[str]) -> dict[int, AuthorizedKey]:
    return {n: key for n, line in enumerate(lines) if (key := AuthorizedKey.parse(line))}


def _lines(text: str) -> list[str]:
    """Split a file; its last line gets an end, as sshd does not need one there."""
    return [line + "\n" for line in text.removesuffix("\n").split("\n")] if text else []
