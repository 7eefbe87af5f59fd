"""Elements as JSON, in oVirt's form.

One entity is an object, a collection is an object with one list, links are
``{"link": [{"rel": …, "href": …}]}``, and numbers and Booleans are written as text; native
ones are read too.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec

from pkengine.engine.rest.schema import (
    Document,
    Element,
    InvalidValue,
    ListOf,
    Scalar,
    decode,
)
from pkengine.errors import BadRequest

CONTENT_TYPE = "application/json"


def read(element: Element, body: bytes) -> Document:
    """Read an object that has the fields of that element.

    Raises:
        BadRequest: it is not well-formed or does not fit the declaration.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The JSON is not well-formed: {error}.") from None
    except RecursionError:
        raise BadRequest("The JSON is nested too deeply.") from None
    return _read_element(element, value, element.name)


def _read_element(element: Element, value: Any, path: str) -> Document:
    if not isinstance(value, dict):
        raise InvalidValue(f"'{path}': expected an object, found {_kind(value)}.")
    document: Document = {}
    for name, content in value.items():
        if name == "id" and element.is_reference and isinstance(content, str):
            document["id"] = content
        if name in ("id", "href", "link", "actions"):
            continue
        field = element.field_named(name, path)
        if field.is_read and content is not None:
            document[name] = _read_value(field.type, content, f"{path}/{name}")
    return document


def _read_value(type_: Scalar | Element | ListOf | None, value: Any, path: str) -> Any:
    if isinstance(type_, Scalar):
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, int):
            value = str(value)
        if not isinstance(value, str):
            raise InvalidValue(f"'{path}': expected a single value, found {_kind(value)}.")
        return decode(type_, value, path)
    if isinstance(type_, Element):
        return _read_element(type_, value, path)
    if isinstance(type_, ListOf):
        items = value.get(type_.name) if isinstance(value, dict) else None
        if not isinstance(items, list):
            raise InvalidValue(f"'{path}': expected an object with the list '{type_.name}'.")
        return [_read_value(type_.of, item, f"{path}/{type_.name}") for item in items]
    return None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a Boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    return kinds.get(type(value), "an object")


def write(element: Element, source: Any, base: str) -> bytes:
    """Write one entity as a document."""
    return msgspec.json.encode(_object(element, source, base))


async def write_many(
    element: Element, pages: AsyncIterable[Sequence[Any]], base: str
) -> AsyncIterator[bytes]:
    """Write a collection as a document, in pieces."""
    start = f'{{"{element.name}":['.encode()
    async for page in pages:
        if page:
            objects = [_object(element, source, base) for source in page]
            yield start + msgspec.json.encode(objects)[1:-1]
            start = b","
    yield (b"" if start == b"," else start) + b"]}"


def _object(element: Element, source: Any, base: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for field in element.fields:
        if field.get is None:
            continue
        value = field.get(source)
        if value is not None:
            result[field.name] = _value(field.type, value, base)
    if element.href is not None:
        href = base + element.href(source)
        result["href"] = href
        if element.actions:
            result["actions"] = {"link": _links(href, element.actions)}
        if element.collections:
            result["link"] = _links(href, element.collections)
    if element.id is not None and (value := element.id(source)) is not None:
        result["id"] = str(value)
    return result


def _value(type_: Scalar | Element | ListOf | None, value: Any, base: str) -> Any:
    if isinstance(type_, Scalar):
        return type_.to_json(value)
    if isinstance(type_, Element):
        return _object(type_, value, base)
    assert isinstance(type_, ListOf)
    return {type_.name: [_value(type_.of, item, base) for item in value]}


def _links(href: str, names: Iterable[str]) -> list[dict[str, str]]:
    return [{"href": f"{href}/{name}", "rel": name} for name in names]
