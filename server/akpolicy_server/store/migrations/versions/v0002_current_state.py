"""What is current for each org; keys, anchors, kinds of revisions.

Frozen, as every step. What was the newest is what hosts have: it becomes each org's layers. Keys that were columns
become rows. `revisions` is rebuilt, because SQLite cannot make `published_by` nullable in place. PostgreSQL, where no
database was ever as old, wants each name of an index once: there it is made anew.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEY_ID_DOMAIN = b"akpolicy/key/v1\x00"


def upgrade() -> None:
    """Move what is there, and create what is new."""
    _create_keys()
    _move_keys()
    _rebuild_revisions()
    _create_current()


def _create_keys() -> None:
    op.create_table(
        "anchors",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("position", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("public_key", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("org", "position", name="pk_anchors"),
        sa.ForeignKeyConstraint(["org"], ["orgs.org"], name="fk_anchors_org"),
    )
    op.create_table(
        "online_keys",
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("org", sa.String(63), nullable=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_online_keys"),
        sa.ForeignKeyConstraint(["org"], ["orgs.org"], name="fk_online_keys_org"),
        sa.CheckConstraint("role IN ('root', 'bundle', 'rollback', 'heartbeat')", name=op.f("ck_online_keys_role")),
    )


def _move_keys() -> None:
    connection = op.get_bind()
    insert_key = sa.text("INSERT INTO online_keys VALUES (:key_id, :org, :role, :created)")
    for key_id, created in connection.execute(sa.text("SELECT bundle_key_id, created_at_us FROM platform")).all():
        connection.execute(insert_key, {"key_id": key_id, "org": None, "role": "bundle", "created": created})
    orgs = connection.execute(sa.text("SELECT org, root_public_key, bundle_key_id, created_at_us FROM orgs")).all()
    for org, root_key, bundle_key_id, created in orgs:
        connection.execute(sa.text("INSERT INTO anchors VALUES (:org, 0, :key)"), {"org": org, "key": root_key})
        root_key_id = hashlib.sha256(_KEY_ID_DOMAIN + root_key).hexdigest()
        for key_id, role in ((root_key_id, "root"), (bundle_key_id, "bundle")):
            connection.execute(insert_key, {"key_id": key_id, "org": org, "role": role, "created": created})
    op.drop_column("platform", "bundle_key_id")
    op.drop_column("orgs", "root_public_key")
    op.drop_column("orgs", "bundle_key_id")
    op.add_column("orgs", sa.Column("anchor_threshold", sa.Integer, nullable=False, server_default="1"))
    op.add_column("orgs", sa.Column("first_root", sa.LargeBinary, nullable=True))


def _rebuild_revisions() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_table("revisions")
        _create_revisions("revisions")
    else:
        _create_revisions("revisions_new")
        _move_revisions()
    op.create_index("ix_revisions_scope_serial", "revisions", ["scope", "serial"])


def _create_revisions(name: str) -> None:
    op.create_table(
        name,
        sa.Column("scope", sa.String(512), nullable=False),
        sa.Column("epoch", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("serial", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("original", sa.LargeBinary, nullable=True),
        sa.Column("restores_version", sa.BigInteger, nullable=True),
        sa.Column("min_version", sa.BigInteger, nullable=False),
        sa.Column("published_at_us", sa.BigInteger, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("lifetime_s", sa.BigInteger, nullable=False),
        sa.Column("published_by", sa.String(16), nullable=True),
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
        sa.UniqueConstraint("serial", name="uq_revisions_serial"),
        sa.UniqueConstraint(
            "idempotency_owner", "idempotency_key", name="uq_revisions_idempotency_owner_idempotency_key"
        ),
        sa.CheckConstraint(
            "kind IN ('publish', 'renewal', 'rollback', 'freeze', 'unfreeze')", name=op.f("ck_revisions_kind")
        ),
        sa.CheckConstraint("(kind = 'rollback') = (original IS NOT NULL)", name=op.f("ck_revisions_original")),
        sa.CheckConstraint("(kind = 'rollback') = (restores_version IS NOT NULL)", name=op.f("ck_revisions_restores")),
    )


def _move_revisions() -> None:
    # Every bundle so far was issued in the second in which it was published, in the order of the rows.
    op.execute(
        """
        INSERT INTO revisions_new
        SELECT scope, epoch, version, row_number() OVER (ORDER BY rowid), 'publish', digest, envelope, NULL, NULL,
            min_version, published_at_us, published_at_us / 1000000, expires_at, expires_at - published_at_us / 1000000,
            published_by, message, policy_count, content_digest, content_size, idempotency_owner, idempotency_key,
            request_digest
        FROM revisions
        """
    )
    op.drop_table("revisions")
    op.rename_table("revisions_new", "revisions")


def _create_current() -> None:
    op.create_table(
        "layers",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("scope", sa.String(512), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("in_force", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("org", "scope", name="pk_layers"),
        sa.ForeignKeyConstraint(["org"], ["orgs.org"], name="fk_layers_org"),
        sa.ForeignKeyConstraint(
            ["scope", "epoch", "version"],
            ["revisions.scope", "revisions.epoch", "revisions.version"],
            name="fk_layers_scope_epoch_version",
        ),
    )
    op.execute(
        """
        INSERT INTO layers
        SELECT orgs.org, revisions.scope, revisions.epoch, revisions.version, true
        FROM orgs JOIN revisions ON revisions.scope IN ('global', 'org/' || orgs.org)
        WHERE revisions.version = (SELECT max(version) FROM revisions AS newer WHERE newer.scope = revisions.scope)
        """
    )
    op.create_table(
        "generations",
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("org", name="pk_generations"),
        sa.ForeignKeyConstraint(["org"], ["orgs.org"], name="fk_generations_org"),
    )
    op.execute("INSERT INTO generations SELECT org, 1 FROM orgs")
