"""The engine's own SSH key, and its rotation on all hosts."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from pkengine.engine.hosts.ssh_key_rotation import SshKeyRotation, SshKeyState
from pkengine.engine.model import KeyRotationStatus
from pkengine.engine.rest.action_elements import ACTION, ActionResult
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import HOST_REFERENCE, SSH_KEY, always, itself, text_of
from pkengine.engine.rest.job_actions import JobActions
from pkengine.engine.rest.schema import BOOLEAN, INTEGER, MOMENT, TEXT, Element, Enumerated, Field
from pkengine.engine.users import Role


def _if_rotated(state: SshKeyState) -> SshKeyState | None:
    return state if state.successor is not None else None


_ROTATION = Element(
    "rotation",
    fields=(
        Field("successor", SSH_KEY, attrgetter("successor")),
        Field("running", BOOLEAN, attrgetter("is_running")),
        Field("hosts_total", INTEGER, lambda state: len(state.hosts)),
        Field("hosts_left", INTEGER, lambda state: len(state.left)),
    ),
)

ENGINE_SSH_KEY = Element(
    "engine_ssh_key",
    href=always("/sshkey"),
    actions=("rotate", "discardold"),
    collections=("hosts",),
    fields=(
        Field("ssh_key", SSH_KEY, attrgetter("key")),
        Field("rotation", _ROTATION, _if_rotated),
    ),
)

HOST_KEY_ROTATION = Element(
    "host_key_rotation",
    "host_key_rotations",
    fields=(
        Field("host", HOST_REFERENCE, itself),
        Field("status", Enumerated(KeyRotationStatus), attrgetter("status")),
        Field("detail", TEXT, text_of("detail")),
        Field("tried", MOMENT, attrgetter("tried")),
    ),
)


class EngineSshKeyResource:
    """``/sshkey``.

    Args:
        rotation: the key.
        actions: answers what begins a job.
    """

    def __init__(self, rotation: SshKeyRotation, actions: JobActions) -> None:
        self._rotation = rotation
        self._actions = actions

    def routes(self) -> Iterable[Route]:
        """Give the routes; what changes whom hosts let in is the administrator's."""
        yield Route(method="GET", path="/sshkey", handler=self.get, element=ENGINE_SSH_KEY)
        yield Route(
            method="GET",
            path="/sshkey/hosts",
            handler=self.hosts,
            element=HOST_KEY_ROTATION,
            is_many=True,
        )
        for name, handler in (("rotate", self.rotate), ("discardold", self.discard_old)):
            yield Route(
                method="POST",
                path=f"/sshkey/{name}",
                handler=handler,
                role=Role.ADMINISTRATOR,
                is_action=True,
                reads=ACTION,
            )

    async def get(self, call: Call) -> Answer:
        """Give the key, and how far its rotation is."""
        return Answer(element=ENGINE_SSH_KEY, one=await self._rotation.state())

    async def hosts(self, call: Call) -> Answer:
        """Give the hosts that are to have the new key, by name; none while nothing is rotated."""
        state = await self._rotation.state()
        return Answer(element=HOST_KEY_ROTATION, many=state.hosts[: call.limit(None)])

    async def rotate(self, call: Call) -> Answer:
        """Begin to bring a new key of ``type`` to all hosts, or take that up again."""
        document = call.read(ACTION, is_optional=True)
        job = await self._rotation.rotate(document.get("type"), call.origin)
        return await self._actions.done(call, document, job)

    async def discard_old(self, call: Call) -> Answer:
        """End the rotation, whichever hosts still have the old key only."""
        await self._rotation.discard_old(call.origin)
        return Answer(element=ACTION, one=ActionResult())
