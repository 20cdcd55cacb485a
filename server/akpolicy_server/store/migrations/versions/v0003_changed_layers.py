"""With which generation each layer was changed last, so that what changed since another can be read alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what is there counts as old."""
    op.add_column("layers", sa.Column("since", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_layers_org_since", "layers", ["org", "since"])
