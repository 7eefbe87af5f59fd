"""How the elements of the API are declared: once for both forms and both directions.

An `Element` is a list of `Field`s.  A field says how its value is got from the engine's
model, and whether it is taken from requests.  The readers and writers in `xml_form` and
`json_form` know nothing of hosts or events: they walk these declarations.

A request becomes a `Document`, a dictionary that has just the fields that were sent, each
already of its Python type; a secret is a `Secret` from here on.
"""

from __future__ import annotations

import datetime
import enum
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pkengine.errors import BadRequest
from pkengine.keys import Secret

Document: TypeAlias = dict[str, Any]
Getter: TypeAlias = Callable[[Any], Any]

_NOT_IN_LINE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


class InvalidValue(BadRequest):
    """A value of a request is not one that its element or parameter takes."""


class IncompleteParameters(BadRequest):
    """A request lacks what is mandatory."""


class Scalar(ABC):
    """A value without parts: how it is written, and read from what a client sent."""

    #: What a value looks like, for people.
    expected = "text"

    def encode(self, value: Any) -> str:
        """Give the text of a value that is not None."""
        return str(value)

    def to_json(self, value: Any) -> Any:
        """Give what stands in JSON; oVirt writes numbers and Booleans as text."""
        return self.encode(value)

    @abstractmethod
    def decode(self, text: str) -> Any:
        """Give the value of a text.

        Raises:
            ValueError: it has none; this says what was expected.
        """


class WrittenScalar(Scalar):
    """A value that only the engine sets."""

    def decode(self, text: str) -> Any:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError("nothing, for only the engine sets it")


@dataclass(frozen=True)
class Text(Scalar):
    """Any text, without NUL.

    Attributes:
        longest: how many characters at most.
        is_line: no control characters, and no blanks around it.
    """

    longest: int = 4000
    is_line: bool = False

    def decode(self, text: str) -> str:
        """See `Scalar.decode`."""
        if self.is_line:
            text = text.strip()
        if len(text) > self.longest:
            raise ValueError(f"at most {self.longest} characters")
        if "\0" in text or (self.is_line and _NOT_IN_LINE.search(text)):
            raise ValueError("text without control characters")
        return text


@dataclass(frozen=True)
class Integer(Scalar):
    """An integer within bounds."""

    least: int = -(2**63)
    greatest: int = 2**63 - 1

    def decode(self, text: str) -> int:
        """See `Scalar.decode`."""
        text = text.strip()
        if not _INTEGER.fullmatch(text):
            raise ValueError("an integer")
        number = int(text)
        if not self.least <= number <= self.greatest:
            raise ValueError(f"an integer from {self.least} to {self.greatest}")
        return number


class Decimal(WrittenScalar):
    """A number with a fraction."""

    def encode(self, value: float) -> str:
        """Write at most four decimals."""
        return f"{value:.4f}".rstrip("0").rstrip(".")


class Boolean(Scalar):
    """``true`` or ``false``."""

    def encode(self, value: bool) -> str:
        """Write it in lower case."""
        return "true" if value else "false"

    def decode(self, text: str) -> bool:
        """Take XML Schema's four forms, in any case as oVirt does."""
        try:
            return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
        except KeyError:
            raise ValueError("'true' or 'false'") from None


class Moment(WrittenScalar):
    """A point in time."""

    def encode(self, value: datetime.datetime) -> str:
        """Write UTC to the millisecond, in the one form that the SDK reads."""
        utc = value.astimezone(datetime.timezone.utc)
        return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"

    def to_json(self, value: datetime.datetime) -> int:
        """Write milliseconds since the epoch, as oVirt does."""
        return int(value.timestamp() * 1000)


@dataclass(frozen=True)
class Enumerated(Scalar):
    """A member of an enumeration, by its value, which is in lower case."""

    members: type[enum.Enum]

    def encode(self, value: enum.Enum) -> str:
        """Write the member's value."""
        return str(value.value)

    def decode(self, text: str) -> enum.Enum:
        """See `Scalar.decode`."""
        try:
            return self.members(text.strip().lower())
        except ValueError:
            names = ", ".join(repr(member.value) for member in self.members)
            raise ValueError(f"one of {names}") from None


class Guid(Scalar):
    """A UUID."""

    def decode(self, text: str) -> uuid.UUID:
        """See `Scalar.decode`."""
        try:
            return uuid.UUID(text.strip())
        except ValueError:
            raise ValueError("a UUID") from None


class SecretText(Scalar):
    """A password: it is read, and there is no way to write it."""

    def encode(self, value: Any) -> str:
        """Refuse.

        Raises:
            TypeError: always.
        """
        raise TypeError("A secret is never written.")

    def decode(self, text: str) -> Secret:
        """See `Scalar.decode`."""
        if len(text) > 1024:
            raise ValueError("at most 1024 characters")
        if "\0" in text:
            raise ValueError("text without NUL")
        return Secret(text)


TEXT = Text()
LINE = Text(longest=255, is_line=True)
INTEGER = Integer()
PORT = Integer(1, 65535)
DECIMAL = Decimal()
BOOLEAN = Boolean()
MOMENT = Moment()
GUID = Guid()
SECRET = SecretText()


@dataclass(frozen=True)
class ListOf:
    """A wrapper element around any number of the same, such as ``pins`` around ``pin``."""

    name: str
    of: Scalar | Element


@dataclass(frozen=True)
class Field:
    """One child of an element.

    Attributes:
        name: of the XML element and of the JSON member.
        type: what is in it; None is anything, which is accepted and ignored.
        get: gives the value from the source of the element around it; where that is None
            the field is left out.  A field without `get` is never written.
        is_read: a request may set it.  All others are accepted and ignored, for clients
            send back whole entities.
    """

    name: str
    type: Scalar | Element | ListOf | None = None
    get: Getter | None = None
    is_read: bool = False


@dataclass(frozen=True, eq=False)
class Element:
    """A type of the API.

    Attributes:
        name: of one, such as ``host``; it is the root in XML and the list's member in JSON.
        plural: of the collection, such as ``hosts``.
        fields: in the order in which they are written.
        id: gives the ``id`` attribute from the source.
        href: gives the path behind the API's base, such as ``/hosts/ID``.
        is_open: unknown children in a request are ignored, for it is a part of a whole entity.
        is_reference: an ``id`` in a request is taken, because it says which one is meant.
        actions: the last parts of the paths of its actions.
        collections: the last parts of the paths of its sub-collections.
    """

    name: str
    plural: str = ""
    fields: tuple[Field, ...] = ()
    id: Getter | None = None
    href: Getter | None = None
    is_reference: bool = False
    is_open: bool = False
    actions: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    by_name: dict[str, Field] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_name = {child.name: child for child in self.fields}
        if len(by_name) != len(self.fields):
            raise ValueError(f"A field of {self.name} is declared twice.")
        object.__setattr__(self, "by_name", by_name)

    def field_named(self, name: str, path: str) -> Field:
        """Find a field that a request has.

        Raises:
            BadRequest: there is none of that name; `path` says where it was found.
        """
        try:
            return self.by_name[name]
        except KeyError:
            if self.is_open:
                return Field(name)
            raise BadRequest(f"Unknown element '{name[:100]}' in '{path}'.") from None


def ignored(*names: str) -> Iterable[Field]:
    """Declare names of oVirt's model that mean nothing here: accepted, never written."""
    return tuple(Field(name) for name in names)


def decode(scalar: Scalar, text: str, path: str) -> Any:
    """Read a scalar of a request.

    Raises:
        InvalidValue: the text has no value; the value itself is not repeated where it may
            be a secret.
    """
    try:
        return scalar.decode(text)
    except ValueError as error:
        found = "" if isinstance(scalar, SecretText) else f", found {text[:100]!r}"
        raise InvalidValue(f"'{path}': expected {error}{found}.") from None
