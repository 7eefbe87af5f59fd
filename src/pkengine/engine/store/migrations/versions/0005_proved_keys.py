"""The other SSH keys of hosts, which they proved by the stored one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    op.add_column(
        "hosts",
        sa.Column("ssh_proved_keys", sa.JSON(), nullable=False, server_default="[]"),
    )
