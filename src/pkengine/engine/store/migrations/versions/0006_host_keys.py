"""Which end dials, and keys of agents for every mechanism in place of pins alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column; make the table of keys, and move the pins to it."""
    op.add_column(
        "hosts",
        sa.Column(
            "connection", sa.String(length=40), nullable=False, server_default="engine-dials"
        ),
    )
    op.create_table(
        "host_keys",
        sa.Column("key", sa.String(length=60), nullable=False),
        sa.Column("mechanism", sa.String(length=40), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.String(length=40), nullable=False),
        sa.Column("added", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary()),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name="fk_host_keys_host_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", "mechanism", name="pk_host_keys"),
    )
    op.create_index("ix_host_keys_host_id", "host_keys", ["host_id"])
    op.execute(
        "INSERT INTO host_keys (key, mechanism, host_id, source, added) "
        "SELECT pin, 'pin', host_id, 'deployed', added FROM host_pins"
    )
    op.drop_index("ix_host_pins_host_id", "host_pins")
    op.drop_table("host_pins")
