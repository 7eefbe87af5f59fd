"""Elements as XML: a reader that entities cannot harm, and a writer that streams."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from functools import cache
from typing import Any
from xml.etree.ElementTree import Element as XmlElement
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pkengine.engine.rest.schema import Document, Element, Field, ListOf, Scalar, decode
from pkengine.errors import BadRequest

CONTENT_TYPE = "application/xml"

#: What XML 1.0 §2.2 has no way to write at all, not even as a reference.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL = re.compile('[&<>"\r]')
_REFERENCES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"}

#: So many tags and texts are sent at once.
_PIECE = 4096

_Write = Callable[[Any, str, list[str]], None]


def read(element: Element, body: bytes) -> Document:
    """Read a document whose root is that element.

    Raises:
        BadRequest: it is not well-formed, has a DTD, or does not fit the declaration.
    """
    try:
        root = fromstring(body, forbid_dtd=True)
    except DefusedXmlException:
        raise BadRequest("The XML has a document type or entities, which are refused.") from None
    except ParseError as error:
        raise BadRequest(f"The XML is not well-formed: {error}.") from None
    except (ValueError, LookupError):  # an encoding that is unknown or does not fit
        raise BadRequest("The XML is not well-formed: its encoding is not understood.") from None
    if root.tag != element.name:
        raise BadRequest(f"Expected the element '{element.name}', found '{root.tag[:100]}'.")
    return _read_element(element, root, element.name)


def _read_element(element: Element, xml: XmlElement, path: str) -> Document:
    document: Document = {}
    if element.is_reference and "id" in xml.attrib:
        document["id"] = xml.attrib["id"]
    for child in xml:
        if child.tag in ("link", "actions"):
            continue
        field = element.field_named(child.tag, path)
        if field.is_read:
            document[field.name] = _read_value(field.type, child, f"{path}/{field.name}")
    return document


def _read_value(type_: Scalar | Element | ListOf | None, xml: XmlElement, path: str) -> Any:
    if isinstance(type_, Scalar):
        if len(xml):
            raise BadRequest(f"Unknown element '{xml[0].tag[:100]}' in '{path}'.")
        return decode(type_, xml.text or "", path)
    if isinstance(type_, Element):
        return _read_element(type_, xml, path)
    if isinstance(type_, ListOf):
        return [_read_value(type_.of, item, f"{path}/{type_.name}") for item in xml]
    return None


def write(element: Element, source: Any, base: str) -> bytes:
    """Write one entity as a document."""
    parts: list[str] = []
    _writer(element, element.name)(source, base, parts)
    return "".join(parts).encode("utf-8")


async def write_many(
    element: Element, pages: AsyncIterable[Sequence[Any]], base: str
) -> AsyncIterator[bytes]:
    """Write a collection as a document, in pieces."""
    write_one = _writer(element, element.name)
    parts = [f"<{element.plural}>"]
    async for page in pages:
        for source in page:
            write_one(source, base, parts)
        if len(parts) > _PIECE:
            yield "".join(parts).encode("utf-8")
            parts.clear()
    parts.append(f"</{element.plural}>")
    yield "".join(parts).encode("utf-8")


def escape(text: str) -> str:
    """Write text so that it may stand in an element or an attribute."""
    if _NOT_XML.search(text):
        text = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(lambda match: _REFERENCES[match[0]], text)
    return text


@cache
def _writer(element: Element, tag: str) -> _Write:
    """Make the function that writes an element; walking the declaration is done once."""
    writes = tuple(_field_writer(field) for field in element.fields if field.get is not None)
    get_id, get_href = element.id, element.href
    links = "".join(
        f'<link href="\0/{escape(name)}" rel="{escape(name)}"/>' for name in element.collections
    )
    if element.actions:
        actions = "".join(
            f'<link href="\0/{escape(name)}" rel="{escape(name)}"/>' for name in element.actions
        )
        links = f"<actions>{actions}</actions>{links}"

    def write_element(source: Any, base: str, parts: list[str]) -> None:
        attributes = ""
        if get_href is not None:
            href = escape(base + get_href(source))
            attributes = f' href="{href}"'
        if get_id is not None and (value := get_id(source)) is not None:
            attributes += f' id="{escape(str(value))}"'
        parts.append(f"<{tag}{attributes}>")
        if links:
            parts.append(links.replace("\0", href))
        for write_field in writes:
            write_field(source, base, parts)
        parts.append(f"</{tag}>")

    return write_element


def _field_writer(field: Field) -> _Write:
    get, name, type_ = field.get, field.name, field.type
    assert get is not None
    start, end = f"<{name}>", f"</{name}>"
    if isinstance(type_, Scalar):
        encode = type_.encode

        def write_scalar(source: Any, base: str, parts: list[str]) -> None:
            value = get(source)
            if value is not None:
                parts.append(f"{start}{escape(encode(value))}{end}")

        return write_scalar
    if isinstance(type_, Element):
        write_inner = _writer(type_, name)

        def write_child(source: Any, base: str, parts: list[str]) -> None:
            value = get(source)
            if value is not None:
                write_inner(value, base, parts)

        return write_child
    assert isinstance(type_, ListOf)
    write_item = _field_writer(Field(type_.name, type_.of, _itself))

    def write_list(source: Any, base: str, parts: list[str]) -> None:
        items = get(source)
        if items is not None:
            parts.append(start)
            for item in items:
                write_item(item, base, parts)
            parts.append(end)

    return write_list


def _itself(value: Any) -> Any:
    return value
