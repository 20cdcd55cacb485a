"""The tables. `migrations` creates and changes them; a test compares the two.

Rules:

- Nothing signed is ever updated: roots, revisions and blobs are inserted, never changed.
- A revision is named by scope, epoch and version; `serial` counts all revisions in the order of their publication. It
  carries the idempotency key of the request that made it, so that the key and its effect commit together.
- `layers` and `generations` alone say what is current: which revision each org's hosts get of each scope, and how often
  that or the org's root has changed. Both change in the transaction that publishes.
- An org without roots waits for its first one: nothing is published for it, nobody subscribes.
- API keys are kept as SHA-256 of the secret; revocation is a time, set once.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
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

# One row: there is one once the server was set up.
platform = Table(
    "platform",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("created_at_us", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

orgs = Table(
    "orgs",
    metadata,
    Column("org", String(63), primary_key=True),
    Column("created_at_us", BigInteger, nullable=False),
    # How many of its `anchors` must have signed its first root.
    Column("anchor_threshold", Integer, nullable=False, server_default="1"),
    # The unsigned payload of the first root that the owners of its root keys were given; NULL if the server signed it.
    Column("first_root", LargeBinary, nullable=True),
)

# The keys that an org's hosts are configured with.
anchors = Table(
    "anchors",
    metadata,
    Column("org", ForeignKey(orgs.c.org), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("public_key", LargeBinary(32), nullable=False),
)

# Every key that the server made. What a key may sign, the org's newest root says.
online_keys = Table(
    "online_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    # NULL: a key of the platform, for `global`.
    Column("org", ForeignKey(orgs.c.org), nullable=True),
    Column("role", String(16), nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    CheckConstraint("role IN ('root', 'bundle', 'rollback', 'heartbeat')", name="role"),
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
    Column("serial", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    # For a rollback: the envelope of the bundle that it restores, and that bundle's version.
    Column("original", LargeBinary, nullable=True),
    Column("restores_version", BigInteger, nullable=True),
    Column("min_version", BigInteger, nullable=False),
    Column("published_at_us", BigInteger, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # What was meant; the signing keys may have ended it sooner.
    Column("lifetime_s", BigInteger, nullable=False),
    # NULL: the server itself.
    Column("published_by", ForeignKey(api_keys.c.key_id), nullable=True),
    Column("message", Text, nullable=False),
    Column("policy_count", Integer, nullable=False),
    Column("content_digest", ForeignKey(blobs.c.digest), nullable=False),
    Column("content_size", BigInteger, nullable=False),
    # Whose idempotency key it is: the caller's org, "" for the platform. NULL without a key.
    Column("idempotency_owner", String(63), nullable=True),
    Column("idempotency_key", String(128), nullable=True),
    Column("request_digest", LargeBinary(32), nullable=True),
    UniqueConstraint("serial"),
    Index(None, "scope", "serial"),
    UniqueConstraint("idempotency_owner", "idempotency_key"),
    CheckConstraint("kind IN ('publish', 'renewal', 'rollback', 'freeze', 'unfreeze')", name="kind"),
    CheckConstraint("(kind = 'rollback') = (original IS NOT NULL)", name="original"),
    CheckConstraint("(kind = 'rollback') = (restores_version IS NOT NULL)", name="restores"),
)

# The revision of each scope that an org's hosts were given last. Not in force: a root took its keys away since, and
# hosts dropped it; they still take nothing older.
layers = Table(
    "layers",
    metadata,
    Column("org", ForeignKey(orgs.c.org), primary_key=True),
    Column("scope", String(512), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("in_force", Boolean, nullable=False),
    # The org's generation with which this row was changed last.
    Column("since", BigInteger, nullable=False, server_default="0"),
    Index(None, "org", "since"),
    ForeignKeyConstraint(["scope", "epoch", "version"], ["revisions.scope", "revisions.epoch", "revisions.version"]),
)

# How often what is current for an org has changed: `seq` of its heartbeats.
generations = Table(
    "generations",
    metadata,
    Column("org", ForeignKey(orgs.c.org), primary_key=True),
    Column("seq", BigInteger, nullable=False),
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
    Column("disconnected_at_us", BigInteger, nullable=True),
    Column("update_mode", String(16), nullable=False, server_default="stream"),
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

# Hosts that are refused whatever they show: a certificate cannot be revoked here.
denied_hosts = Table(
    "denied_hosts",
    metadata,
    Column("org", ForeignKey(orgs.c.org), primary_key=True),
    Column("host_id", String(128), primary_key=True),
    Column("denied_at_us", BigInteger, nullable=False),
    Column("reason", String(200), nullable=False),
)
