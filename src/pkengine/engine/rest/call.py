"""One request to the API, as the resources see it, and what they answer."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pkengine.engine.model import Origin
from pkengine.engine.rest.negotiation import Form
from pkengine.engine.rest.schema import (
    BOOLEAN,
    Document,
    Element,
    IncompleteParameters,
    Integer,
    Scalar,
    decode,
)
from pkengine.engine.search import Search, parse
from pkengine.engine.users import Role, User

#: How many entities one answer has at most, whatever the client asks for.
MOST = 100_000

#: The same for jobs, which have their steps with them and are read at once.
MOST_JOBS = 1000

#: Who wants to wait for the end of a job waits so long at most.
LONGEST_WAIT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is known when a resource is asked.

    Attributes:
        user: who asks; of a personal token, with the role of the token.
        is_automation: by a personal token.
        origin: the same for the audit, with the address and the correlation id.
        query: the parameters of the URL.
        expects: ``201-created``, ``202-accepted`` or nothing.
        body: empty where there is none.
        body_form: gives the form of the body, or raises where it is in none.
    """

    user: User
    is_automation: bool = False
    origin: Origin
    query: Mapping[str, str]
    expects: str = ""
    body: bytes
    body_form: Callable[[], Form]

    def read(self, element: Element, *, is_optional: bool = False) -> Document:
        """Read the body.

        Raises:
            BadRequest: there is none, or it does not fit the element's declaration.
        """
        if not self.body.strip():
            if is_optional:
                return {}
            raise IncompleteParameters(f"The request has no body: expected a '{element.name}'.")
        return self.body_form().read(element, self.body)

    def boolean(self, name: str, default: bool) -> bool:
        """Give a Boolean parameter of the URL.

        Raises:
            InvalidValue: it is something else.
        """
        text = self.query.get(name)
        return default if not text else bool(decode(BOOLEAN, text, name))

    def integer(self, name: str, default: int | None, least: int = 0) -> int | None:
        """Give an integer parameter of the URL; -1 means none, as on oVirt.

        Raises:
            InvalidValue: it is something else.
        """
        text = self.query.get(name)
        if not text or text == "-1":
            return default
        return int(decode(Integer(least), text, name))

    def search(self, fields: Collection[str]) -> Search:
        """Read the parameters ``search`` and ``case_sensitive``.

        Raises:
            InvalidSearch: the search is not in the language, or names another field.
        """
        return parse(
            self.query.get("search", ""),
            fields,
            case_sensitive=self.boolean("case_sensitive", False),
        )

    def limit(self, default: int | None, *, most: int = MOST) -> int:
        """Give how many entities are wanted at most; there are never more than `most`."""
        wanted = self.integer("max", default)
        return most if wanted is None else min(wanted, most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a resource answers: one entity, or a collection of them.

    Attributes:
        element: how `one` or each of `many` is declared.
            A collection that may be long comes in pages.
        location: the path, behind the API's base, of what was made.
    """

    element: Element
    one: Any = None
    many: Sequence[Any] | AsyncIterable[Sequence[Any]] | None = None
    status: int = 200
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the URL, for the description of the API."""

    name: str
    type: Scalar
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method of a path, and who may use it.

    Attributes:
        path: behind the API's base, with werkzeug's converters.
        handler: called with a `Call` and the parts of the path.
        role: the least role that may.
        is_action: faults come inside an ``action``, as the SDK reads them.
        element: what is answered; None stands for an action's result.
        is_many: a collection of it is.
        reads: what is in the body, if any.
        status: of an answer without fault.
        parameters: of the URL, beyond those that every route of its kind takes.
        searches: the fields that a search may name, where there can be one.
        summary: what it does; empty for the first line of the handler's documentation.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Answer]]
    role: Role = Role.VIEWER
    is_action: bool = False
    element: Element | None = None
    is_many: bool = False
    reads: Element | None = None
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    searches: Collection[str] = ()
    summary: str = ""
