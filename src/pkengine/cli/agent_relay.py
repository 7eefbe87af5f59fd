"""Lets the ssh-agent of whoever runs the command sign a login of the engine.

The engine holds the connection and never has the key.  What it wants to have signed is looked at
here: it has to be a login as one of the users that were named, in a session of which the host has
proved, by its key, that it is one with it; and that key has to be the one that was given or
accepted, where one was.  So the signature is of no use anywhere else, not even to the engine.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.rest_client import Entity, RestClient
from pkengine.cli.terminal import tell
from pkengine.errors import InvalidKeyText, KeyAgentError
from pkengine.keys import SshFingerprint, SshPublicKey
from pkengine.ssh import KeyAgent, connect_key_agent
from pkengine.ssh.login_signature import LoginRequest, SessionBinding
from pkengine.ssh.wire import MalformedMessage

_MOST_KEYS = 32


@dataclass(frozen=True, slots=True)
class Expected:
    """What may be signed.

    Attributes:
        users: as whom.
        host_keys: fingerprints of the keys of the hosts; None in it stands for a host whose key
            is left to the engine.
    """

    users: Collection[str]
    host_keys: Collection[SshFingerprint | None]


class NotSigned(Exception):
    """The request is not one that the command has caused; the text says why."""


@contextlib.asynccontextmanager
async def key_agent_relay(client: RestClient, expected: Expected) -> AsyncIterator[str]:
    """Let the ssh-agent sign for the engine meanwhile; gives the id for the request.

    Raises:
        CommandFailed: there is no ssh-agent, or it has no key.
    """
    try:
        agent = await connect_key_agent(client.reactor)
    except KeyAgentError as error:
        raise CommandFailed(str(error), ExitStatus.USAGE) from error
    try:
        keys = [str(key) for key in agent.keys[:_MOST_KEYS]]
        relay = await client.post("/keyagents", {"public_keys": {"public_key": keys}})
        path = f"/keyagents/{relay['id']}"
        serving = Deferred.fromCoroutine(_serve(client, path, agent, expected))
        try:
            yield relay["id"]
        finally:
            serving.addErrback(lambda failure: failure.trap(CancelledError, CommandFailed))
            serving.cancel()
            await serving
            with contextlib.suppress(CommandFailed):  # it ends by itself, a little later
                await client.delete(path)
    finally:
        agent.close()


async def _serve(client: RestClient, path: str, agent: KeyAgent, expected: Expected) -> None:
    while True:
        wanted = await client.get(f"{path}/request")
        if "request" not in wanted:
            continue
        answer: Entity = {"request": wanted["request"]}
        try:
            request, binding = inspect(wanted, agent.keys, expected)
            tell(
                f"Signing the login as {request.user} at the host with the key "
                f"{binding.key.fingerprint()}, by {request.key.fingerprint()}."
            )
            signature = await agent.sign(request.key, request.to_sign(), request.algorithm)
            answer["data"] = base64.b64encode(signature).decode("ascii")
        except (NotSigned, KeyAgentError) as refusal:
            tell(f"Not signed: {refusal}.")
        try:
            await client.post(f"{path}/sign", answer)
        except CommandFailed as error:
            if error.status is not ExitStatus.NOT_FOUND:
                raise  # else the login was given up meanwhile


def inspect(
    wanted: Entity, keys: Collection[SshPublicKey], expected: Expected
) -> tuple[LoginRequest, SessionBinding]:
    """See what is to be signed, and for which host.

    Raises:
        NotSigned: it is not what is expected.
    """
    try:
        request = LoginRequest.parse(_octets(wanted, "data"))
        host_key = SshPublicKey.parse(str(wanted.get("host_key")))
        binding = SessionBinding(host_key, request.session_id, _octets(wanted, "host_signature"))
        is_genuine, shown = binding.is_genuine(), binding.key
    except (MalformedMessage, InvalidKeyText, ValueError) as error:
        raise NotSigned(f"what the engine wants to have signed is no login: {error}") from error
    if not is_genuine:
        raise NotSigned("no host has proved that the session is one with it")
    if request.key not in keys:
        raise NotSigned(f"{request.key.fingerprint()} is no key of this ssh-agent")
    if request.user not in expected.users:
        raise NotSigned(f"nobody asked for a login as {request.user!r}")
    if None not in expected.host_keys and not any(
        fingerprint is not None and fingerprint.matches(shown)
        for fingerprint in expected.host_keys
    ):
        raise NotSigned(f"nobody asked for a login at a host with the key {shown.fingerprint()}")
    return request, binding


def _octets(wanted: Entity, name: str) -> bytes:
    text: Any = wanted.get(name)
    return base64.b64decode(str(text), validate=True)
