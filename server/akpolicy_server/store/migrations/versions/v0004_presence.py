"""Whether a host is there now, and how it gets its policy.

Frozen, as every step.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is noted of every host."""
    op.add_column("hosts", sa.Column("disconnected_at_us", sa.BigInteger, nullable=True))
    op.add_column("hosts", sa.Column("update_mode", sa.String(16), nullable=False, server_default="stream"))
