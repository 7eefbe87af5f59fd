"""SSH host keys that are not the stored ones, and the decision about them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from operator import attrgetter

from pkengine.engine.hosts.key_changes import KeyChanges
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import HOST_REFERENCE, SSH_KEY, text_of
from pkengine.engine.rest.schema import (
    INTEGER,
    LINE,
    MOMENT,
    TEXT,
    Element,
    Field,
    IncompleteParameters,
    ListOf,
)
from pkengine.engine.users import Role
from pkengine.keys import SshFingerprint

_OLD_KEY = Element(
    "old_key",
    fields=(
        Field("type", LINE, lambda change: change.old_key and change.old_key.key_type),
        Field("fingerprint", LINE, text_of("old_fingerprint")),
        Field("public_key", TEXT, text_of("old_key")),
    ),
)

KEY_CHANGE = Element(
    "key_change",
    "key_changes",
    id=attrgetter("host_id"),
    href=lambda change: f"/hosts/{change.host_id}/keychange",
    actions=("approve", "reject"),
    fields=(
        Field("host", HOST_REFERENCE, lambda change: change),
        Field("seen_at", LINE, attrgetter("seen_at")),
        Field("old_key", _OLD_KEY, lambda change: change),
        Field("new_keys", ListOf("ssh_key", SSH_KEY), attrgetter("new_keys")),
        Field("operation", LINE, attrgetter("operation")),
        Field("user_name", LINE, text_of("user")),
        Field("first_seen", MOMENT, attrgetter("first_seen")),
        Field("last_seen", MOMENT, attrgetter("last_seen")),
        Field("times_seen", INTEGER, attrgetter("times_seen")),
    ),
)


class KeyChangeResource:
    """``/keychanges`` and ``/hosts/ID/keychange``."""

    def __init__(self, key_changes: KeyChanges) -> None:
        self._key_changes = key_changes

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        change = "/hosts/<uuid:host_id>/keychange"
        yield Route(
            method="GET",
            path="/keychanges",
            handler=self.list,
            element=KEY_CHANGE,
            is_many=True,
        )
        yield Route(method="GET", path=change, handler=self.get, element=KEY_CHANGE)
        for name, handler in (("approve", self.approve), ("reject", self.reject)):
            yield Route(
                method="POST",
                path=f"{change}/{name}",
                handler=handler,
                role=Role.ADMINISTRATOR,
                is_action=True,
                reads=ACTION,
            )

    async def list(self, call: Call) -> Answer:
        """Give the changes that wait for a decision, by the name of the host."""
        changes = await self._key_changes.list()
        return Answer(element=KEY_CHANGE, many=changes[: call.limit(None)])

    async def get(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Give the change of a host that waits for a decision."""
        return Answer(element=KEY_CHANGE, one=await self._key_changes.get(host_id))

    async def approve(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Store the found key that has the fingerprint in ``ssh``, which is mandatory."""
        ssh = call.read(ACTION, is_optional=True).get("ssh") or {}
        if not ssh.get("fingerprint"):
            raise IncompleteParameters("Action [ssh.fingerprint] required for approve.")
        fingerprint = SshFingerprint.parse(ssh["fingerprint"])
        await self._key_changes.approve(host_id, fingerprint, call.origin)
        return Answer(element=ACTION, one=ActionResult())

    async def reject(self, call: Call, host_id: uuid.UUID) -> Answer:
        """Keep the stored key."""
        await self._key_changes.reject(host_id, call.origin)
        return Answer(element=ACTION, one=ActionResult())
