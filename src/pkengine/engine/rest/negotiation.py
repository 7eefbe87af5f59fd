"""Which form a client sends, and which one it wants back."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any, Protocol

from twisted.web.server import Request

from pkengine.engine.rest import json_form, xml_form
from pkengine.engine.rest.faults import NotAcceptable, UnsupportedMediaType
from pkengine.engine.rest.request import header
from pkengine.engine.rest.schema import Document, Element
from pkengine.errors import BadRequest


class Form(Protocol):
    """A way to read and write elements; the modules `xml_form` and `json_form` are two."""

    CONTENT_TYPE: str

    def read(self, element: Element, body: bytes) -> Document:
        """Read a request's body."""

    def write(self, element: Element, source: Any, base: str) -> bytes:
        """Write one entity."""

    def write_many(
        self, element: Element, pages: AsyncIterable[Sequence[Any]], base: str
    ) -> AsyncIterator[bytes]:
        """Write a collection, in pieces."""


XML: Form = xml_form
JSON: Form = json_form

#: In the order in which they are preferred where the client does not care.
_FORMS: dict[str, Form] = {"application/xml": XML, "application/json": JSON, "text/xml": XML}


def form_of_body(request: Request) -> Form:
    """Tell in which form the body is.

    Raises:
        UnsupportedMediaType: it is said to be in none that is read here.
    """
    media_type, parameters = _parameters(header(request, "Content-Type"))
    form = _FORMS.get(media_type)
    if form is None:
        raise UnsupportedMediaType(
            f"The body is {media_type[:100] or 'of no type'!r}: expected the Content-Type "
            "'application/xml' or 'application/json'."
        )
    charset = parameters.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "us-ascii"):
        raise UnsupportedMediaType(f"The body is in {charset[:40]!r}: expected UTF-8.")
    return form


def form_of_answer(request: Request) -> Form:
    """Choose the form of the answer by the ``Accept`` header (RFC 9110 §12.5.1).

    Raises:
        NotAcceptable: the client takes neither XML nor JSON.
    """
    accept = header(request, "Accept")
    if not accept:
        return XML
    ranges = [_parameters(part) for part in accept[:1000].split(",")]
    best, best_quality = None, 0.0
    for media_type, form in _FORMS.items():
        quality = _quality(media_type, ranges)
        if quality > best_quality:
            best, best_quality = form, quality
    if best is None:
        raise NotAcceptable(
            f"None of the forms in {accept[:100]!r} is made here: expected 'application/xml' "
            "or 'application/json'."
        )
    return best


def check_version(request: Request) -> None:
    """Refuse another version of the API than 4.

    Raises:
        BadRequest: the ``Version`` header asks for one.
    """
    version = header(request, "Version")
    if version not in ("", "4"):
        raise BadRequest(f"The API has version 4 only, and {version[:20]!r} was asked for.")


def accepts_gzip(request: Request) -> bool:
    """Tell whether the client takes compressed answers."""
    for part in header(request, "Accept-Encoding")[:1000].split(","):
        coding, parameters = _parameters(part)
        if coding == "gzip":
            return _number(parameters.get("q", "1")) > 0
    return False


def _parameters(text: str) -> tuple[str, dict[str, str]]:
    value, *rest = text.split(";")
    parameters = {}
    for part in rest:
        name, _, content = part.partition("=")
        parameters[name.strip().lower()] = content.strip().strip('"')
    return value.strip().lower(), parameters


def _quality(media_type: str, ranges: list[tuple[str, dict[str, str]]]) -> float:
    """Give the quality by the most specific range that matches, or 0."""
    kind = media_type.partition("/")[0]
    for wanted in (media_type, f"{kind}/*", "*/*"):
        for name, parameters in ranges:
            if name == wanted:
                return _number(parameters.get("q", "1"))
    return 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
