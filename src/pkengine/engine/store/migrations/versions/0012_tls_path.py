"""Whether a proxy is seen between a host's agent and the engine, and whether one may be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns."""
    op.add_column(
        "hosts",
        sa.Column("require_direct", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column(
        "hosts", sa.Column("tls_path", sa.String(length=40), nullable=False, server_default="")
    )
