"""``follow``: an answer with what its links lead to put into it.

``follow=cluster.data_center,nics`` asks for whole entities where an answer otherwise has
references.  Which links an element has, the resources declare as `Link`s.  Followed answers
are written by elements that are derived from the declared ones, once for each combination.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

from pkengine.engine.rest.call import Answer, Call
from pkengine.engine.rest.schema import Element, Field, InvalidValue, ListOf

_LONGEST = 500
_DEEPEST = 3

#: What is to be followed: names, and below each of them the same again.
_Tree: TypeAlias = tuple[tuple[str, "_Tree"], ...]


@dataclass(frozen=True)
class Link:
    """What can be followed from an element.

    Attributes:
        field: of the element around, in which the entities are put.
        target: how one of them is declared.
        find: gives, for each of the sources, the entity there, or the sequence of entities.
        is_many: it is a sequence.
        rel: the last part of the collection's path, where it is not the field's name.
    """

    field: str
    target: Element
    find: Callable[[Call, Sequence[Any]], Awaitable[Sequence[Any]]]
    is_many: bool = False
    rel: str = ""


@dataclass(frozen=True, slots=True)
class _Followed:
    """A source with what its links lead to."""

    source: Any
    linked: Mapping[str, Any]


class Follower:
    """Follows links.

    Args:
        links: of each element that has some.
    """

    def __init__(self, links: Mapping[Element, Sequence[Link]]) -> None:
        self._links = {
            element: {name: link for link in some for name in (link.field, link.rel) if name}
            for element, some in links.items()
        }
        self._derived: Callable[[Element, _Tree], Element] = cache(self._derive)

    async def follow(self, call: Call, answer: Answer) -> Answer:
        """Give the answer with what the parameter ``follow`` asks for.

        Raises:
            InvalidValue: there is no such link.
        """
        wanted = call.query.get("follow", "")
        if not wanted.strip():
            return answer
        tree = self._read(wanted, answer.element)
        element = self._derived(answer.element, tree)
        if answer.many is None:
            [one] = await self._expand(call, answer.element, tree, [answer.one])
            return replace(answer, element=element, one=one)
        many: Any
        if isinstance(answer.many, Sequence):
            many = await self._expand(call, answer.element, tree, answer.many)
        else:
            many = self._expand_pages(call, answer.element, tree, answer.many)
        return replace(answer, element=element, many=many)

    def names(self, element: Element) -> list[str]:
        """Give what can be followed from an element."""
        return sorted({link.field for link in self._links.get(element, {}).values()})

    def _read(self, text: str, element: Element) -> _Tree:
        if len(text) > _LONGEST:
            raise InvalidValue(f"'follow' has more than {_LONGEST} characters.")
        found: dict[str, Any] = {}
        for path in text.split(","):
            parts = [part for part in path.strip().split(".") if part]
            if len(parts) > _DEEPEST:
                raise InvalidValue(f"'follow': {path[:100]!r} has more than {_DEEPEST} levels.")
            level, at = found, element
            for part in parts:
                link = self._links.get(at, {}).get(part)
                if link is None:
                    known = ", ".join(self.names(at)) or "nothing"
                    raise InvalidValue(
                        f"'follow': there is no link {part[:60]!r} in '{at.name}': expected "
                        f"{known}."
                    )
                level, at = level.setdefault(link.field, {}), link.target
        return _frozen(found)

    def _derive(self, element: Element, tree: _Tree) -> Element:
        links = {name: self._links[element][name] for name, _ in tree}
        fields = [
            replace(field, get=_of_source(field.get)) if field.get is not None else field
            for field in element.fields
            if field.name not in links
        ]
        for name, below in tree:
            target = links[name].target
            target = self._derived(target, below) if below else target
            type_ = ListOf(target.name, target) if links[name].is_many else target
            fields.append(Field(name, type_, _linked(name)))
        rels = {link.rel or link.field for link in links.values()}
        return Element(
            element.name,
            element.plural,
            fields=tuple(fields),
            id=_of_source(element.id),
            href=_of_source(element.href),
            actions=element.actions,
            collections=tuple(name for name in element.collections if name not in rels),
        )

    async def _expand(
        self, call: Call, element: Element, tree: _Tree, sources: Sequence[Any]
    ) -> list[_Followed]:
        columns: dict[str, Sequence[Any]] = {}
        for name, below in tree:
            link = self._links[element][name]
            values = await link.find(call, sources)
            if below:
                values = await self._expand_below(call, link, below, values)
            columns[name] = values
        return [
            _Followed(source, {name: values[number] for name, values in columns.items()})
            for number, source in enumerate(sources)
        ]

    async def _expand_below(
        self, call: Call, link: Link, tree: _Tree, values: Sequence[Any]
    ) -> Sequence[Any]:
        if link.is_many:
            return [await self._expand(call, link.target, tree, some) for some in values]
        return await self._expand(call, link.target, tree, values)

    async def _expand_pages(
        self, call: Call, element: Element, tree: _Tree, pages: AsyncIterable[Sequence[Any]]
    ) -> AsyncIterator[list[_Followed]]:
        async for page in pages:
            yield await self._expand(call, element, tree, page)


def _frozen(tree: Mapping[str, Any]) -> _Tree:
    return tuple(sorted((name, _frozen(below)) for name, below in tree.items()))


def _of_source(get: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    return None if get is None else lambda followed: get(followed.source)


def _linked(name: str) -> Callable[[Any], Any]:
    return lambda followed: followed.linked[name]
