"""What is read from an HTTP request, and what is refused before anything is read."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from twisted.web import http
from twisted.web.server import Request

from pkengine.engine.rest.faults import BodyTooLarge, ExpectationFailed
from pkengine.errors import BadRequest, Forbidden

#: No request needs more.
LARGEST_BODY = 1024 * 1024

_MOST_PARAMETERS = 100
_LONGEST_CORRELATION_ID = 50
_NOT_IN_CORRELATION_ID = re.compile("[^0-9a-zA-Z_-]")
_LABEL = "[A-Za-z0-9_-]{1,63}"
_HOST = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL}){{0,126}}\.?|\[[0-9a-fA-F:.]{{2,45}}\])(?::[0-9]{{1,5}})?"
)
_SAFE_METHODS = (b"GET", b"HEAD")


def header(request: Request, name: str) -> str:
    """Give the values of a request's header, joined by commas; empty where there is none."""
    values = request.requestHeaders.getRawHeaders(name.encode("ascii")) or []
    return ", ".join(value.decode("utf-8", "replace") for value in values)


def client_address(request: http.Request) -> str:
    """Give the address that the request came from, or nothing where there is none."""
    return getattr(request.getClientAddress(), "host", None) or ""


def query(request: Request) -> Mapping[str, str]:
    """Give the parameters of the URL; of a name that is repeated, the last.

    Raises:
        BadRequest: they are not UTF-8, or too many.
    """
    return parameters(request.uri.partition(b"?")[2])


def parameters(encoded: bytes) -> Mapping[str, str]:
    """Read ``application/x-www-form-urlencoded`` text.

    Raises:
        BadRequest: it is not UTF-8, or there are too many parameters.
    """
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_PARAMETERS,
        )
    except ValueError:
        raise BadRequest("The parameters of the request cannot be understood.") from None
    return dict(pairs)


def read_body(request: Request) -> bytes:
    """Give the body.

    Raises:
        BodyTooLarge: it is larger than `LARGEST_BODY`.
    """
    assert request.content is not None
    body: bytes = request.content.read(LARGEST_BODY + 1)
    if len(body) > LARGEST_BODY or getattr(request, "is_too_large", False):
        raise body_too_large()
    return body


def body_too_large() -> BodyTooLarge:
    """Make the error that says so."""
    return BodyTooLarge(f"The body is too large: at most {LARGEST_BODY} octets are taken.")


def correlation_id(request: Request, parameters: Mapping[str, str]) -> str:
    """Give the caller's own name for the request, cut to what is harmless, or a new one."""
    given = header(request, "Correlation-Id") or parameters.get("correlation_id", "")
    cleaned = _NOT_IN_CORRELATION_ID.sub("", given)[:_LONGEST_CORRELATION_ID]
    return cleaned or str(uuid.uuid4())


def expectation(request: Request) -> str:
    """Give how a client wants to be answered: ``201-created`` waits, ``202-accepted`` does not.

    Raises:
        ExpectationFailed: it is something else (RFC 9110 §10.1.1).
    """
    text = header(request, "X-Ovirt-Expect") or header(request, "Expect")
    expected = text.strip().lower()
    if expected in ("", "100-continue"):
        return ""
    if expected not in ("201-created", "202-accepted"):
        raise ExpectationFailed(
            f"Cannot meet the expectation {text[:60]!r}: expected '201-created' or '202-accepted'."
        )
    return expected


def check_target(request: Request) -> None:
    """Refuse an address that cannot be one (RFC 9112 §3.2).

    Raises:
        BadRequest: the path is not UTF-8, or the ``Host`` header names no host.
    """
    try:
        b"/".join(request.postpath or ()).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("The path is not UTF-8.") from None
    host = header(request, "Host")
    if host and not _HOST.fullmatch(host):
        raise BadRequest("The Host header does not name a host.")


def refuse_other_sites(request: Request) -> None:
    """Refuse a change that a page of another site makes a browser ask for.

    Raises:
        Forbidden: the browser says that it comes from elsewhere.
    """
    if request.method not in _SAFE_METHODS:
        refuse_anything_of_other_sites(request)


def refuse_anything_of_other_sites(request: Request) -> None:
    """The same for a GET that changes something, as one of oVirt's does.

    Raises:
        Forbidden: the browser says that it comes from elsewhere.
    """
    origin = header(request, "Origin")
    is_foreign = header(request, "Sec-Fetch-Site") in ("cross-site", "same-site") or (
        origin and urlsplit(origin).netloc.lower() != header(request, "Host").lower()
    )
    if is_foreign:
        raise Forbidden("The request comes from a page of another site.")
