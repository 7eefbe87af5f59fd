"""SSH keys that are known beside those of the hosts, and the machines on the way to a host."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0011"


def upgrade() -> None:
    """Make the table, and add the column."""
    op.create_table(
        "known_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("marker", sa.String(20), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("source", sa.String(40), nullable=False),
        sa.Column("user_name", sa.String(255), nullable=False),
        sa.Column("added", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_known_keys"),
    )
    op.add_column("hosts", sa.Column("ssh_jumps", sa.JSON(), nullable=False, server_default="[]"))
