"""Published revisions and their content.

`serial` is the order of publication; within a scope and epoch it is the order of versions too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Row, Select, func, insert, select

from akpolicy.errors import StoreUnavailable
from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from akpolicy_server.store.blobs import load_blob
from akpolicy_server.store.tables import revisions

if TYPE_CHECKING:
    from typing import Any

    from akpolicy.envelope import SignedEnvelope


class RevisionKind(StrEnum):
    """How a revision came about."""

    PUBLISH = "publish"
    RENEWAL = "renewal"
    ROLLBACK = "rollback"
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """A published revision. Times are in epoch seconds, `published_at_us` in epoch microseconds.

    `lifetime_s` is how long it was meant to live; it may end sooner, with the keys that signed it. `published_by` is
    None for what the server did by itself. A rollback has the `original` that it restores. `serial` is 0 until the
    revision is stored.
    """

    scope: str
    epoch: int
    version: int
    kind: RevisionKind
    digest: bytes
    envelope: SignedEnvelope
    min_version: int
    published_at_us: int
    issued_at: int
    expires_at: int
    lifetime_s: int
    published_by: str | None
    message: str
    policy_count: int
    content_digest: bytes
    content_size: int
    original: SignedEnvelope | None = None
    restores_version: int | None = None
    serial: int = 0


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A request's idempotency key, whose it is (an org, "" for the platform), and the digest of the request."""

    owner: str
    key: str
    request_digest: bytes


def insert_revision(connection: Connection, record: RevisionRecord, claim: IdempotencyClaim | None) -> RevisionRecord:
    """Add a revision whose blob is stored; return it with its serial.

    An existing version or a used idempotency key breaks a constraint.
    """
    serial = (connection.scalar(select(func.max(revisions.c.serial))) or 0) + 1
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    values |= {
        "serial": serial,
        "envelope": envelope_to_bytes(record.envelope),
        "original": None if record.original is None else envelope_to_bytes(record.original),
        "idempotency_owner": claim.owner if claim else None,
        "idempotency_key": claim.key if claim else None,
        "request_digest": claim.request_digest if claim else None,
    }
    connection.execute(insert(revisions).values(**values))
    return replace(record, serial=serial)


def current_revision(connection: Connection, scope: str, epoch: int | None = None) -> RevisionRecord | None:
    """Return what is current for a scope, in one epoch if given; None before the first.

    Over all epochs it is what was published last. The same content may since have been signed for a lower epoch, for an
    org that came later: then it is still that of the highest epoch.
    """
    newest = next(iter(list_revisions(connection, scope, epoch=epoch, limit=1)), None)
    if newest is None or epoch is not None:
        return newest
    higher = select(revisions.c.epoch).where(revisions.c.scope == scope, revisions.c.epoch > newest.epoch).distinct()
    for other in connection.scalars(higher.order_by(revisions.c.epoch.desc())).all():
        there = current_revision(connection, scope, other)
        if there is not None and there.content_digest == newest.content_digest:
            return there
    return newest


def find_revision(connection: Connection, scope: str, version: int, epoch: int | None = None) -> RevisionRecord | None:
    """Return a revision by its version, in the newest epoch that has it if none is given; None if there is none."""
    query = _newest_first(scope, epoch).where(revisions.c.version == version).limit(1)
    row = connection.execute(query).first()
    return None if row is None else revision_of(row)


def find_other_content(
    connection: Connection, scope: str, content: bytes, *, before: int, epoch: int | None = None
) -> RevisionRecord | None:
    """Return the newest revision before the serial `before` that has other content; None if there is none."""
    query = _newest_first(scope, epoch).where(revisions.c.serial < before, revisions.c.content_digest != content)
    row = connection.execute(query.limit(1)).first()
    return None if row is None else revision_of(row)


def find_bundle_of(connection: Connection, scope: str, epoch: int, content: bytes) -> RevisionRecord | None:
    """Return the newest revision of an epoch with this content that is no rollback; None if there is none."""
    query = _newest_first(scope, epoch).where(
        revisions.c.content_digest == content, revisions.c.kind != RevisionKind.ROLLBACK
    )
    row = connection.execute(query.limit(1)).first()
    return None if row is None else revision_of(row)


def list_revisions(
    connection: Connection, scope: str, *, limit: int, before: int | None = None, epoch: int | None = None
) -> list[RevisionRecord]:
    """Return up to `limit` revisions, newest first, all before the serial `before` if given."""
    query = _newest_first(scope, epoch).limit(limit)
    if before is not None:
        query = query.where(revisions.c.serial < before)
    return [revision_of(row) for row in connection.execute(query)]


def find_by_claim(connection: Connection, claim: IdempotencyClaim) -> tuple[RevisionRecord, bytes] | None:
    """Return the revision that used this owner's idempotency key, and the digest of its request; None if none did."""
    query = select(revisions).where(
        revisions.c.idempotency_owner == claim.owner, revisions.c.idempotency_key == claim.key
    )
    row = connection.execute(query).first()
    return None if row is None else (revision_of(row), row.request_digest)


def read_content(connection: Connection, revision: RevisionRecord) -> bytes:
    """Return the content of a revision; raise `StoreUnavailable` if the database lacks it."""
    blob = load_blob(connection, revision.content_digest)
    if blob is None:
        raise StoreUnavailable(
            f"the content of `{revision.scope}` version {revision.version} is missing; restore the database from a "
            "backup"
        )
    return blob


def revision_of(row: Row[Any]) -> RevisionRecord:
    """Return a row of `revisions` as a record."""
    return RevisionRecord(
        scope=row.scope,
        epoch=row.epoch,
        version=row.version,
        kind=RevisionKind(row.kind),
        digest=row.digest,
        envelope=envelope_from_bytes(row.envelope),
        min_version=row.min_version,
        published_at_us=row.published_at_us,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        lifetime_s=row.lifetime_s,
        published_by=row.published_by,
        message=row.message,
        policy_count=row.policy_count,
        content_digest=row.content_digest,
        content_size=row.content_size,
        original=None if row.original is None else envelope_from_bytes(row.original),
        restores_version=row.restores_version,
        serial=row.serial,
    )


def _newest_first(scope: str, epoch: int | None) -> Select[Any]:
    query = select(revisions).where(revisions.c.scope == scope).order_by(revisions.c.serial.desc())
    return query if epoch is None else query.where(revisions.c.epoch == epoch)
