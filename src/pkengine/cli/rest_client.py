"""A client of the engine's REST API, in JSON.

It logs in as oVirt's SDK does: a password is exchanged for a token once, the token goes with
each request, is renewed once when the engine no longer knows it, and is revoked at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IPolicyForHTTPS

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.login import Login
from pkengine.keys.secret import Secret

#: Adding a host answers only after the engine logged in to the host.
REQUEST_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 15.0
_LARGEST_ANSWER = 64 * 1024 * 1024

#: A JSON object of the REST API.
Entity: TypeAlias = dict[str, Any]

_STATUS_OF_CODE = {
    401: ExitStatus.NOT_AUTHORIZED,
    403: ExitStatus.NOT_AUTHORIZED,
    404: ExitStatus.NOT_FOUND,
    409: ExitStatus.REFUSED,
}


class RestClient:
    """One login at one engine; close it to revoke the token.

    Args:
        reactor: connects and keeps the time.
        login: where, and as whom.
        timeout_s: how long one request may take.

    Raises:
        CommandFailed: the file of certificates cannot be used.
    """

    def __init__(
        self, reactor: Any, login: Login, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        from treq.client import HTTPClient

        self.reactor = reactor
        self.login = login
        self._clock = IReactorTime(reactor)
        self._timeout_s = timeout_s
        self._pool = HTTPConnectionPool(reactor)
        self._http = HTTPClient(
            cast(
                IAgent,
                Agent(
                    reactor,
                    _verification(login.ca_file),
                    connectTimeout=CONNECT_TIMEOUT_S,
                    pool=self._pool,
                ),
            )
        )
        self._password: Secret | None = None
        self._token: Secret | None = None

    async def get(self, path: str, **parameters: str | int) -> Entity:
        """Read a resource below the API root; `path` begins with a slash."""
        return await self._call("GET", path, parameters)

    async def post(self, path: str, body: Entity, **parameters: str | int) -> Entity:
        """Create something, or begin an action."""
        return await self._call("POST", path, parameters, body)

    async def put(self, path: str, body: Entity, **parameters: str | int) -> Entity:
        """Change something."""
        return await self._call("PUT", path, parameters, body)

    async def delete(self, path: str, **parameters: str | int) -> None:
        """Remove something."""
        await self._call("DELETE", path, parameters)

    async def get_text(self, path: str, **parameters: str) -> str:
        """Read a text that needs no login; `path` begins at the server's root."""
        code, body = await self._exchange("GET", self.login.origin + path, parameters)
        if code != 200:
            raise _refusal(code, body, f"GET {path}")
        return body.decode("utf-8", "replace")

    async def close(self) -> None:
        """Revoke the token and close the connections; never fails."""
        token, self._token = self._token, None
        try:
            if token is not None:
                form = {"scope": "ovirt-app-api", "token": token.reveal_text()}
                await self._exchange(
                    "POST",
                    f"{self.login.origin}/ovirt-engine/services/sso-logout",
                    form=form,
                    timeout_s=5.0,
                )
        except CommandFailed:
            pass  # the command has its outcome already, and the token expires by itself
        finally:
            await self._pool.closeCachedConnections()

    async def _call(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | int],
        body: Entity | None = None,
    ) -> Entity:
        for is_last in (False, True):
            fresh = self._token is None
            token = self._token = self._token or await self._log_in()
            code, answer = await self._exchange(
                method,
                self.login.api + path,
                {name: str(value) for name, value in parameters.items()},
                json_body=body,
                token=token,
            )
            if code != 401 or fresh or is_last:
                break
            self._token = None  # it expired or was revoked: log in anew, once
        if code not in (200, 201, 202):
            raise _refusal(code, answer, f"{method} {path}")
        return _entity(answer) if answer else {}

    async def _log_in(self) -> Secret:
        self._password = self._password or self.login.password()
        form = {
            "grant_type": "password",
            "scope": "ovirt-app-api",
            "username": self.login.user,
            "password": self._password.reveal_text(),
        }
        code, answer = await self._exchange(
            "POST", f"{self.login.origin}/ovirt-engine/sso/oauth/token", form=form
        )
        entity = _entity(answer) if answer.lstrip().startswith(b"{") else {}
        token = entity.get("access_token")
        if code == 200 and isinstance(token, str) and token:
            return Secret(token)
        if code == 503:
            raise CommandFailed(
                f"The engine at {self.login.origin} is just starting, or cannot serve now: try "
                "again.",
                ExitStatus.UNREACHABLE,
            )
        if code >= 500 or not ("error" in entity or code in (400, 401, 403)):
            raise CommandFailed(
                f"{self.login.origin} answered the login with HTTP status {code} and no token: "
                "is it an engine?",
                ExitStatus.UNREACHABLE,
            )
        reason = entity.get("error_description") or entity.get("error") or "no reason given"
        raise CommandFailed(
            f"The engine did not accept the name and password of {self.login.user}: {reason}",
            ExitStatus.NOT_AUTHORIZED,
        )

    async def _exchange(
        self,
        method: str,
        url: str,
        parameters: Mapping[str, str] | None = None,
        *,
        form: Mapping[str, str] | None = None,
        json_body: Entity | None = None,
        token: Secret | None = None,
        timeout_s: float | None = None,
    ) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", "Version": "4"}
        arguments: dict[str, Any] = {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token.reveal_text()}"
        if form is not None:
            arguments["data"] = form
        if json_body is not None:
            arguments["data"] = json.dumps(json_body).encode("utf-8")
            headers["Content-Type"] = "application/json"
        exchange = Deferred.fromCoroutine(
            self._send(method, url, headers, parameters or {}, arguments)
        )
        exchange.addTimeout(timeout_s or self._timeout_s, self._clock, _time_out)
        try:
            return await exchange
        except Exception as error:
            raise _unreachable(self.login, error) from error

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        parameters: Mapping[str, str],
        arguments: Mapping[str, Any],
    ) -> tuple[int, bytes]:
        response = await self._http.request(
            method,
            url,
            params=parameters,
            headers=Headers({name: [value] for name, value in headers.items()}),
            allow_redirects=False,
            reactor=self.reactor,
            **arguments,
        )
        chunks: list[bytes] = []
        size = 0

        def collect(chunk: bytes) -> None:
            nonlocal size
            size += len(chunk)
            if size > _LARGEST_ANSWER:
                raise CommandFailed(
                    f"The answer of {self.login.origin} is too large.", ExitStatus.UNREACHABLE
                )
            chunks.append(chunk)

        await response.collect(collect)
        return response.code, b"".join(chunks)


def items(answer: Entity, name: str) -> list[Entity]:
    """Give the entities of a collection; an empty one may lack its member."""
    found = answer.get(name) or []
    return found if isinstance(found, list) else [found]


def _verification(ca_file: Path | None) -> IPolicyForHTTPS:
    if ca_file is None:
        return BrowserLikePolicyForHTTPS()
    try:
        certificates = x509.load_pem_x509_certificates(ca_file.read_bytes())
    except OSError as error:
        raise CommandFailed(
            f"Cannot read the certificates in {ca_file}: {error.strerror}.", ExitStatus.USAGE
        ) from error
    except ValueError as error:
        raise CommandFailed(
            f"{ca_file} holds no certificate in PEM form.", ExitStatus.USAGE
        ) from error
    anchors = [Certificate.loadPEM(one.public_bytes(Encoding.PEM)) for one in certificates]
    return BrowserLikePolicyForHTTPS(trustRootFromCertificates(anchors))


def _entity(answer: bytes) -> Entity:
    try:
        entity = json.loads(answer)
    except ValueError:
        entity = None
    if isinstance(entity, list) and len(entity) == 1:  # the token may come so
        entity = entity[0]
    if not isinstance(entity, dict):
        raise CommandFailed(
            "The answer is not the JSON of an engine: is the URL right?", ExitStatus.UNREACHABLE
        )
    return entity


def _refusal(code: int, answer: bytes, request: str) -> CommandFailed:
    """Turn an answer that is no success into the sentence that its fault carries."""
    status = _STATUS_OF_CODE.get(code, ExitStatus.FAILED)
    try:
        fault = json.loads(answer)
        if isinstance(fault, dict) and isinstance(fault.get("fault"), dict):
            fault = fault["fault"]
        detail = fault.get("detail") or fault.get("reason")
    except (ValueError, AttributeError):
        detail = None
    if isinstance(detail, str) and detail:
        return CommandFailed(detail.removeprefix("[").removesuffix("]"), status)
    return CommandFailed(f"The engine answered {request} with HTTP status {code}.", status)


def _time_out(result: object, timeout_s: float) -> NoReturn:
    raise TimeoutError(f"no answer came within {timeout_s:g} s")


def _unreachable(login: Login, error: Exception) -> Exception:
    """Say in a sentence why no answer came; give errors of our own, and bugs, back."""
    if isinstance(error, (CommandFailed, ConnectingCancelledError, CancelledError)):
        return error
    reason: str | None = None
    if isinstance(error, TimeoutError):
        reason = str(error)
    elif isinstance(error, DNSLookupError):
        reason = "its name is not known"
    elif isinstance(error, ConnectError):
        reason = f"{type(error).MESSAGE[:1].lower()}{type(error).MESSAGE[1:]}".rstrip(".")
    elif isinstance(
        error,
        (
            ResponseNeverReceived,
            RequestTransmissionFailed,
            RequestGenerationFailed,
            ResponseFailed,
        ),
    ):
        reason = _first_reason(error)
    if reason is None:
        return error
    return CommandFailed(
        f"Cannot talk to the engine at {login.origin}: {reason}.", ExitStatus.UNREACHABLE
    )


def _first_reason(error: Any) -> str:
    from OpenSSL import SSL
    from service_identity import VerificationError

    for failure in error.reasons:
        cause = failure.value if isinstance(failure, Failure) else failure
        if isinstance(cause, VerificationError):
            return "its certificate is not for this name"
        if isinstance(cause, SSL.Error):
            words = "; ".join(entry[-1] for entry in cause.args[0]) if cause.args else ""
            if "certificate verify failed" in words:
                return (
                    "its certificate is not trusted; give the certificate that it shall have "
                    "with --ca-file"
                )
            return f"TLS failed ({words or 'closed'})"
    return "the connection was lost"
