"""Searches as SQL: the condition, the order and the page are the database's work."""

from __future__ import annotations

import datetime
import operator
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Select,
    String,
    and_,
    cast,
    false,
    func,
    literal,
    not_,
    or_,
)

from pkengine.engine.search import AllOf, Comparison, Condition, InvalidSearch, Search

_ORDER = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Texts:
    """A column of text, or an expression that gives text."""

    column: ColumnElement[Any]

    def condition(
        self, how: str, value: str, case_sensitive: bool, dialect: Dialect
    ) -> ColumnElement[bool]:
        """Compare; letters beyond ASCII are told apart by case on SQLite."""
        column = func.coalesce(self.column, "")
        if how in ("=", "!="):
            found = _matches(column, value, case_sensitive, dialect)
            return found if how == "=" else not_(found)
        return bool_of(_ORDER[how](func.lower(column), func.lower(literal(value, String))))

    def sort_key(self) -> ColumnElement[Any]:
        """Sort without regard to case."""
        return func.lower(func.coalesce(self.column, ""))


@dataclass(frozen=True)
class Numbers:
    """A column of integers."""

    column: ColumnElement[Any]

    def condition(
        self, how: str, value: str, case_sensitive: bool, dialect: Dialect
    ) -> ColumnElement[bool]:
        """Compare by value; a pattern is compared with the digits."""
        is_number = value.isascii() and value.isdigit() and len(value) <= 18
        if how in ("=", "!="):
            found: ColumnElement[bool]
            if is_number:
                found = func.coalesce(self.column, -1) == int(value)
            else:
                text = func.coalesce(cast(self.column, String), "")
                found = _matches(text, value, True, dialect)
            return found if how == "=" else not_(found)
        if not is_number:
            raise InvalidSearch(f"Expected a number behind '{how}', found {value[:40]!r}.")
        return bool_of(_ORDER[how](self.column, int(value)))

    def sort_key(self) -> ColumnElement[Any]:
        """Sort by value."""
        return self.column


@dataclass(frozen=True)
class Guids:
    """A column of UUIDs, which are compared as a whole only."""

    column: ColumnElement[Any]

    def condition(
        self, how: str, value: str, case_sensitive: bool, dialect: Dialect
    ) -> ColumnElement[bool]:
        """Compare; what is no UUID is equal to none."""
        try:
            found = and_(self.column.is_not(None), self.column == uuid.UUID(value))
        except ValueError:
            found = false()
        if how in ("=", "!="):
            return found if how == "=" else not_(found)
        raise InvalidSearch(f"Identifiers have no order: expected '=' or '!=', found '{how}'.")

    def sort_key(self) -> ColumnElement[Any]:
        """Sort somehow, but always in the same way."""
        return self.column


@dataclass(frozen=True)
class Moments:
    """A column of times, which are given in ISO 8601, in UTC where they have no zone."""

    column: ColumnElement[Any]

    def condition(
        self, how: str, value: str, case_sensitive: bool, dialect: Dialect
    ) -> ColumnElement[bool]:
        """Compare the moments."""
        try:
            moment = datetime.datetime.fromisoformat(value.strip().removesuffix("Z"))
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=datetime.timezone.utc)
            moment = moment.astimezone(datetime.timezone.utc)
        except (ValueError, OverflowError):
            raise InvalidSearch(
                f"Expected a time such as 2026-01-31T12:00:00, found {value[:40]!r}."
            ) from None
        if how == "=":
            return bool_of(self.column == moment)
        if how == "!=":
            return bool_of(self.column != moment)
        return bool_of(_ORDER[how](self.column, moment))

    def sort_key(self) -> ColumnElement[Any]:
        """Sort by time."""
        return self.column


Searchable: TypeAlias = Texts | Numbers | Guids | Moments
Fields: TypeAlias = Mapping[str, Searchable]


def apply(
    statement: Select[Any],
    search: Search,
    fields: Fields,
    connection: Connection,
    *,
    otherwise: ColumnElement[Any],
    limit: int,
) -> Select[Any]:
    """Give the statement with the condition, the order and the page of a search.

    Args:
        statement: selects from the table.
        search: what is looked for; its names are in `fields`.
        fields: the columns by the names of the language.
        connection: tells the dialect.
        otherwise: a unique order, for where the search has none and for what it leaves equal.
        limit: how long a page is.

    Raises:
        InvalidSearch: a value does not fit its field.
    """
    if search.condition is not None:
        statement = statement.where(
            _condition(search.condition, fields, search.case_sensitive, connection.dialect)
        )
    if search.sort is not None:
        key = fields[search.sort].sort_key()
        # What is not known comes before all that is, on every database.
        statement = statement.order_by(
            key.desc().nulls_last() if search.descending else key.asc().nulls_first()
        )
    return statement.order_by(otherwise).limit(limit).offset((search.page - 1) * limit)


def _condition(
    condition: Condition, fields: Fields, case_sensitive: bool, dialect: Dialect
) -> ColumnElement[bool]:
    if isinstance(condition, Comparison):
        return _comparison(condition, fields, case_sensitive, dialect)
    parts = [_condition(part, fields, case_sensitive, dialect) for part in condition.parts]
    return and_(*parts) if isinstance(condition, AllOf) else or_(*parts)


def _comparison(
    comparison: Comparison, fields: Fields, case_sensitive: bool, dialect: Dialect
) -> ColumnElement[bool]:
    how, value = comparison.operator, comparison.value
    if comparison.field is not None:
        return fields[comparison.field].condition(how, value, case_sensitive, dialect)
    # Two names may stand for one column, and nobody types a moment to find anything.
    columns = {id(field.column): field for field in fields.values()}.values()
    return or_(
        *(
            field.condition(how, value, case_sensitive, dialect)
            for field in columns
            if not isinstance(field, Moments)
        )
    )


def _matches(
    column: ColumnElement[Any], pattern: str, case_sensitive: bool, dialect: Dialect
) -> ColumnElement[bool]:
    """Match the whole text, where ``*`` stands for anything."""
    text = literal(pattern, String)
    if "*" not in pattern:
        return bool_of(
            column == text if case_sensitive else func.lower(column) == func.lower(text)
        )
    if case_sensitive and dialect.name == "sqlite":  # whose LIKE disregards case
        glob = pattern.replace("[", "[[]").replace("?", "[?]")
        return column.bool_op("GLOB")(literal(glob, String))
    like = literal(
        pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%"),
        String,
    )
    if case_sensitive:
        return column.like(like, escape="\\")
    return func.lower(column).like(func.lower(like), escape="\\")


def bool_of(expression: Any) -> ColumnElement[bool]:
    """Tell the type checker what a comparison gives."""
    condition: ColumnElement[bool] = expression
    return condition
