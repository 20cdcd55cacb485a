"""Published revisions and their content."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Row, Select, and_, exists, insert, or_, select

from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from akpolicy_server.store.tables import blobs, revisions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from akpolicy.envelope import SignedEnvelope


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """A published revision. `expires_at` is in epoch seconds, `published_at_us` in epoch microseconds."""

    scope: str
    epoch: int
    version: int
    digest: bytes
    envelope: SignedEnvelope
    min_version: int
    published_at_us: int
    expires_at: int
    published_by: str
    message: str
    policy_count: int
    content_digest: bytes
    content_size: int


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A request's idempotency key, whose it is (an org, "" for the platform), and the digest of the request."""

    owner: str
    key: str
    request_digest: bytes


def insert_revision(connection: Connection, record: RevisionRecord, claim: IdempotencyClaim | None) -> None:
    """Add a revision whose blob is stored; an existing version or a used idempotency key breaks a constraint."""
    connection.execute(
        insert(revisions).values(
            **{name: value for name, value in asdict(record).items() if name != "envelope"},
            envelope=envelope_to_bytes(record.envelope),
            idempotency_owner=claim.owner if claim else None,
            idempotency_key=claim.key if claim else None,
            request_digest=claim.request_digest if claim else None,
        )
    )


def current_revision(connection: Connection, scope: str) -> RevisionRecord | None:
    """Return the newest revision of a scope; None before the first."""
    row = connection.execute(_newest_first(scope).limit(1)).first()
    return None if row is None else _revision(row)


def current_digests(connection: Connection, scopes: Iterable[str]) -> dict[str, bytes | None]:
    """Return the digest of each scope's newest revision; None where there is none."""
    newest = {}
    for scope in scopes:
        query = _newest_first(scope).with_only_columns(revisions.c.digest).limit(1)
        newest[scope] = connection.scalar(query)
    return newest


def find_revision(connection: Connection, scope: str, version: int) -> RevisionRecord | None:
    """Return a revision by its version, in the newest epoch that has it; None if there is none."""
    row = connection.execute(_newest_first(scope).where(revisions.c.version == version).limit(1)).first()
    return None if row is None else _revision(row)


def list_revisions(
    connection: Connection, scope: str, *, before: tuple[int, int] | None, limit: int
) -> list[RevisionRecord]:
    """Return up to `limit` revisions, newest first, all older than `before` (epoch, version) if given."""
    query = _newest_first(scope).limit(limit)
    if before is not None:
        epoch, version = before
        table = revisions.c
        query = query.where(or_(table.epoch < epoch, and_(table.epoch == epoch, table.version < version)))
    return [_revision(row) for row in connection.execute(query)]


def find_by_claim(connection: Connection, claim: IdempotencyClaim) -> tuple[RevisionRecord, bytes] | None:
    """Return the revision that used this owner's idempotency key, and the digest of its request; None if none did."""
    query = select(revisions).where(
        revisions.c.idempotency_owner == claim.owner, revisions.c.idempotency_key == claim.key
    )
    row = connection.execute(query).first()
    return None if row is None else (_revision(row), row.request_digest)


def store_blob(connection: Connection, digest: bytes, data: bytes) -> None:
    """Keep a blob under its digest; one that is there already is left alone."""
    if not connection.scalar(select(exists().where(blobs.c.digest == digest))):
        connection.execute(insert(blobs).values(digest=digest, size=len(data), data=data))


def load_blob(connection: Connection, digest: bytes) -> bytes | None:
    """Return a blob, or None."""
    return connection.scalar(select(blobs.c.data).where(blobs.c.digest == digest))


def _newest_first(scope: str) -> Select[Any]:
    return (
        select(revisions)
        .where(revisions.c.scope == scope)
        .order_by(revisions.c.epoch.desc(), revisions.c.version.desc())
    )


def _revision(row: Row[Any]) -> RevisionRecord:
    return RevisionRecord(
        scope=row.scope,
        epoch=row.epoch,
        version=row.version,
        digest=row.digest,
        envelope=envelope_from_bytes(row.envelope),
        min_version=row.min_version,
        published_at_us=row.published_at_us,
        expires_at=row.expires_at,
        published_by=row.published_by,
        message=row.message,
        policy_count=row.policy_count,
        content_digest=row.content_digest,
        content_size=row.content_size,
    )
