"""Lines of OpenSSH's ``authorized_keys`` (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"); no IO.

An engine knows its own line by a *marker*, which is the first word of the comment behind the key.
Every function takes the text of a file and gives the new one, and leaves all lines as they are
that it has no business with.  Doing it twice changes nothing.

This file needs the standard library only, as it also runs on hosts that have nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: One option: a name, and for some a quoted value in which a backslash stands before a quote.
_OPTION = re.compile(r'[A-Za-z0-9-]+(?:="(?:\\"|[^"])*")?')
_KEY_TYPE = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa|rsa|webauthn)-[A-Za-z0-9@.-]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+=*")
_MARKER = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class AuthorizedKey:
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
                option = _OPTION.match(text)
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


def limits(*, only_from: Sequence[str] = (), is_restricted: bool = False) -> tuple[str, ...]:
    """Give the options that limit what a key may do.

    Args:
        only_from: addresses, networks and name patterns from which it is let in.
        is_restricted: no terminal, no forwarding of anything, no ``~/.ssh/rc``.  Commands, and
            with them deployment, are still possible.

    Raises:
        ValueError: a pattern cannot be written into the file.
    """
    for pattern in only_from:
        if not re.fullmatch(r"[A-Za-z0-9:./*?!\[\]_%-]+", pattern):
            raise ValueError(
                f"{pattern!r} cannot stand in 'from=': expected an address, a network such as "
                "10.0.0.0/8, or a name in which * and ? stand for others."
            )
    restrict = ("restrict",) if is_restricted else ()
    return (*restrict, 'from="{}"'.format(",".join(only_from))) if only_from else restrict


def authorize(text: str, entry: AuthorizedKey) -> str:
    """Let a key in, by just one line that has the entry's marker.

    A line with that marker is replaced where it stands, whatever key and options it has: so the
    key is rotated, and its limits are changed.  A line that has the key, but not the marker, was
    put there by somebody else, perhaps with limits: then that one stays, and none is added.

    Raises:
        ValueError: the entry cannot be written into one line, or it has no marker.
    """
    if "\n" in str(entry) or "\r" in str(entry) or AuthorizedKey.parse(str(entry)) != entry:
        raise ValueError(f"{str(entry)[:80]!r} is no line of an authorized_keys file.")
    if not _MARKER.fullmatch(entry.marker):
        raise ValueError("An authorized key needs a marker: one word behind the key.")
    lines = _lines(text)
    own = [at for at, line in enumerate(lines) if _is_marked(line, entry.marker)]
    if any(_has_key(line, entry.key) for at, line in enumerate(lines) if at not in own):
        return _without(lines, own)
    if not own:
        return "".join((*lines, f"{entry}\n"))
    lines[own[0]] = f"{entry}\n"
    return _without(lines, own[1:])


def deauthorize(text: str, *, marker: str | None = None, key: str | None = None) -> str:
    """Let a key in no more: remove the lines that have a marker, or a key, whoever put it there.

    Args:
        text: the file.
        marker: that of an entry.
        key: type and base64; what follows is not looked at.
    """
    lines = _lines(text)
    gone = [
        at
        for at, line in enumerate(lines)
        if (marker is not None and _is_marked(line, marker))
        or (key is not None and _has_key(line, key))
    ]
    return _without(lines, gone) if gone else text


def _lines(text: str) -> list[str]:
    """Split a file; its last line gets an end, as sshd does not need one there."""
    return [line + "\n" for line in text.removesuffix("\n").split("\n")] if text else []


def _is_marked(line: str, marker: str) -> bool:
    known = AuthorizedKey.parse(line)
    return known is not None and known.marker == marker


def _has_key(line: str, key: str) -> bool:
    known = AuthorizedKey.parse(line)
    return known is not None and known.key.split() == key.split()[:2]


def _without(lines: Sequence[str], gone: Iterable[int]) -> str:
    unwanted = set(gone)
    return "".join(line for at, line in enumerate(lines) if at not in unwanted)
