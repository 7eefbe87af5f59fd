"""Relays to the ssh-agents of administrators: what is to be signed, and the signatures."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Iterable
from operator import attrgetter

from pkengine.engine.hosts.agent_relays import AgentRelays
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.schema import (
    GUID,
    LINE,
    TEXT,
    Element,
    Field,
    IncompleteParameters,
    InvalidValue,
    ListOf,
    Text,
)
from pkengine.engine.users import Role
from pkengine.keys import SshPublicKey

_OCTETS = Text(longest=16384)

KEY_AGENT = Element(
    "key_agent",
    "key_agents",
    id=attrgetter("id"),
    href=lambda relay: f"/keyagents/{relay.id}",
    actions=("sign",),
    fields=(Field("public_keys", ListOf("public_key", TEXT), attrgetter("keys"), is_read=True),),
)

#: What is to be signed; without anything in it where nothing is.
SIGNATURE_REQUEST = Element(
    "signature_request",
    fields=(
        Field("request", GUID, lambda wanted: wanted and wanted.id),
        Field("public_key", TEXT, lambda wanted: wanted and wanted.key),
        Field("algorithm", LINE, lambda wanted: wanted and wanted.algorithm),
        Field("data", _OCTETS, lambda wanted: wanted and _text(wanted.signed)),
        Field("host_key", TEXT, lambda wanted: wanted and wanted.binding.host_key),
        Field("host_signature", TEXT, lambda wanted: wanted and _text(wanted.binding.signature)),
    ),
)

SIGNATURE = Element(
    "signature",
    fields=(
        Field("request", GUID, is_read=True),
        Field("data", _OCTETS, is_read=True),
    ),
)


class KeyAgentResource:
    """``/keyagents``."""

    def __init__(self, relays: AgentRelays) -> None:
        self._relays = relays

    def routes(self) -> Iterable[Route]:
        """Give the routes; who may not log in to hosts needs none of them."""
        decides = Role.ADMINISTRATOR
        one = "/keyagents/<uuid:relay_id>"
        yield Route(
            method="POST",
            path="/keyagents",
            handler=self.open,
            role=decides,
            element=KEY_AGENT,
            reads=KEY_AGENT,
            status=201,
        )
        yield Route(
            method="GET",
            path=f"{one}/request",
            handler=self.next_request,
            role=decides,
            element=SIGNATURE_REQUEST,
        )
        yield Route(
            method="POST",
            path=f"{one}/sign",
            handler=self.sign,
            role=decides,
            is_action=True,
            reads=SIGNATURE,
        )
        yield Route(method="DELETE", path=one, handler=self.close, role=decides)

    async def open(self, call: Call) -> Answer:
        """Open a relay to an ssh-agent that has these keys."""
        document = call.read(KEY_AGENT)
        keys = [SshPublicKey.parse(text) for text in document.get("public_keys") or ()]
        relay = self._relays.open(keys, call.origin)
        return Answer(element=KEY_AGENT, one=relay, status=201, location=f"/keyagents/{relay.id}")

    async def next_request(self, call: Call, relay_id: uuid.UUID) -> Answer:
        """Wait some seconds for something to sign."""
        wanted = await self._relays.next_request(relay_id, call.origin)
        return Answer(element=SIGNATURE_REQUEST, one=wanted)

    async def sign(self, call: Call, relay_id: uuid.UUID) -> Answer:
        """Hand in a signature, or refuse to sign where there is none in the body."""
        document = call.read(SIGNATURE)
        if not document.get("request"):
            raise IncompleteParameters("Signature [request] required for sign.")
        data = document.get("data")
        signature = _octets(data) if data else None
        self._relays.get(relay_id, call.origin).answer(document["request"], signature)
        return Answer(element=ACTION, one=ActionResult())

    async def close(self, call: Call, relay_id: uuid.UUID) -> Answer:
        """End a relay."""
        self._relays.close(relay_id, call.origin)
        return Answer(element=ACTION, one=ActionResult())


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidValue("'signature/data': expected base64.") from None
