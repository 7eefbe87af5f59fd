"""Which hosts have the engine's new SSH key, and lists of hosts that are added together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0007"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "key_rotations",
        sa.Column("fingerprint", sa.String(100), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("tried", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", "host_id", name="pk_key_rotations"),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name="fk_key_rotations_host_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "host_batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_name", sa.String(255), nullable=False),
        sa.Column("job_id", sa.Uuid()),
        sa.PrimaryKeyConstraint("id", name="pk_host_batches"),
    )
    op.create_index("ix_host_batches_created", "host_batches", ["created"])
    op.create_table(
        "batch_rows",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("address", sa.String(255), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("judgement", sa.String(40), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.String(40), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("host_id", sa.Uuid()),
        sa.PrimaryKeyConstraint("batch_id", "number", name="pk_batch_rows"),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["host_batches.id"], name="fk_batch_rows_batch_id", ondelete="CASCADE"
        ),
    )
