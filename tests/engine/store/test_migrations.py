"""Databases of older versions, with what is in them."""

from __future__ import annotations

import uuid
from pathlib import Path

import sqlalchemy
from alembic import command
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.model import HostConnection, HostKey, HostStatus, KeySource
from pkengine.engine.store import hosts as queries
from pkengine.engine.store.database import open_database, transaction
from pkengine.engine.store.migrate import configuration
from pkengine.keys import Pin

HOST_ID = uuid.UUID("7d5c1a5e-0000-4000-8000-000000000001")
PIN = Pin(bytes(range(32)))


class MigrationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def made_at(self, revision: str, *statements: str) -> None:
        """Make the database of an older version, and put something into it."""
        database = sqlalchemy.create_engine(f"sqlite:///{self.path}")
        with database.begin() as connection:
            config = configuration()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            for statement in statements:
                connection.execute(sqlalchemy.text(statement))
        database.dispose()

    def test_pins_become_keys_that_were_deployed_and_nothing_of_the_host_is_lost(self) -> None:
        self.made_at(
            "0005",
            "INSERT INTO hosts (id, name, address, cluster_id, status, status_detail, port, "
            "comment, description, ssh_port, ssh_user, mechanism, agent_version, "
            "reinstallation_required, created) "
            f"SELECT '{HOST_ID.hex}', 'h1', 'h1.example', id, 'up', '', 54321, 'c', '', 22, "
            "'root', 'pin', '0.1', 0, '2026-01-01 00:00:00.000000' FROM clusters",
            "INSERT INTO host_pins (pin, host_id, added) "
            f"VALUES ('{PIN}', '{HOST_ID.hex}', '2026-02-03 04:05:06.000000')",
        )
        database = open_database(f"sqlite:///{self.path}")
        self.addCleanup(database.dispose)
        [host] = transaction(database, False, queries.all_hosts)
        self.assertEqual((host.id, host.name, host.status), (HOST_ID, "h1", HostStatus.UP))
        self.assertEqual(host.connection, HostConnection.ENGINE_DIALS)
        self.assertEqual(host.mechanism, "pin")
        [key] = host.keys
        self.assertEqual(str(key.added), "2026-02-03 04:05:06+00:00")
        self.assertEqual(
            key, HostKey(key=PIN, mechanism="pin", source=KeySource.DEPLOYED, added=key.added)
        )
        self.assertFalse(transaction(database, False, queries.has_sealed))
