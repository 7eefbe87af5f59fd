"""What an error becomes: a status of HTTP and a fault.  This table is the only place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from twisted.web import http
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from pkengine import errors
from pkengine.engine.rest.schema import IncompleteParameters, InvalidValue


class NotAcceptable(errors.BadRequest):
    """The client takes none of the forms that there are."""


class UnsupportedMediaType(errors.BadRequest):
    """The body is in a form that is not read here."""


class BodyTooLarge(errors.BadRequest):
    """The body is larger than any request needs to be."""


class ExpectationFailed(errors.BadRequest):
    """The client expects something that is not offered."""


@dataclass(frozen=True)
class Fault:
    """What a client is told of an error.

    Attributes:
        status: of HTTP.
        reason: which kind of error, in oVirt's words where it has words.
        detail: the sentence of the error.
        headers: what goes with the status.
    """

    status: int
    reason: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


_OPERATION_FAILED = "Operation Failed"

#: The first line that fits holds; an error that none fits is a bug, and is answered with 500.
_TABLE: tuple[tuple[type[errors.PkengineError], int, str], ...] = (
    (NotAcceptable, http.NOT_ACCEPTABLE, "Not Acceptable"),
    (UnsupportedMediaType, http.UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type"),
    (BodyTooLarge, http.REQUEST_ENTITY_TOO_LARGE, "Request Entity Too Large"),
    (ExpectationFailed, http.EXPECTATION_FAILED, "Expectation failed"),
    (IncompleteParameters, http.BAD_REQUEST, "Incomplete parameters"),
    (InvalidValue, http.BAD_REQUEST, "Invalid value"),
    (errors.BadRequest, http.BAD_REQUEST, _OPERATION_FAILED),
    (errors.InvalidKeyText, http.BAD_REQUEST, "Invalid value"),
    (errors.KnownHostsError, http.BAD_REQUEST, "Invalid value"),
    (errors.NotFound, http.NOT_FOUND, _OPERATION_FAILED),
    (errors.Forbidden, http.FORBIDDEN, "Access denied"),
    (errors.NotAuthorized, http.UNAUTHORIZED, "Access denied"),
    (errors.TooManyAttempts, 429, "Too many attempts"),
    (errors.Conflict, http.CONFLICT, _OPERATION_FAILED),
    (errors.SshError, http.CONFLICT, _OPERATION_FAILED),
    (errors.DeploymentError, http.CONFLICT, _OPERATION_FAILED),
    (errors.ChannelError, http.CONFLICT, _OPERATION_FAILED),
    (errors.StoreError, http.SERVICE_UNAVAILABLE, "Database unavailable"),
)

#: Both ways to log in.  The SDK fetches a new token when it sees the status.
_CHALLENGE = 'Bearer realm="ovirt-engine", Basic realm="ovirt-engine", charset="UTF-8"'


def fault_of(error: BaseException) -> Fault | None:
    """Give the fault of an error, or None where nobody caused it on purpose."""
    if isinstance(error, HTTPException):
        return _routing_fault(error)
    for kind, status, reason in _TABLE:
        if isinstance(error, kind):
            headers = {}
            if status == http.UNAUTHORIZED:
                headers["WWW-Authenticate"] = _CHALLENGE
            if isinstance(error, errors.TooManyAttempts):
                headers["Retry-After"] = str(math.ceil(error.retry_after_s))
            return Fault(status, reason, str(error), headers)
    return None


def internal_error(reference: str) -> Fault:
    """Give the fault of a bug; `reference` finds it in the log."""
    return Fault(
        http.INTERNAL_SERVER_ERROR,
        "Internal error",
        f"The engine failed. Its log has the cause, under the reference {reference}.",
    )


def _routing_fault(error: HTTPException) -> Fault:
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return Fault(
            http.NOT_ALLOWED,
            "Method not allowed",
            f"This resource takes: {allowed}.",
            {"Allow": allowed},
        )
    if isinstance(error, RequestRedirect) or error.code == http.NOT_FOUND:
        return Fault(http.NOT_FOUND, _OPERATION_FAILED, "There is no such resource.")
    return Fault(http.BAD_REQUEST, _OPERATION_FAILED, "The request cannot be understood.")
