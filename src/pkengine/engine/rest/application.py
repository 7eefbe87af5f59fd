"""The way of a request through the API: routed, authenticated, served, answered."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from pkengine.engine.events import EventCode, Events
from pkengine.engine.model import Origin, Severity
from pkengine.engine.rest.authorization import Authorizer
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.faults import Fault, fault_of, internal_error
from pkengine.engine.rest.follow import Follower
from pkengine.engine.rest.negotiation import (
    XML,
    Form,
    check_version,
    form_of_answer,
    form_of_body,
)
from pkengine.engine.rest.request import (
    check_target,
    client_address,
    correlation_id,
    expectation,
    header,
    query,
    read_body,
    refuse_other_sites,
)
from pkengine.engine.rest.response import send_fault, send_pieces
from pkengine.errors import BadRequest, Forbidden, NotFound

BASE = "/ovirt-engine/api"
_BASE_4 = f"{BASE}/v4"

T = TypeVar("T")

_log = Logger()


class Page(Protocol):
    """Adds its own routes."""

    def add_to(self, klein: Klein) -> None:
        """Add them."""


class Application:
    """Serves routes.

    Args:
        routes: the API.
        follower: puts into answers what their links lead to.
        authorizer: tells who asks.
        events: where it is told who tried what its role does not allow.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        follower: Follower,
        authorizer: Authorizer,
        events: Events,
    ) -> None:
        self._follower = follower
        self._authorizer = authorizer
        self._events = events
        self._klein = Klein()
        for route in routes:
            self._add(route)
        self._klein.handle_errors(Exception)(refuse)

    def _add(self, route: Route) -> None:
        async def serve(request: Request, **parts: Any) -> None:
            await self._serve(route, request, **parts)

        endpoint = f"{route.method} {route.path}"
        self._klein.route(route.path, methods=[route.method], endpoint=endpoint)(serve)

    def add(self, page: Page) -> None:
        """Serve something that is there for everybody."""
        page.add_to(self._klein)

    def resource(self) -> IResource:
        """Give the resource for `BASE`."""
        return _Api(self._klein)

    async def _serve(self, route: Route, request: Request, **parts: Any) -> None:
        form = XML
        try:
            form = form_of_answer(request)
            call = await self._call(request)
            answer = await self._permitted(route, call, request.path, parts)
            if route.method == "GET":
                answer = await self._follower.follow(call, answer)
            await _send(request, form, answer)
        except CancelledError:
            raise  # the client has gone
        except Exception as error:
            fault = fault_or_report(request, Failure(error))
            send_fault(request, form, fault, is_action=route.is_action)

    async def _permitted(
        self, route: Route, call: Call, path: bytes, parts: Mapping[str, Any]
    ) -> Answer:
        try:
            if not call.user.role.includes(route.role):
                raise Forbidden(
                    f"The user '{call.user.name}' has the role '{call.user.role.value}': this "
                    f"needs '{route.role.value}'."
                )
            return await route.handler(call, **parts)
        except Forbidden as error:
            if route.method != "GET":
                shown = path.decode("ascii", "replace")
                what = f"{route.method} {shown} was refused. {error}"
                await self._events.add(
                    EventCode.DECISION_REFUSED, Severity.ERROR, what, origin=call.origin
                )
            raise

    async def _call(self, request: Request) -> Call:
        check_version(request)
        refuse_other_sites(request)
        parameters = query(request)
        address = client_address(request)
        caller = await self._authorizer.caller(header(request, "Authorization"), address)
        user = caller.user
        name = correlation_id(request, parameters)
        request.setHeader(b"Correlation-Id", name.encode("ascii"))
        call = Call(
            user=user,
            is_automation=caller.is_automation,
            origin=Origin(user=user.name, address=address, correlation_id=name),
            query=parameters,
            expects=expectation(request),
            body=read_body(request),
            body_form=partial(form_of_body, request),
        )
        # Nothing is ever left out of an answer, so this has nothing to add.
        call.boolean("all_content", False)
        return call


def fault_or_report(request: Request, failure: Failure) -> Fault:
    """Give the fault of an error; a bug is logged under a reference that the fault names."""
    assert failure.value is not None
    fault = fault_of(failure.value)
    if fault is not None:
        return fault
    reference = uuid.uuid4().hex[:12]
    _log.failure(
        "Request {method} {path} failed, reference {reference}",
        failure=failure,
        method=request.method.decode("ascii", "replace"),
        path=request.path.decode("ascii", "replace"),
        reference=reference,
    )
    return internal_error(reference)


def form_for_faults(request: Request) -> Form:
    """Give the form that the client asked for, and XML where there is none such."""
    try:
        return form_of_answer(request)
    except BadRequest:
        return XML


def refuse(request: Any, failure: Failure) -> None:
    """Answer what went wrong before, or without, a route."""
    send_fault(request, form_for_faults(request), fault_or_report(request, failure))


class Folder(Resource):
    """Where resources are put; it is none itself, and neither is what was not put there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def render(self, request: Request) -> bytes:
        """See `IResource`."""
        refuse(request, Failure(NotFound("There is no such resource.")))
        return b""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """See `IResource`; asked for children that were not put here."""
        return Folder()


async def _send(request: Request, form: Form, answer: Answer) -> None:
    in_path = request.path == _BASE_4.encode() or request.path.startswith(f"{_BASE_4}/".encode())
    base = _BASE_4 if in_path else BASE
    request.setResponseCode(answer.status)
    if answer.location is not None:
        request.setHeader(b"Location", (base + answer.location).encode("ascii"))
    if answer.many is None:
        pieces = _only(form.write(answer.element, answer.one, base))
    else:
        many = answer.many
        pages = _only(many) if isinstance(many, Sequence) else many
        pieces = form.write_many(answer.element, pages, base)
    await send_pieces(request, form.CONTENT_TYPE, pieces)


async def _only(item: T) -> AsyncIterator[T]:
    yield item


class Routed(Resource):
    """Lets Klein route what Klein can read, and answers the rest with a fault."""

    isLeaf = True

    def __init__(self, klein: Klein) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._render: Callable[[Request], Any] = klein.resource().render

    def render(self, request: Request) -> Any:
        """See `IResource`."""
        try:
            check_target(request)
        except BadRequest:
            refuse(request, Failure())
            request.finish()
            return NOT_DONE_YET
        return self._render(request)


class _Api(Routed):
    """Takes the version and a slash at the end off the path first."""

    def render(self, request: Request) -> Any:
        """See `IResource`."""
        path = list(request.postpath or ())
        if path and path[0] == b"v4":
            del path[0]
        if path and not path[-1]:
            del path[-1]
        request.postpath = path or [b""]
        return super().render(request)
