"""The root of the API, and the user who asks."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from twisted.internet.interfaces import IReactorTime

from pkengine.engine.clock import utc_now
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import API, USER, ApiRoot
from pkengine.errors import NotFound


class RootResource:
    """``/`` and ``/users``.

    Args:
        hosts: are counted.
        instance_id: tells this engine from others.
        clock: what time it is.
    """

    def __init__(self, hosts: Hosts, instance_id: uuid.UUID, clock: IReactorTime) -> None:
        self._hosts = hosts
        self._instance_id = instance_id
        self._clock = clock

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        yield Route(method="GET", path="/", handler=self.get)
        yield Route(method="GET", path="/users", handler=self.users)
        yield Route(method="GET", path="/users/<uuid:user_id>", handler=self.user)

    async def get(self, call: Call) -> Answer:
        """Tell what this is and where the collections are."""
        active, total = await self._hosts.count()
        root = ApiRoot(
            time=utc_now(self._clock),
            instance_id=self._instance_id,
            user=call.user,
            hosts_total=total,
            hosts_active=active,
        )
        return Answer(element=API, one=root)

    async def users(self, call: Call) -> Answer:
        """Give the user who asks; others are nobody's business."""
        return Answer(element=USER, many=[call.user])

    async def user(self, call: Call, user_id: uuid.UUID) -> Answer:
        """Give the user who asks."""
        if user_id != call.user.id:
            raise NotFound(f"There is no user {user_id}.")
        return Answer(element=USER, one=call.user)
