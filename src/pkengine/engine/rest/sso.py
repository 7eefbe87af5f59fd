"""Logging in and out, in the forms of oVirt's single sign-on (after RFC 6749 and RFC 7662)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import IResource
from twisted.web.server import Request

from pkengine.engine.accounts import Accounts
from pkengine.engine.events import EventCode, Events
from pkengine.engine.model import Origin, Severity
from pkengine.engine.rest.application import Routed, fault_or_report
from pkengine.engine.rest.faults import UnsupportedMediaType
from pkengine.engine.rest.negotiation import JSON
from pkengine.engine.rest.request import (
    client_address,
    correlation_id,
    header,
    parameters,
    query,
    read_body,
    refuse_other_sites,
)
from pkengine.engine.rest.response import send_body
from pkengine.errors import Forbidden, NotAuthorized, PkengineError
from pkengine.keys import Secret

SCOPE = "ovirt-app-api"
_FORM = "application/x-www-form-urlencoded"

Answer = Mapping[str, Any]
Handler = Callable[[Mapping[str, str], Origin], Awaitable[Answer]]


class UnsupportedGrant(PkengineError):
    """A token was asked for in another way than by name and password."""


class SignOn:
    """Issues, describes and revokes tokens.

    Args:
        accounts: who may log in.
        events: where logins are told.
    """

    def __init__(self, accounts: Accounts, events: Events) -> None:
        self._accounts = accounts
        self._events = events

    def resource(self) -> IResource:
        """Give the resource for ``/ovirt-engine/sso``."""
        klein = Klein()
        _add(klein, "/oauth/token", self._issue)
        _add(klein, "/oauth/token-info", self._describe)
        _add(klein, "/oauth/revoke", self._revoke)
        klein.handle_errors(Exception)(_send_error)
        return Routed(klein)

    def add_logout(self, services: Klein) -> None:
        """Add the route by which the SDK logs out."""
        _add(services, "/sso-logout", self._revoke)

    async def _issue(self, form: Mapping[str, str], origin: Origin) -> Answer:
        if form.get("grant_type") != "password":
            raise UnsupportedGrant(
                f"Unknown grant_type {form.get('grant_type', '')[:60]!r}: expected 'password'."
            )
        name = form.get("username", "")[:255]
        try:
            user = await self._accounts.check_password(
                name, Secret(form.get("password", "")), origin.address
            )
        except NotAuthorized as error:
            text = f"{error} From {origin.address}."
            await self._events.add(
                EventCode.USER_LOGIN_FAILED, Severity.ERROR, text, origin=origin
            )
            raise
        token = await self._accounts.tokens.issue(user)
        by = Origin(user=user.name, address=origin.address, correlation_id=origin.correlation_id)
        await self._events.add(
            EventCode.USER_LOGGED_IN,
            Severity.NORMAL,
            f"User {user.name} connecting from '{origin.address}' logged in.",
            origin=by,
        )
        return {
            "access_token": token.text.reveal_text(),
            "scope": form.get("scope") or SCOPE,
            "exp": _milliseconds(token.expires),
            "token_type": "bearer",
        }

    async def _describe(self, form: Mapping[str, str], origin: Origin) -> Answer:
        try:
            record = await self._accounts.tokens.check(form.get("token", ""))
        except NotAuthorized:
            return {"active": False}
        return {
            "active": True,
            "token_type": "bearer",
            "scope": SCOPE,
            "user_id": record.user.name,
            "username": record.user.name,
            "exp": _milliseconds(record.expires),
        }

    async def _revoke(self, form: Mapping[str, str], origin: Origin) -> Answer:
        # The end of a session of many short ones is no news: there is no event for it.
        await self._accounts.tokens.revoke(form.get("token", ""))
        return {}


def _add(klein: Klein, path: str, handler: Handler) -> None:
    async def serve(request: Request) -> None:
        await _serve(handler, request)

    klein.route(path, methods=["POST"], endpoint=path)(serve)


async def _serve(handler: Handler, request: Request) -> None:
    try:
        refuse_other_sites(request)
        body = read_body(request)
        if header(request, "Content-Type").partition(";")[0].strip().lower() != _FORM:
            raise UnsupportedMediaType(f"The body must have the Content-Type '{_FORM}'.")
        origin = Origin(
            address=client_address(request), correlation_id=correlation_id(request, query(request))
        )
        # Only the body counts: an address with a password in it ends in logs.
        answer = await handler(parameters(body), origin)
    except CancelledError:
        raise
    except Exception as error:
        _send_error(request, Failure(error))
    else:
        _send(request, http.OK, answer)


def _send_error(request: Any, failure: Failure) -> None:
    """Answer with RFC 6749's members; the SDK shows both."""
    error = failure.value
    if isinstance(error, NotAuthorized) and not isinstance(error, Forbidden):
        status, code, text = http.BAD_REQUEST, "access_denied", str(error)
    elif isinstance(error, UnsupportedGrant):
        status, code, text = http.BAD_REQUEST, "unsupported_grant_type", str(error)
    else:
        fault = fault_or_report(request, failure)
        status, text = fault.status, fault.detail
        code = "server_error" if status >= 500 else "invalid_request"
        for name, value in fault.headers.items():
            request.setHeader(name.encode("ascii"), value.encode("ascii"))
    _send(request, status, {"error": code, "error_description": text, "error_code": code})


def _send(request: Request, status: int, answer: Answer) -> None:
    request.setResponseCode(status)
    send_body(request, JSON.CONTENT_TYPE, json.dumps(answer).encode("ascii"))


def _milliseconds(moment: datetime.datetime) -> str:
    return str(int(moment.timestamp() * 1000))
