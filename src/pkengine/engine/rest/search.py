"""oVirt's search language, as far as lists of hosts and events need it.

    [Hosts:] [condition] [sortby FIELD [asc|desc]] [page N]

A condition is made of ``FIELD OPERATOR VALUE`` with ``and``, ``or`` and parentheses; ``and``
binds closer.  Operators are ``= != < > <= >=``, a value may be quoted and may have ``*``, and
a value without a field is looked for in all of them.  Words of the language and fields are
in any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pkengine.errors import BadRequest

T = TypeVar("T")
Fields = Mapping[str, Callable[[Any], Any]]
Condition = Callable[[Any], bool]

_LONGEST = 2000
_DEEPEST = 50

_TOKEN = re.compile(
    r"""\s*(?: (?P<operator> != | <= | >= | = | < | > | ~ )
             | (?P<parenthesis> [()] )
             | " (?P<quoted> [^"]* ) "
             | (?P<word> [^\s=!<>()"~]+ ) )""",
    re.VERBOSE,
)
_PREFIX = re.compile(r"\s*(?:hosts?|events?|clusters?)\s*:", re.IGNORECASE)


class InvalidSearch(BadRequest):
    """The text of a search is not in the language."""


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes:
        condition: None for everything.
        sort: gives the key to sort by; None leaves the order as it is.
        descending: the other way round.
        page: from 1 on; each page is as long as the request's maximum.
    """

    condition: Condition | None = None
    sort: Callable[[Any], Any] | None = None
    descending: bool = False
    page: int = 1

    @property
    def is_everything(self) -> bool:
        """Tell whether the collection can be given as it stands."""
        return self.condition is None and self.sort is None and self.page == 1

    def apply(self, items: Iterable[T], limit: int | None) -> list[T]:
        """Give what was looked for, in order, and at most `limit` of it."""
        found = [item for item in items if self.condition is None or self.condition(item)]
        if self.sort is not None:
            found.sort(key=self.sort, reverse=self.descending)
        if limit is None:
            return found if self.page == 1 else []
        start = (self.page - 1) * limit
        return found[start : start + limit]


def parse(text: str, fields: Fields, *, case_sensitive: bool = False) -> Search:
    """Read a search.

    Args:
        text: what the client sent; empty for everything.
        fields: gives the values of an item by the names of the language; a value is text,
            an integer or None.
        case_sensitive: compare text as it is.

    Raises:
        InvalidSearch: with a sentence that says where it is wrong.
    """
    if len(text) > _LONGEST:
        raise InvalidSearch(f"The search has more than {_LONGEST} characters.")
    prefix = _PREFIX.match(text)
    tokens = _tokens(text[prefix.end() :] if prefix else text)
    return _Parser(tokens, fields, case_sensitive).search()


@dataclass(frozen=True)
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
    """Recursive descent, one method for each line of the grammar."""

    def __init__(self, tokens: list[_Token], fields: Fields, case_sensitive: bool) -> None:
        self._tokens = tokens
        self._fields = fields
        self._case_sensitive = case_sensitive
        self._position = 0

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
            sort = self._sort_key(self._field(self._take()))
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
        return Search(condition, sort, descending, page)

    def _disjunction(self, depth: int) -> Condition:
        parts = [self._conjunction(depth)]
        while self._next.is_word("or"):
            self._take()
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else lambda item: any(p(item) for p in parts)

    def _conjunction(self, depth: int) -> Condition:
        parts = [self._comparison(depth)]
        while self._next.is_word("and"):
            self._take()
            parts.append(self._comparison(depth))
        return parts[0] if len(parts) == 1 else lambda item: all(p(item) for p in parts)

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
        if self._next.kind != "operator":
            return self._anywhere(token.text)
        get = self._field(token)
        operator = self._take().text
        value = self._take()
        if value.kind not in ("word", "quoted"):
            raise InvalidSearch(f"There is no value behind {token.text[:40]!r} {operator}.")
        return self._compare(get, operator, value.text)

    def _field(self, token: _Token) -> Callable[[Any], Any]:
        get = self._fields.get(token.text.lower()) if token.kind == "word" else None
        if get is None:
            known = ", ".join(sorted(self._fields))
            raise InvalidSearch(f"Unknown field {token.text[:40]!r}: expected one of {known}.")
        return get

    def _anywhere(self, pattern: str) -> Condition:
        matches = _pattern(pattern, self._case_sensitive)
        getters = tuple(self._fields.values())
        return lambda item: any(matches(_text(get(item))) for get in getters)

    def _compare(self, get: Callable[[Any], Any], operator: str, text: str) -> Condition:
        if operator in ("=", "!=", "~"):
            matches = _pattern(text, self._case_sensitive)
            if operator == "!=":
                return lambda item: not matches(_text(get(item)))
            return lambda item: matches(_text(get(item)))
        compare = _ORDER[operator]
        if re.fullmatch("[0-9]{1,18}", text):
            number = int(text)
            return lambda item: (
                isinstance(value := get(item), int) and bool(compare(value, number))
            )
        folded = text.casefold()
        return lambda item: bool(compare(_text(get(item)).casefold(), folded))

    def _sort_key(self, get: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def key(item: Any) -> tuple[bool, Any]:
            value = get(item)
            if isinstance(value, int):
                return (False, value)
            return (True, _text(value).casefold())

        return key


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "<=": lambda left, right: left <= right,
    ">=": lambda left, right: left >= right,
}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _pattern(pattern: str, case_sensitive: bool) -> Callable[[str], bool]:
    """Match the whole text, where ``*`` stands for anything.

    The stars divide the pattern into pieces that are looked for from left to right: there
    is nothing in it that could go back and take long.
    """
    fold: Callable[[str], str] = str if case_sensitive else str.casefold
    pieces = fold(pattern).split("*")

    def matches(text: str) -> bool:
        text = fold(text)
        if len(pieces) == 1:
            return text == pieces[0]
        first, *middle, last = pieces
        if not text.startswith(first) or len(text) < len(first) + len(last):
            return False
        position, end = len(first), len(text) - len(last)
        for piece in middle:
            found = text.find(piece, position, end)
            if found < 0:
                return False
            position = found + len(piece)
        return text.endswith(last)

    return matches
