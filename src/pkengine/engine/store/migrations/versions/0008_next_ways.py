"""The way in which a host is about to connect, until both ends have it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns; no change is under way."""
    op.add_column("hosts", sa.Column("next_connection", sa.String(length=40)))
    op.add_column("hosts", sa.Column("next_mechanism", sa.String(length=40)))
    op.add_column("hosts", sa.Column("next_key", sa.String(length=60)))
