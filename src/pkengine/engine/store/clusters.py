"""Queries about clusters."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, Row, select

from pkengine.engine.model import Cluster
from pkengine.engine.store.schema import clusters

DEFAULT_NAME = "Default"


def all_clusters(connection: Connection) -> list[Cluster]:
    """Give every cluster, by name."""
    return [_cluster(row) for row in connection.execute(select(clusters).order_by("name"))]


def cluster_by_id(connection: Connection, cluster_id: uuid.UUID) -> Cluster | None:
    """Give a cluster, or None."""
    row = connection.execute(select(clusters).where(clusters.c.id == cluster_id)).first()
    return _cluster(row) if row else None


def cluster_by_name(connection: Connection, name: str) -> Cluster | None:
    """Give a cluster, or None."""
    row = connection.execute(select(clusters).where(clusters.c.name == name)).first()
    return _cluster(row) if row else None


def _cluster(row: Row[tuple[object, ...]]) -> Cluster:
    return Cluster(**row._mapping)
