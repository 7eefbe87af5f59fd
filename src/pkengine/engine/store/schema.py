"""The tables of the engine's database, as they are after the last migration.

A column of time holds UTC.  Nothing secret is stored in clear: passwords and tokens are
hashes, what the engine shares with agents is encrypted with a key that is not in the
database, and SSH passwords are not stored at all.
"""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    false,
)


class UtcDateTime(TypeDecorator[datetime.datetime]):
    """A moment: aware in Python, and UTC in the database, whichever it is."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: datetime.datetime | None, dialect: Dialect
    ) -> datetime.datetime | None:
        """Convert to UTC; refuse a time without a zone, for it could mean anything."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("A time without a time zone cannot be stored.")
        return value.astimezone(datetime.timezone.utc)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime.datetime | None:
        """Give an aware time; SQLite stores none of the zone."""
        if value is None:
            return None
        moment: datetime.datetime = value
        if moment.tzinfo is None:
            return moment.replace(tzinfo=datetime.timezone.utc)
        return moment.astimezone(datetime.timezone.utc)


#: Constraints have names, so that a later migration can change them on any database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

clusters = Table(
    "clusters",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("comment", Text, nullable=False),
)

hosts = Table(
    "hosts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("address", String(255), nullable=False, unique=True),
    Column("cluster_id", ForeignKey("clusters.id"), nullable=False),
    Column("status", String(40), nullable=False),
    Column("status_detail", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("comment", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("ssh_port", Integer, nullable=False),
    Column("ssh_user", String(255), nullable=False),
    Column("ssh_fingerprint", String(100)),
    Column("ssh_public_key", Text),
    Column("ssh_key_source", String(40)),
    Column("ssh_proved_keys", JSON, nullable=False, server_default="[]"),
    Column("ssh_jumps", JSON, nullable=False, server_default="[]"),
    Column("connection", String(40), nullable=False, server_default="engine-dials"),
    Column("mechanism", String(40), nullable=False),
    Column("next_connection", String(40)),
    Column("next_mechanism", String(40)),
    Column("next_key", String(60)),
    Column("capabilities", JSON(none_as_null=True)),
    Column("hardware", JSON(none_as_null=True)),
    Column("agent_version", String(100), nullable=False),
    Column("reinstallation_required", Boolean, nullable=False),
    Column("update_available", Boolean, nullable=False, server_default=false()),
    Column("require_direct", Boolean, nullable=False, server_default=false()),
    Column("tls_path", String(40), nullable=False, server_default=""),
    Column("created", UtcDateTime, nullable=False),
)

#: The keys of agents that are trusted.  A key belongs to one host: it says which one calls.
host_keys = Table(
    "host_keys",
    metadata,
    Column("key", String(60), primary_key=True),
    Column("mechanism", String(40), primary_key=True),
    Column("host_id", ForeignKey("hosts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("source", String(40), nullable=False),
    Column("added", UtcDateTime, nullable=False),
    Column("sealed", LargeBinary),  # see `pkengine.engine.store.sealing`
)

#: Codes that were given out; rows are removed some time after they have ended.
invitations = Table(
    "invitations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("state", String(20), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime, nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # see `pkengine.engine.store.sealing`
    Column("host_name", String(255), nullable=False),
    Column("is_approved", Boolean, nullable=False),
    Column("guesses", Integer, nullable=False),
    Column("user_name", String(255), nullable=False),
    Column("ended", UtcDateTime),
    Column("host_id", Uuid),
)

#: SSH host keys that are not the stored one and wait for a decision: one row a host.
key_changes = Table(
    "key_changes",
    metadata,
    Column("host_id", ForeignKey("hosts.id", ondelete="CASCADE"), primary_key=True),
    Column("seen_at", String(300), nullable=False),
    Column("old_fingerprint", String(100), nullable=False),
    Column("old_key", Text),
    Column("new_keys", JSON, nullable=False),
    Column("operation", String(40), nullable=False),
    Column("user_name", String(255), nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("last_seen", UtcDateTime, nullable=False),
    Column("times_seen", Integer, nullable=False),
)

#: SSH keys that are known beside those of the hosts, as lines of OpenSSH's known_hosts.
known_keys = Table(
    "known_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("position", Integer, nullable=False),  # the first key of a host is its preferred one
    Column("marker", String(20), nullable=False),
    Column("names", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("source", String(40), nullable=False),
    Column("user_name", String(255), nullable=False),
    Column("added", UtcDateTime, nullable=False),
)

#: Which hosts have the SSH key, by its fingerprint, that takes the place of the engine's old one.
key_rotations = Table(
    "key_rotations",
    metadata,
    Column("fingerprint", String(100), primary_key=True),
    Column("host_id", ForeignKey("hosts.id", ondelete="CASCADE"), primary_key=True),
    Column("status", String(20), nullable=False),
    Column("detail", Text, nullable=False),
    Column("tried", UtcDateTime, nullable=False),
)

#: Lists of hosts that are to be added together, and what was found out about each of them.
host_batches = Table(
    "host_batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("stage", String(20), nullable=False),
    Column("created", UtcDateTime, nullable=False, index=True),
    Column("user_name", String(255), nullable=False),
    Column("job_id", Uuid),
)

batch_rows = Table(
    "batch_rows",
    metadata,
    Column("batch_id", ForeignKey("host_batches.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String(255), nullable=False),
    Column("address", String(255), nullable=False),
    Column("wanted", JSON, nullable=False),
    Column("judgement", String(40), nullable=False),
    Column("found", JSON, nullable=False),
    Column("outcome", String(40), nullable=False),
    Column("detail", Text, nullable=False),
    Column("host_id", Uuid),
)

#: Events outlive the host that they are about, so they name it and do not refer to it.
events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("code", Integer, nullable=False),
    Column("severity", String(20), nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("description", Text, nullable=False),
    Column("host_id", Uuid),
    Column("host_name", String(255), nullable=False),
    Column("cluster_id", Uuid),
    Column("user_name", String(255), nullable=False),
    Column("correlation_id", String(100), nullable=False),
    Column("address", String(100), nullable=False, server_default=""),
    Index(None, "host_id", "id"),
    Index(None, "code", "id"),
    Index(None, "time"),
    sqlite_autoincrement=True,  # an id is never given twice, whatever was deleted
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("description", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("started", UtcDateTime, nullable=False, index=True),
    Column("ended", UtcDateTime),
    Column("host_id", Uuid, index=True),
    Column("correlation_id", String(100), nullable=False),
)

steps = Table(
    "steps",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", String(100), nullable=False),
    Column("description", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("progress", Integer),
    Column("started", UtcDateTime),
    Column("ended", UtcDateTime),
)

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),  # such as admin@internal
    Column("password_hash", Text, nullable=False),
    Column("role", String(40), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

#: A token with a name is a personal one, for automation; the others are sessions of people.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("token_hash", String(64), nullable=False, unique=True),  # SHA-256, hexadecimal
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", UtcDateTime, nullable=False),
    Column("last_used", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime, nullable=False, index=True),
    Column("name", String(100)),
    Column("role", String(40)),  # what the token may do at most; None is all that its user may
)

#: Tokens that were ended and users who were changed, for engines that remember them.
access_changes = Table(
    "access_changes",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("user_id", Uuid),
    Column("token_hash", String(64)),
    sqlite_autoincrement=True,  # a number is never given twice
)

settings = Table(
    "settings",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("value", JSON, nullable=False),
)
