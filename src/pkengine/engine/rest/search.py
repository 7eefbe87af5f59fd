"""Searches in the few collections that are in memory, such as the clusters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pkengine.engine import search as language
from pkengine.engine.search import AllOf, AnyOf, Comparison, Condition, InvalidSearch

__all__ = ["InvalidSearch", "Search", "parse"]

T = TypeVar("T")
Fields = Mapping[str, Callable[[Any], Any]]
_Test = Callable[[Any], bool]


@dataclass(frozen=True)
class Search:
    """A filter and an order for items in memory.

    Attributes:
        test: None for everything.
        sort: gives the key to sort by; None leaves the order as it is.
        descending: the other way round.
        page: from 1 on; each page is as long as the request's maximum.
    """

    test: _Test | None = None
    sort: Callable[[Any], Any] | None = None
    descending: bool = False
    page: int = 1

    def apply(self, items: Iterable[T], limit: int | None) -> list[T]:
        """Give what was looked for, in order, and at most `limit` of it."""
        found = [item for item in items if self.test is None or self.test(item)]
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
    found = language.parse(text, fields, case_sensitive=case_sensitive)
    build = _Build(fields, case_sensitive)
    return Search(
        test=None if found.condition is None else build.test(found.condition),
        sort=None if found.sort is None else _sort_key(fields[found.sort]),
        descending=found.descending,
        page=found.page,
    )


@dataclass(frozen=True)
class _Build:
    """Makes functions of conditions."""

    fields: Fields
    case_sensitive: bool

    def test(self, condition: Condition) -> _Test:
        if isinstance(condition, AllOf):
            parts = [self.test(part) for part in condition.parts]
            return lambda item: all(part(item) for part in parts)
        if isinstance(condition, AnyOf):
            parts = [self.test(part) for part in condition.parts]
            return lambda item: any(part(item) for part in parts)
        return self._comparison(condition)

    def _comparison(self, comparison: Comparison) -> _Test:
        if comparison.field is None:
            matches = _pattern(comparison.value, self.case_sensitive)
            getters = tuple(self.fields.values())
            return lambda item: any(matches(_text(get(item))) for get in getters)
        get = self.fields[comparison.field]
        if comparison.operator in ("=", "!="):
            matches = _pattern(comparison.value, self.case_sensitive)
            if comparison.operator == "!=":
                return lambda item: not matches(_text(get(item)))
            return lambda item: matches(_text(get(item)))
        compare = _ORDER[comparison.operator]
        if re.fullmatch("[0-9]{1,18}", comparison.value):
            number = int(comparison.value)
            return lambda item: (
                isinstance(value := get(item), int) and bool(compare(value, number))
            )
        folded = comparison.value.casefold()
        return lambda item: bool(compare(_text(get(item)).casefold(), folded))


def _sort_key(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
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
