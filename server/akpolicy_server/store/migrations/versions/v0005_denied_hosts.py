"""Hosts that are refused whatever they show.

Frozen, as every step.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "denied_hosts",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("host_id", sa.String(128), nullable=False),
        sa.Column("denied_at_us", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("org", "host_id", name="pk_denied_hosts"),
        sa.ForeignKeyConstraint(["org"], ["orgs.org"], name="fk_denied_hosts_org"),
    )
