"""The root of the API."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from twisted.internet.interfaces import IReactorTime

from pkengine.engine.clock import utc_now
from pkengine.engine.hosts.service import Hosts
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.root_elements import API, ApiRoot
from pkengine.engine.user_administration import UserAdministration


class RootResource:
    """``/``.

    Args:
        hosts, users: are counted.
        instance_id: tells this engine from others.
        clock: what time it is.
    """

    def __init__(
        self,
        hosts: Hosts,
        users: UserAdministration,
        instance_id: uuid.UUID,
        clock: IReactorTime,
    ) -> None:
        self._hosts = hosts
        self._users = users
        self._instance_id = instance_id
        self._clock = clock

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        yield Route(method="GET", path="/", handler=self.get, element=API)

    async def get(self, call: Call) -> Answer:
        """Tell what this is and where the collections are."""
        active, total = await self._hosts.count()
        users = await self._users.list()
        root = ApiRoot(
            time=utc_now(self._clock),
            instance_id=self._instance_id,
            user=call.user,
            hosts_total=total,
            hosts_active=active,
            users_total=len(users),
            users_active=sum(not record.disabled for record in users),
        )
        return Answer(element=API, one=root)
