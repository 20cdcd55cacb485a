"""The signed roots of orgs. An org without one waits for its first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Row, func, insert, select

from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from akpolicy_server.store.tables import roots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from akpolicy.envelope import SignedEnvelope


@dataclass(frozen=True, slots=True)
class RootRecord:
    """One root of an org; `expires_at` is in epoch seconds."""

    org: str
    version: int
    envelope: SignedEnvelope
    expires_at: int


def insert_root(connection: Connection, record: RootRecord) -> None:
    """Add a root; an existing version breaks a constraint."""
    connection.execute(
        insert(roots).values(
            org=record.org,
            version=record.version,
            digest=record.envelope.digest(),
            envelope=envelope_to_bytes(record.envelope),
            expires_at=record.expires_at,
        )
    )


def roots_after(connection: Connection, org: str, version: int) -> Iterator[RootRecord]:
    """Yield the org's roots that are newer than `version`, oldest first; there may be many."""
    query = select(roots).where(roots.c.org == org, roots.c.version > version).order_by(roots.c.version)
    for row in connection.execute(query):
        yield _root(row)


def newest_root(connection: Connection, org: str) -> RootRecord | None:
    """Return the org's newest root; None while it waits for its first."""
    query = select(roots).where(roots.c.org == org).order_by(roots.c.version.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else _root(row)


def newest_roots(connection: Connection) -> list[RootRecord]:
    """Return the newest root of each org that has one, by org."""
    newest = select(roots.c.org, func.max(roots.c.version).label("version")).group_by(roots.c.org).subquery()
    query = select(roots).join(newest, (roots.c.org == newest.c.org) & (roots.c.version == newest.c.version))
    return [_root(row) for row in connection.execute(query.order_by(roots.c.org))]


def _root(row: Row[Any]) -> RootRecord:
    return RootRecord(row.org, row.version, envelope_from_bytes(row.envelope), row.expires_at)
