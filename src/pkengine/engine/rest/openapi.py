"""The description of the API in OpenAPI 3.1, made from the routes and the elements.

There is nothing here to keep up to date: a route that is added is described by what it says
of itself, and an element by its declaration.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from klein import Klein
from twisted.web.server import Request

import pkengine
from pkengine.engine.rest.action_elements import ACTION
from pkengine.engine.rest.call import Parameter, Route
from pkengine.engine.rest.elements import FAULT
from pkengine.engine.rest.follow import Follower
from pkengine.engine.rest.json_form import CONTENT_TYPE as JSON
from pkengine.engine.rest.response import send_body
from pkengine.engine.rest.schema import (
    BOOLEAN,
    Boolean,
    Decimal,
    Element,
    Enumerated,
    Field,
    Guid,
    Integer,
    ListOf,
    Moment,
    Scalar,
    SecretText,
    Text,
)
from pkengine.engine.rest.xml_form import CONTENT_TYPE as XML

_Schema = dict[str, Any]

_PART = re.compile(r"<(?:(\w+):)?(\w+)>")
_PARTS: Mapping[str, _Schema] = {
    "uuid": {"type": "string", "format": "uuid"},
    "int": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
}

#: What every request may be answered with, whatever it asks for.
_REFUSALS = {
    "400": "The request is malformed.",
    "401": "Nobody is logged in.",
    "403": "The role does not allow it, or a page of another site asks for it.",
    "404": "There is no such thing.",
    "405": "The resource does not take this method.",
    "406": "The answer is wanted in a form that is not made.",
    "409": "The status of the host does not allow it, or the host refused.",
    "413": "The body is too large.",
    "415": "The body is in a form that is not read.",
    "417": "The expectation cannot be met.",
    "429": "There were too many wrong passwords.",
    "503": "The database cannot be used, or the engine is starting.",
}

#: The same, where the request was not even read.
_REFUSALS_WITHOUT_BODY = {
    "414": "The address is too long.",
    "431": "A header is too long.",
}

_EXAMPLES: Mapping[tuple[str, str], Any] = {
    ("POST", "/hosts"): {
        "name": "web1",
        "address": "web1.example.com",
        "ssh": {
            "fingerprint": "SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpKZIDTMczCvj3tD2s",
            "user": {"user_name": "root", "password": "secret"},
        },
    },
    ("PUT", "/hosts/{host_id}"): {"comment": "in rack 7"},
    ("POST", "/hosts/{host_id}/deactivate"): {"reason": "new memory"},
    ("POST", "/hosts/{host_id}/install"): {"activate": True},
    ("POST", "/hosts/{host_id}/fence"): {"fence_type": "status"},
    ("POST", "/users"): {
        "user_name": "ann",
        "password": "correct horse battery",
        "role": "operator",
    },
    ("PUT", "/users/{user_id}"): {"role": "viewer"},
    ("POST", "/users/{user_id}/tokens"): {"name": "backup", "role": "viewer", "days": 30},
}
_XML_EXAMPLES: Mapping[tuple[str, str], str] = {
    ("POST", "/hosts"): (
        "<host><name>web1</name><address>web1.example.com</address>"
        "<ssh><user><user_name>root</user_name><password>secret</password></user></ssh></host>"
    ),
    ("POST", "/hosts/{host_id}/deactivate"): "<action><reason>new memory</reason></action>",
}

_MAX = Parameter("max", Integer(-1), "At most so many; -1 for as many as there are.")
_FROM = Parameter("from", Integer(-1), "Only those after this one.")
_CASE = Parameter("case_sensitive", BOOLEAN, "Search with regard to case.")
_ALL_CONTENT = Parameter("all_content", BOOLEAN, "Accepted; nothing is left out without it.")
_ASYNC = Parameter("async", BOOLEAN, "If false, be answered when the job has ended.")


def description(routes: Iterable[Route], follower: Follower) -> _Schema:
    """Give the description of an API, as a value for JSON."""
    paths: dict[str, dict[str, Any]] = {}
    elements: dict[str, Element] = {"fault": FAULT, "action": ACTION}
    for route in routes:
        path = _PART.sub(r"{\2}", route.path)
        element = route.element or ACTION
        elements[element.name] = element
        paths.setdefault(path, {})[route.method.lower()] = _operation(path, route, follower)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pkengine",
            "version": pkengine.__version__,
            "summary": "oVirt's API of hosts, with extensions",
            "description": (
                "Everything is there in XML, too. In JSON, numbers and Booleans of answers are "
                "text, as on oVirt; in requests they may be both."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/ovirt-engine/api"}],
        "security": [{"token": []}, {"password": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "From /ovirt-engine/sso/oauth/token, or a personal token.",
                },
                "password": {"type": "http", "scheme": "basic"},
            },
            "schemas": {name: _written(element) for name, element in elements.items()},
            "responses": {
                status: {
                    "description": text,
                    "content": {JSON: {"schema": _REFUSAL}, XML: {}},
                }
                for status, text in _REFUSALS.items()
            }
            | {status: {"description": text} for status, text in _REFUSALS_WITHOUT_BODY.items()},
        },
    }


class Description:
    """Serves the description, for everybody: it tells nothing of this engine.

    Args:
        routes: the API.
        follower: tells what can be followed.
    """

    def __init__(self, routes: Iterable[Route], follower: Follower) -> None:
        self._body = msgspec.json.encode(description(routes, follower))

    def add_to(self, klein: Klein) -> None:
        """Add the route."""
        klein.route("/openapi.json", methods=["GET"])(self._get)

    def _get(self, request: Request) -> None:
        send_body(request, JSON, self._body)


def _operation(path: str, route: Route, follower: Follower) -> _Schema:
    summary = route.summary or (inspect.getdoc(route.handler) or "").partition("\n")[0]
    operation: _Schema = {
        "operationId": _operation_id(route.method, path),
        "summary": summary,
        "description": f"Takes the role {route.role.value}, or one that includes it.",
        "tags": [path.split("/")[1] or "root"],
        "parameters": [*_path_parameters(route), *_query_parameters(route, follower)],
        "responses": {
            str(route.status): _success(route),
            **{
                status: {"$ref": f"#/components/responses/{status}"}
                for status in (*_REFUSALS, *_REFUSALS_WITHOUT_BODY)
            },
        },
    }
    if route.is_action or route.status == 201:
        accepted = "It was accepted, and goes on."
        operation["responses"]["202"] = {**_success(route), "description": accepted}
    if route.reads is not None:
        key = (route.method, path)
        json_type: _Schema = {"schema": _read(route.reads)}
        xml_type: _Schema = {"schema": {"type": "string"}}
        if key in _EXAMPLES:
            json_type["example"] = _EXAMPLES[key]
        if key in _XML_EXAMPLES:
            xml_type["example"] = _XML_EXAMPLES[key]
        operation["requestBody"] = {
            "required": not route.is_action,
            "content": {JSON: json_type, XML: xml_type},
        }
    return operation


def _operation_id(method: str, path: str) -> str:
    parts = [part.strip("{}") for part in path.split("/") if part]
    return "_".join([method.lower(), *parts])


def _path_parameters(route: Route) -> Iterable[_Schema]:
    for kind, name in _PART.findall(route.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _PARTS.get(kind, {"type": "string"}),
        }


def _query_parameters(route: Route, follower: Follower) -> Iterable[_Schema]:
    found = list(route.parameters)
    if route.is_many and route.method == "GET":
        found.append(_MAX)
    if route.is_action:
        found.append(_ASYNC)
    if route.searches:
        found += [_CASE]
        if route.path in ("/events", "/audit"):
            found.append(_FROM)
        text = f"In oVirt's search language; fields are {', '.join(sorted(route.searches))}."
        found.append(Parameter("search", Text(longest=2000), text))
    if route.method == "GET":
        found.append(_ALL_CONTENT)
        names = follower.names(route.element) if route.element is not None else []
        if names:
            text = f"Put into the answer what is behind links, of {', '.join(names)}."
            found.append(Parameter("follow", Text(longest=500), text))
    for parameter in found:
        yield {
            "name": parameter.name,
            "in": "query",
            "description": parameter.description,
            "schema": _read_scalar(parameter.type),
        }


def _success(route: Route) -> _Schema:
    element = route.element or ACTION
    schema: _Schema = {"$ref": f"#/components/schemas/{element.name}"}
    if route.is_many:
        schema = {
            "type": "object",
            "properties": {element.name: {"type": "array", "items": schema}},
            "required": [element.name],
        }
    answer: _Schema = {
        "description": "It is done, or has begun." if route.is_action else "It is done.",
        "headers": {
            "Correlation-Id": {
                "description": "What the caller gave, or a new one.",
                "required": True,
                "schema": {"type": "string", "maxLength": 50},
            }
        },
        "content": {JSON: {"schema": schema}, XML: {}},
    }
    if route.status == 201:
        answer["headers"]["Location"] = {
            "description": "Where it is.",
            "required": True,
            "schema": {"type": "string"},
        }
    return answer


_FAULT_REFERENCE = {"$ref": "#/components/schemas/fault"}
#: Below an action, the fault stands in one.
_REFUSAL: _Schema = {
    "anyOf": [
        {"allOf": [_FAULT_REFERENCE, {"required": ["reason", "detail"]}]},
        {
            "type": "object",
            "properties": {"status": {"const": "failed"}, "fault": _FAULT_REFERENCE},
            "required": ["status", "fault"],
        },
    ]
}


def _written(element: Element) -> _Schema:
    """Describe an element as it stands in answers."""
    properties = {
        field.name: _written_type(field.type) for field in element.fields if field.get is not None
    }
    if element.href is not None:
        properties["href"] = {"type": "string"}
    if element.id is not None:
        properties["id"] = {"type": "string"}
    required = [name for name in ("href", "id") if name in properties]
    return {"type": "object", "properties": properties, "required": required}


def _written_type(type_: Scalar | Element | ListOf | None) -> _Schema:
    if isinstance(type_, Element):
        return _written(type_)
    if isinstance(type_, ListOf):
        items = {"type": "array", "items": _written_type(type_.of)}
        return {"type": "object", "properties": {type_.name: items}, "required": [type_.name]}
    if isinstance(type_, Moment):
        return {"type": "integer", "description": "Milliseconds since 1970."}
    if isinstance(type_, Integer):
        return {"type": "string", "pattern": "^-?[0-9]+$"}
    if isinstance(type_, Decimal):
        return {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}
    if isinstance(type_, Boolean):
        return {"type": "string", "enum": ["true", "false"]}
    if isinstance(type_, Enumerated):
        return {"type": "string", "enum": [member.value for member in type_.members]}
    if isinstance(type_, Guid):
        return {"type": "string", "format": "uuid"}
    return {"type": "string"}


def _read(element: Element) -> _Schema:
    """Describe an element as requests may have it."""
    properties: dict[str, Any] = {field.name: _read_field(field) for field in element.fields}
    properties |= {"href": {}, "link": {}, "actions": {}}
    properties["id"] = {"type": "string", "format": "uuid"} if element.is_reference else {}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": element.is_open,
    }


def _read_field(field: Field) -> _Schema:
    if not field.is_read:
        return {"description": "Accepted and ignored."}
    type_ = field.type
    if isinstance(type_, Element):
        return _read(type_)
    if isinstance(type_, ListOf):
        of = type_.of
        items = _read(of) if isinstance(of, Element) else _read_scalar(of)
        return {"type": "object", "properties": {type_.name: {"type": "array", "items": items}}}
    return {} if type_ is None else _read_scalar(type_)


def _read_scalar(type_: Scalar) -> _Schema:
    if isinstance(type_, Integer):
        return {"type": "integer", "minimum": type_.least, "maximum": type_.greatest}
    if isinstance(type_, Boolean):
        return {"type": "boolean"}
    if isinstance(type_, Enumerated):
        return {"type": "string", "enum": [member.value for member in type_.members]}
    if isinstance(type_, SecretText):
        return {"type": "string", "maxLength": 1024, "writeOnly": True}
    if isinstance(type_, Text):
        schema: _Schema = {"type": "string", "maxLength": type_.longest}
        if type_.is_line:
            schema["pattern"] = "^[^\\u0000-\\u001f\\u007f\\u0085\\u2028\\u2029]*$"
        return schema
    return {"type": "string"}
