"""Tokens for automation, and where those were who asked for what the events tell of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("tokens", sa.Column("name", sa.String(length=100)))
    op.add_column("tokens", sa.Column("role", sa.String(length=40)))
    op.add_column(
        "events",
        sa.Column("address", sa.String(length=100), nullable=False, server_default=""),
    )
    op.create_index("ix_events_code_id", "events", ["code", "id"])
