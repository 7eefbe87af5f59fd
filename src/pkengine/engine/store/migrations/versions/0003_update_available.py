"""Whether a host's agent is another one than the engine would install."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column(
        "hosts",
        sa.Column("update_available", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
