"""SSH host keys that are not the stored one and wait for a decision."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "key_changes",
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("seen_at", sa.String(length=300), nullable=False),
        sa.Column("old_fingerprint", sa.String(length=100), nullable=False),
        sa.Column("old_key", sa.Text()),
        sa.Column("new_keys", sa.JSON(), nullable=False),
        sa.Column("operation", sa.String(length=40), nullable=False),
        sa.Column("user_name", sa.String(length=255), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("times_seen", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("host_id", name="pk_key_changes"),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name="fk_key_changes_host_id", ondelete="CASCADE"
        ),
    )
