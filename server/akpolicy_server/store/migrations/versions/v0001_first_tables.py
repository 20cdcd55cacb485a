"""The first tables. Frozen: it repeats them and does not import them, because `tables` moves on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    _create_orgs()
    _create_api_keys()
    _create_revisions()
    _create_hosts()


def _create_orgs() -> None:
    op.create_table(
        "platform",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("bundle_key_id", sa.String(64), nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_platform"),
        sa.CheckConstraint("id = 1", name=op.f("ck_platform_one_row")),
    )
    op.create_table(
        "orgs",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("root_public_key", sa.LargeBinary(32), nullable=False),
        sa.Column("bundle_key_id", sa.String(64), nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("org", name="pk_orgs"),
    )
    op.create_table(
        "roots",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("version", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("org", "version", name="pk_roots"),
        sa.ForeignKeyConstraint(["org"], ["orgs.org"], name="fk_roots_org"),
    )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("org", sa.String(63), nullable=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("host_id", sa.String(128), nullable=True),
        sa.Column("description", sa.String(200), nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(16), nullable=False),
        sa.Column("revoked_at_us", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["org"], ["orgs.org"], name="fk_api_keys_org"),
        sa.CheckConstraint("role IN ('admin', 'publisher', 'host')", name=op.f("ck_api_keys_role")),
        sa.CheckConstraint("(role = 'host') = (host_id IS NOT NULL)", name=op.f("ck_api_keys_host_id")),
    )


def _create_revisions() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_blobs"),
    )
    op.create_table(
        "revisions",
        sa.Column("scope", sa.String(512), nullable=False),
        sa.Column("epoch", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("min_version", sa.BigInteger, nullable=False),
        sa.Column("published_at_us", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("published_by", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("policy_count", sa.Integer, nullable=False),
        sa.Column("content_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("content_size", sa.BigInteger, nullable=False),
        sa.Column("idempotency_owner", sa.String(63), nullable=True),
        sa.Column("idempotency_key", sa.String(128), nullable=True),
        sa.Column("request_digest", sa.LargeBinary(32), nullable=True),
        sa.PrimaryKeyConstraint("scope", "epoch", "version", name="pk_revisions"),
        sa.ForeignKeyConstraint(["published_by"], ["api_keys.key_id"], name="fk_revisions_published_by"),
        sa.ForeignKeyConstraint(["content_digest"], ["blobs.digest"], name="fk_revisions_content_digest"),
        sa.UniqueConstraint(
            "idempotency_owner", "idempotency_key", name="uq_revisions_idempotency_owner_idempotency_key"
        ),
    )


def _create_hosts() -> None:
    op.create_table(
        "hosts",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("host_id", sa.String(128), nullable=False),
        sa.Column("software_version", sa.String(64), nullable=False),
        sa.Column("root_version", sa.BigInteger, nullable=False),
        sa.Column("connected_at_us", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("org", "host_id", name="pk_hosts"),
        sa.ForeignKeyConstraint(["org"], ["orgs.org"], name="fk_hosts_org"),
    )
    op.create_table(
        "host_revisions",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("host_id", sa.String(128), nullable=False),
        sa.Column("scope", sa.String(512), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("reported_at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("org", "host_id", "scope", name="pk_host_revisions"),
        sa.ForeignKeyConstraint(
            ["org", "host_id"], ["hosts.org", "hosts.host_id"], name="fk_host_revisions_org_host_id"
        ),
    )
    op.create_table(
        "host_nacks",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("host_id", sa.String(128), nullable=False),
        sa.Column("scope", sa.String(512), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("policy_id", sa.String(128), nullable=False),
        sa.Column("reported_at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("org", "host_id", "scope", name="pk_host_nacks"),
        sa.ForeignKeyConstraint(["org", "host_id"], ["hosts.org", "hosts.host_id"], name="fk_host_nacks_org_host_id"),
    )
