"""oVirt's search language, as far as lists of hosts and events need it.

    [Hosts:] [condition] [sortby FIELD [asc|desc]] [page N]

A condition is made of ``FIELD OPERATOR VALUE`` with ``and``, ``or`` and parentheses; ``and``
binds closer.  Operators are ``= != ~ < > <= >=``, a value may be quoted and may have ``*``,
and a value without a field is looked for in all of them.  Words of the language and fields
are in any case.

This module reads the language; `pkengine.engine.store.search` makes SQL of what was read,
and `pkengine.engine.rest.search` a filter for the few collections that are in memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from pkengine.errors import BadRequest

_LONGEST = 2000
_DEEPEST = 50
#: A database takes expressions of a limited depth only, and this is far more than a person asks.
_MOST_COMPARISONS = 40

_TOKEN = re.compile(
    r"""\s*(?: (?P<operator> != | <= | >= | = | < | > | ~ )
             | (?P<parenthesis> [()] )
             | " (?P<quoted> [^"]* ) "
             | (?P<word> [^\s=!<>()"~]+ ) )""",
    re.VERBOSE,
)
_PREFIX = re.compile(r"\s*(?:hosts?|events?|clusters?|users?)\s*:", re.IGNORECASE)


class InvalidSearch(BadRequest):
    """The text of a search is not in the language."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field beside one value, in which ``*`` stands for anything.

    Attributes:
        field: in lower case; None for any field.
        operator: ``= != < > <= >=``.
        value: as it was sent.
    """

    field: str | None
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of them."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of them."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = Comparison | AllOf | AnyOf


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for.

    Attributes:
        condition: None for everything.
        sort: the field to sort by; None leaves the order to the collection.
        descending: the other way round.
        page: from 1 on; each page is as long as the request's maximum.
        case_sensitive: compare text as it is.
    """

    condition: Condition | None = None
    sort: str | None = None
    descending: bool = False
    page: int = 1
    case_sensitive: bool = False


def parse(text: str, fields: Collection[str], *, case_sensitive: bool = False) -> Search:
    """Read a search.

    Args:
        text: what the client sent; empty for everything.
        fields: the names that it may use, in lower case.
        case_sensitive: compare text as it is.

    Raises:
        InvalidSearch: with a sentence that says where it is wrong.
    """
    if len(text) > _LONGEST:
        raise InvalidSearch(f"The search has more than {_LONGEST} characters.")
    if "\0" in text:
        raise InvalidSearch("The search has a NUL in it.")
    prefix = _PREFIX.match(text)
    tokens = _tokens(text[prefix.end() :] if prefix else text)
    return _Parser(tokens, fields, case_sensitive).search()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words


_END = _Token("end", "")


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidSearch(f"The search is not understood at {text[position:][:40]!r}.")
        assert match.lastgroup is not None
        tokens.append(_Token(match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return [*tokens, _END]


class _Parser:
    """Reads the tokens from left to right, by recursive descent."""

    def __init__(
        self, tokens: list[_Token], fields: Collection[str], case_sensitive: bool
    ) -> None:
        self._tokens = tokens
        self._fields = fields
        self._case_sensitive = case_sensitive
        self._position = 0
        self._comparisons = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _take(self) -> _Token:
        token = self._next
        self._position += token is not _END
        return token

    def search(self) -> Search:
        condition = None
        if not self._next.is_word("sortby", "page") and self._next is not _END:
            condition = self._disjunction(0)
        sort, descending, page = None, False, 1
        if self._next.is_word("sortby"):
            self._take()
            sort = self._field(self._take())
            if self._next.is_word("asc", "desc"):
                descending = self._take().is_word("desc")
        if self._next.is_word("page"):
            self._take()
            number = self._take().text
            if not re.fullmatch("[1-9][0-9]{0,8}", number):
                raise InvalidSearch(f"Expected the number of a page, found {number[:40]!r}.")
            page = int(number)
        if self._next is not _END:
            raise InvalidSearch(f"The search is not understood at {self._next.text[:40]!r}.")
        return Search(condition, sort, descending, page, self._case_sensitive)

    def _disjunction(self, depth: int) -> Condition:
        parts = [self._conjunction(depth)]
        while self._next.is_word("or"):
            self._take()
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _conjunction(self, depth: int) -> Condition:
        parts = [self._comparison(depth)]
        while self._next.is_word("and"):
            self._take()
            parts.append(self._comparison(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _comparison(self, depth: int) -> Condition:
        token = self._take()
        if token.kind == "parenthesis" and token.text == "(":
            if depth == _DEEPEST:
                raise InvalidSearch("The search has too many parentheses.")
            condition = self._disjunction(depth + 1)
            if self._take().text != ")":
                raise InvalidSearch("A parenthesis in the search is not closed.")
            return condition
        if token.kind not in ("word", "quoted"):
            raise InvalidSearch(f"Expected a field or a value, found {token.text[:40]!r}.")
        self._comparisons += 1
        if self._comparisons > _MOST_COMPARISONS:
            raise InvalidSearch(f"The search has more than {_MOST_COMPARISONS} comparisons.")
        if self._next.kind != "operator":
            return Comparison(None, "=", token.text)
        field = self._field(token)
        operator = self._take().text
        value = self._take()
        if value.kind not in ("word", "quoted"):
            raise InvalidSearch(f"There is no value behind {token.text[:40]!r} {operator}.")
        return Comparison(field, "=" if operator == "~" else operator, value.text)

    def _field(self, token: _Token) -> str:
        name = token.text.lower()
        if token.kind != "word" or name not in self._fields:
            known = ", ".join(sorted(self._fields))
            raise InvalidSearch(f"Unknown field {token.text[:40]!r}: expected one of {known}.")
        return name
