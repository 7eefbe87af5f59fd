"""A real ``twistd -n pkengine``, and a client of its API."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, FileBodyProducer, readBody
from twisted.web.http_headers import Headers

_TWISTD = "from twisted.scripts.twistd import run; run()"
_READY = b", serves "


class EngineProcess(ProcessProtocol):
    """Runs an engine on a free port of the loopback address.

    Attributes:
        output, errors: what it wrote.
        ready: fires when it serves; fails when it ends before.
        ended: fires with the exit status.
    """

    def __init__(
        self,
        reactor: Any,
        state: Path,
        *arguments: str,
        https: str = "",
        on_terminal: bool = False,
    ) -> None:
        self.state = state
        self.output = self.errors = b""
        self.ready: Deferred[None] = Deferred()
        self.ended: Deferred[int | None] = Deferred()
        self._reactor = reactor
        command = [sys.executable, "-c", _TWISTD, "--nodaemon", "--pidfile=", "pkengine"]
        command += ["--state", str(state), *arguments]
        command += ["--https", https or "tcp:0:interface=127.0.0.1"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = reactor.spawnProcess(
            self, command[0], command, env=environment, usePTY=on_terminal
        )

    def outReceived(self, data: bytes) -> None:
        self.output += data
        if _READY in self.output and not self.ready.called:
            self.ready.callback(None)

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        if not self.ready.called:
            self.ready.addErrback(lambda failure: None)
            self.ready.errback(RuntimeError((self.output + self.errors).decode()))
        self.ended.callback(reason.value.exitCode)

    async def stop(self, signal: str = "TERM") -> None:
        """End it by a signal; in the end twistd itself dies of the one that it was sent."""
        if not self.ended.called:
            with contextlib.suppress(error.ProcessExitedAlready):
                self.process.signalProcess(signal)
        await self.ended

    @property
    def url(self) -> str:
        return (self.state / "https.url").read_text().strip()

    @property
    def password(self) -> str:
        return (self.state / "initial-admin-password").read_text().strip()

    async def request(
        self, method: str, url: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """Make a request, verifying the certificate by the one in the state folder."""
        certificate = Certificate.loadPEM((self.state / "https.crt").read_bytes())
        agent = Agent(
            self._reactor, BrowserLikePolicyForHTTPS(trustRootFromCertificates([certificate]))
        )
        response = await agent.request(
            method.encode(),
            url.encode(),
            Headers({name.replace("_", "-"): [value] for name, value in headers.items()}),
            FileBodyProducer(BytesIO(body)) if body is not None else None,
        )
        return response.code, await readBody(response)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Log in as the administrator, and read something below the root of the API."""
        return await self.call("GET", path)

    async def call(
        self, method: str, path: str, document: object | None = None
    ) -> tuple[int, bytes]:
        """Log in as the administrator, and ask for something below the root of the API."""
        form = urlencode(
            {
                "grant_type": "password",
                "scope": "ovirt-app-api",
                "username": "admin@internal",
                "password": self.password,
            }
        )
        status, answer = await self.request(
            "POST",
            self.url.removesuffix("/api") + "/sso/oauth/token",
            form.encode(),
            Content_Type="application/x-www-form-urlencoded",
            Accept="application/json",
        )
        if status != 200:
            return status, answer
        token = json.loads(answer)["access_token"]
        return await self.request(
            method,
            self.url + path,
            None if document is None else json.dumps(document).encode(),
            Authorization=f"Bearer {token}",
            Accept="application/json",
            Content_Type="application/json",
        )
