"""An engine's HTTPS side that answers what a test tells it to, and remembers what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.ssl import PrivateCertificate
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from pkengine.keys import KeyPair

API = "/ovirt-engine/api"
PASSWORD = "correct-horse"

#: The answer that never comes.
SILENCE = (0, "")


@dataclass
class Asked:
    """One request that arrived."""

    method: str
    path: str
    parameters: dict[str, str]
    body: Any
    headers: Any


Answer = Callable[[Asked], tuple[int, Any]]


@dataclass
class FakeEngine:
    """Listens with its own certificate; `answers` maps "METHOD /path" below the API root."""

    reactor: Any
    folder: Path
    names: tuple[str, ...] = ("127.0.0.1",)
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    issued: int = 0
    revoked: list[str] = field(default_factory=list)
    port: Any = None

    async def start(self) -> None:
        pair = KeyPair.generate("engine", subject_alternative_names=self.names)
        (self.folder / "https.crt").write_bytes(pair.certificate_pem())
        certificate = PrivateCertificate.loadPEM(pair.private_key_pem() + pair.certificate_pem())
        self.port = self.reactor.listenSSL(
            0, Site(_Everything(self)), certificate.options(), interface="127.0.0.1"
        )
        (self.folder / "https.url").write_text(f"{self.origin}{API}\n")
        (self.folder / "initial-admin-password").write_text(PASSWORD + "\n")

    async def stop(self) -> None:
        await self.port.stopListening()

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port.getHost().port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "https.crt"

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    def answer(self, asked: Asked) -> tuple[int, Any]:
        if asked.path == "/ovirt-engine/sso/oauth/token":
            form = asked.body
            if form["username"] != ["admin@internal"] or form["password"] != [PASSWORD]:
                return 400, {"error_code": "access_denied", "error": "wrong name or password"}
            self.issued += 1
            token = f"token-{self.issued}"
            self.tokens.add(token)
            return 200, {"access_token": token, "token_type": "bearer"}
        if asked.path == "/ovirt-engine/services/sso-logout":
            self.revoked += asked.body["token"]
            return 200, {}
        if asked.path.startswith(API):
            bearer = asked.headers.getRawHeaders("authorization", [""])[0]
            if bearer.removeprefix("Bearer ") not in self.tokens:
                return 401, "<html>log in</html>"
        key = f"{asked.method} {asked.path.removeprefix(API)}"
        answer = self.answers.get(key, (404, ""))
        return answer(asked) if callable(answer) else answer


class _Everything(Resource):
    isLeaf = True

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__()
        self.engine = engine

    def render(self, request: Any) -> Any:
        raw = request.content.read()
        kind = request.requestHeaders.getRawHeaders("content-type", [""])[0]
        body: Any = raw
        if kind == "application/json":
            body = json.loads(raw)
        elif kind == "application/x-www-form-urlencoded":
            body = parse_qs(raw.decode())
        path = request.path.decode()
        parameters = {key.decode(): value[0].decode() for key, value in request.args.items()}
        asked = Asked(request.method.decode(), path, parameters, body, request.requestHeaders)
        self.engine.asked.append(asked)
        code, answer = self.engine.answer(asked)
        if (code, answer) == SILENCE:
            return NOT_DONE_YET
        request.setResponseCode(code)
        if isinstance(answer, str):
            return answer.encode()
        request.setHeader("Content-Type", "application/json")
        return json.dumps(answer).encode()
