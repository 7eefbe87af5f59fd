"""Clusters, and the one data centre that clients follow them to."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from pkengine.engine.clusters import Clusters
from pkengine.engine.model import Cluster, Host
from pkengine.engine.rest.call import Answer, Call, Route
from pkengine.engine.rest.elements import CLUSTER, DATA_CENTER, DATA_CENTER_ID
from pkengine.engine.rest.follow import Link
from pkengine.engine.rest.search import parse
from pkengine.errors import NotFound

_CLUSTER_FIELDS = {
    "name": lambda cluster: cluster.name,
    "description": lambda cluster: cluster.description,
    "comment": lambda cluster: cluster.comment,
}
_DATA_CENTER_FIELDS = {"name": lambda data_center: "Default"}

#: There is one, and all that is known of it is in its element's declaration.
_DATA_CENTER = object()


class ClusterResource:
    """``/clusters`` and ``/datacenters``."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters

    def routes(self) -> Iterable[Route]:
        """Give the routes."""
        yield Route(
            method="GET",
            path="/clusters",
            handler=self.list,
            element=CLUSTER,
            is_many=True,
            searches=_CLUSTER_FIELDS,
        )
        yield Route(
            method="GET", path="/clusters/<uuid:cluster_id>", handler=self.get, element=CLUSTER
        )
        yield Route(
            method="GET",
            path="/datacenters",
            handler=self.list_data_centers,
            element=DATA_CENTER,
            is_many=True,
            searches=_DATA_CENTER_FIELDS,
        )
        yield Route(
            method="GET",
            path="/datacenters/<uuid:data_center_id>",
            handler=self.get_data_center,
            element=DATA_CENTER,
        )

    def links_of_hosts(self) -> Iterable[Link]:
        """Give what leads from hosts to clusters."""
        yield Link("cluster", CLUSTER, self._clusters_of)

    def links(self) -> Iterable[Link]:
        """Give what can be followed from a cluster."""
        yield Link("data_center", DATA_CENTER, _data_centers_of)

    async def _clusters_of(self, call: Call, hosts: Sequence[Host]) -> Sequence[Cluster | None]:
        clusters = {cluster.id: cluster for cluster in await self._clusters.list()}
        return [clusters.get(host.cluster_id) for host in hosts]

    async def list(self, call: Call) -> Answer:
        """Give the clusters that a search finds."""
        search = parse(
            call.query.get("search", ""),
            _CLUSTER_FIELDS,
            case_sensitive=call.boolean("case_sensitive", False),
        )
        return Answer(
            element=CLUSTER, many=search.apply(await self._clusters.list(), call.limit(None))
        )

    async def get(self, call: Call, cluster_id: uuid.UUID) -> Answer:
        """Give one cluster."""
        return Answer(element=CLUSTER, one=await self._clusters.get(cluster_id))

    async def list_data_centers(self, call: Call) -> Answer:
        """Give the one data centre, if it is looked for."""
        search = parse(call.query.get("search", ""), _DATA_CENTER_FIELDS)
        return Answer(element=DATA_CENTER, many=search.apply([_DATA_CENTER], call.limit(None)))

    async def get_data_center(self, call: Call, data_center_id: uuid.UUID) -> Answer:
        """Give the one data centre."""
        if data_center_id != DATA_CENTER_ID:
            raise NotFound(f"There is no data center {data_center_id}.")
        return Answer(element=DATA_CENTER, one=_DATA_CENTER)


async def _data_centers_of(call: Call, clusters: Sequence[Cluster]) -> Sequence[object]:
    return [_DATA_CENTER for _ in clusters]
