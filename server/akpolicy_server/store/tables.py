"""The tables. `migrations` creates and changes them; a test compares the two.

Rules:

- Nothing signed is ever updated: roots, revisions and blobs are inserted, never changed.
- A revision is named by scope, epoch and version; it carries the idempotency key of the request that made it, so that
  the key and its effect commit together.
- API keys are kept as SHA-256 of the secret; revocation is a time, set once.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row: the platform's own keys.
platform = Table(
    "platform",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("bundle_key_id", String(64), nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

orgs = Table(
    "orgs",
    metadata,
    Column("org", String(63), primary_key=True),
    Column("root_public_key", LargeBinary(32), nullable=False),
    Column("bundle_key_id", String(64), nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
)

roots = Table(
    "roots",
    metadata,
    Column("org", ForeignKey(orgs.c.org), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(16), primary_key=True),
    Column("secret_hash", LargeBinary(32), nullable=False),
    # NULL: a platform key.
    Column("org", ForeignKey(orgs.c.org), nullable=True),
    Column("role", String(16), nullable=False),
    Column("host_id", String(128), nullable=True),
    Column("description", String(200), nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("created_by", String(16), nullable=False),
    Column("revoked_at_us", BigInteger, nullable=True),
    CheckConstraint("role IN ('admin', 'publisher', 'host')", name="role"),
    CheckConstraint("(role = 'host') = (host_id IS NOT NULL)", name="host_id"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("scope", String(512), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("min_version", BigInteger, nullable=False),
    Column("published_at_us", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("published_by", ForeignKey(api_keys.c.key_id), nullable=False),
    Column("message", Text, nullable=False),
    Column("policy_count", Integer, nullable=False),
    Column("content_digest", ForeignKey(blobs.c.digest), nullable=False),
    Column("content_size", BigInteger, nullable=False),
    # Whose idempotency key it is: the caller's org, "" for the platform. NULL without a key.
    Column("idempotency_owner", String(63), nullable=True),
    Column("idempotency_key", String(128), nullable=True),
    Column("request_digest", LargeBinary(32), nullable=True),
    UniqueConstraint("idempotency_owner", "idempotency_key"),
)

hosts = Table(
    "hosts",
    metadata,
    Column("org", ForeignKey(orgs.c.org), primary_key=True),
    Column("host_id", String(128), primary_key=True),
    Column("software_version", String(64), nullable=False),
    Column("root_version", BigInteger, nullable=False),
    Column("connected_at_us", BigInteger, nullable=False),
    Column("last_seen_at_us", BigInteger, nullable=False),
)

# What each host says it enforces: not what was sent to it.
host_revisions = Table(
    "host_revisions",
    metadata,
    Column("org", String(63), primary_key=True),
    Column("host_id", String(128), primary_key=True),
    Column("scope", String(512), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("reported_at_us", BigInteger, nullable=False),
    ForeignKeyConstraint(["org", "host_id"], ["hosts.org", "hosts.host_id"]),
)

# The last refusal a scope, until an update of the scope takes effect.
host_nacks = Table(
    "host_nacks",
    metadata,
    Column("org", String(63), primary_key=True),
    Column("host_id", String(128), primary_key=True),
    Column("scope", String(512), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("code", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("policy_id", String(128), nullable=False),
    Column("reported_at_us", BigInteger, nullable=False),
    ForeignKeyConstraint(["org", "host_id"], ["hosts.org", "hosts.host_id"]),
)
