"""The clusters that hosts belong to; there is always one, named Default."""

from __future__ import annotations

import uuid

from pkengine.engine.model import Cluster
from pkengine.engine.store import Store
from pkengine.engine.store import clusters as queries
from pkengine.errors import NotFound


class Clusters:
    """Reads the clusters."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self) -> list[Cluster]:
        """Give every cluster, by name."""
        return await self._store.read(queries.all_clusters)

    async def get(self, cluster_id: uuid.UUID) -> Cluster:
        """Give a cluster.

        Raises:
            NotFound: there is none with this id.
        """
        return _found(
            await self._store.read(queries.cluster_by_id, cluster_id), f"id={cluster_id}"
        )

    async def by_name(self, name: str) -> Cluster:
        """Give a cluster.

        Raises:
            NotFound: there is none with this name.
        """
        return _found(await self._store.read(queries.cluster_by_name, name), f"name={name}")

    async def default(self) -> Cluster:
        """Give the cluster of hosts whose cluster nobody named."""
        return await self.by_name(queries.DEFAULT_NAME)


def _found(cluster: Cluster | None, which: str) -> Cluster:
    if cluster is None:
        raise NotFound(f"Entity not found: Cluster: {which}")
    return cluster
