"""What was taken from users, for every engine to follow; and an index to prune events by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0006"


def upgrade() -> None:
    """Add the table and the index."""
    op.create_table(
        "access_changes",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("token_hash", sa.String(64), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_access_changes"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_time", "events", ["time"])
